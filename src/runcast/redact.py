"""Secrets are replaced before anything reaches the journal.

A key is judged by how it *ends* (`hub_token`, `WANDB_API_KEY`), because in a training's config a word in the middle mostly
means something else (`tokenizer_name`, `max_new_tokens`). Under `token` and its like only texts are hidden: numbers there
are ids and counts. A text is searched for values shaped like known tokens, for URLs, and for assignments
(``--api-key=x``, ``"password": "x"``). It errs on the side of hiding: the user can rename a key, but not call back a
leaked secret.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, unquote

MASK = "***"
SHORTEST = 4
"""Shorter texts are not masked by what they say: they would be found everywhere."""

# -- keys --------------------------------------------------------------------------------------------------------------

# Hidden whatever the value's type, and also at the end of a longer word (`dbpassword`).
_ALWAYS = (
    *("password", "passwords", "passwd", "passphrase", "secret", "secrets", "credential", "credentials"),
    *("authorization", "apikey", "api_key", "access_key", "private_key", "secret_key", "encryption_key", "signing_key"),
)
# Hidden when the value is a text, or has texts in it.
_TEXTS = (
    *("token", "authtoken", "accesstoken", "apitoken", "accesskey", "secretkey", "privatekey"),
    *("auth_tokens", "access_tokens", "api_tokens", "refresh_tokens", "api_keys", "access_keys", "secret_keys"),
    *("account_key", "storage_key", "master_key", "shared_key", "subscription_key", "consumer_key", "license_key"),
    *("ssh_key", "deploy_key", "hmac_key", "session_key"),
    *("auth", "oauth", "bearer", "jwt", "cookie", "cookies", "dsn", "pass", "passcode", "pwd"),
)
# Those that people call just ``<service>_key``, where `sort_key` and `primary_key` are none; and personal access tokens.
_SERVICE_KEY = re.compile(
    r"(?:^|_)(?:anthropic|aws|azure|claude|clearml|cohere|comet|dagshub|databricks|datadog|deepseek|discord|elevenlabs|"
    r"fireworks|gcp|gemini|gh|github|gitlab|google|groq|hf|hugging_?face|jina|kaggle|langfuse|langsmith|mistral|mlflow|"
    r"neptune|ngc|nvidia|open_?ai|open_?router|perplexity|pinecone|qdrant|replicate|roboflow|runpod|sendgrid|serpapi|"
    r"serper|slack|stripe|swanlab|tavily|telegram|twilio|voyage|wandb|weaviate|xai)_(?:key|pat)$"
)
# A special token of a tokenizer ends in "token" and is a text, yet is no secret.
_SPECIAL_TOKEN = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|sot|eot|boi|eoi|image|audio|video|vision|start|end|begin|special|prefix|"
    r"suffix|middle|extra|forced|additional|stop|placeholder|initializer|blank|newline|separator|delimiter|language)_token$"
)
_NO_SECRET = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\{.*\}|\|.*\||\W*", re.DOTALL)  # ``<pad>``, ``[MASK]``, ``|``
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")

_Hides = Literal["all", "texts"]


@functools.lru_cache(maxsize=8192)
def _hides(key: str) -> _Hides | None:
    """What is hidden under this key."""
    name = "_".join(word.lower() for word in _WORD.split(key) if word).rstrip("0123456789").rstrip("_")
    if name.endswith(_ALWAYS):
        return "all"
    if _SPECIAL_TOKEN.search(name):
        return None
    return "texts" if f"_{name}".endswith(_UNDERLINED) or _SERVICE_KEY.search(name) else None


_UNDERLINED = tuple(f"_{word}" for word in _TEXTS)


def is_secret(key: str, value: Any) -> bool:
    """Whether the value under this key has to be hidden as a whole."""
    if value is None or isinstance(value, bool) or (isinstance(value, str | list | Mapping) and not value):
        return False
    if isinstance(value, int | float) and abs(value) < 1000:  # a label's number, a count
        return False
    hides = _hides(key)
    if hides != "texts":
        return hides == "all"
    if not isinstance(value, str) or _NO_SECRET.fullmatch(value):
        return False
    return not (key.upper() == "PWD" and value.startswith("/"))  # the working directory, in every environment


def _is_secret_word(key: str, word: str) -> bool:
    """`is_secret` for what stands behind a key in a text, where numbers, None and the like are words too."""
    literal = _LITERAL.fullmatch(word)
    if literal and not (literal["count"] and _hides(key) == "all"):
        return False
    return is_secret(key, word.strip("\\\"'"))


# -- texts -------------------------------------------------------------------------------------------------------------

_SHAPES = re.compile(
    r"""
    (?<![A-Za-z0-9])(?:
        (?:hf|api_org|gsk|r8|npm|pcsk|lsv2_pt|lsv2_sk|dop_v1|dckr_pat|lin_api|ntn|whsec)_[A-Za-z0-9_]{20,}
      | [sr]k_(?:live|test)_[A-Za-z0-9]{10,}        # Stripe
      | (?:sk|xai|pplx|nvapi|tvly|glpat|gldt|glrt|pypi|GOCSPX)-[A-Za-z0-9_-]{20,}    # OpenAI, Anthropic, GitLab, ...
      | gh[pousr]_[A-Za-z0-9]{30,}                  # GitHub
      | github_pat_[A-Za-z0-9_]{40,}
      | xox[abeprs]-[A-Za-z0-9-]{10,}               # Slack
      | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])    # AWS
      | AIza[A-Za-z0-9_-]{35}                       # Google
      | ya29\.[A-Za-z0-9_-]{20,}
      | wandb_v\d+_[A-Za-z0-9_-]{20,}               # Weights & Biases
      | local-[0-9a-f]{40}(?![A-Za-z0-9])
      | dapi[a-f0-9]{32}(?![A-Za-z0-9])             # Databricks
      | hvs\.[A-Za-z0-9_-]{20,}                     # Vault
      | SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}  # SendGrid
      | \d{8,10}:AA[A-Za-z0-9_-]{33}                # Telegram
      | eyJ[A-Za-z0-9_-]{10,2000}+\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*    # a JSON web token
      | eyJhcGlf[A-Za-z0-9+/=_-]{20,}               # Neptune: JSON that begins with "api_
    )
    | (?<=Bearer\ )[A-Za-z0-9._~+/=-]{8,} | (?<=bearer\ )(?=[A-Za-z._~+/=-]*\d)[A-Za-z0-9._~+/=-]{8,}
    | (?:(?<=hooks\.slack\.com/services/)|(?<=hooks\.slack\.com/workflows/)|(?<=hooks\.slack\.com/triggers/))[A-Za-z0-9/]+
    | (?<=/webhooks/)\d{6,}/[A-Za-z0-9_-]+          # Discord
    | (?<=/IncomingWebhook/)[A-Za-z0-9/_-]+         # Teams
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z\ ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE,
)

_URL = re.compile(r"(?<![\w+.-])(?P<scheme>[\w+.-]++://)(?P<rest>[^\s\"'<>`]+)")
# Up to the last @ of the authority; or, as people forget to quote them, of a password with a slash in it.
_USERINFO = re.compile(r"[^/?#]*@|[^/?#:@\[]*:(?!\d+(?:[/?#]|$))[^@]*@")
_PARAMETER = re.compile(r"(?<=[?&#;])(?P<name>[^=&#;?]+)=(?P<value>[^&#;]+)")
_SIGNATURE = re.compile(r"(?:.*[-_])?(?:sig|signature|key)", re.IGNORECASE)

# A key, where a run of its characters begins; then what makes the next word its value.
_KEY = re.compile(
    r"""(?<![\w.-])(?:
        (?P<flag>-[\w.-]++)[ \t]+
      | (?P<key>[\w.-]++) (?:\\*["'])?\]? [ \t]*(?:=>|:=|[=:])[ \t]*
    )""",
    re.VERBOSE,
)
_REST = r"""[^\s"'&;,)\]}]"""
_QUOTED = rf"""(?:
    (?:"(?:[^"\\\n]|\\.)*+"(?:\\"|{_REST})*+)++
  | (?:'(?:[^'\\\n]|\\.)*+'(?:\\'|{_REST})*+)++
  | (?P<quote>\\+["']).*?(?<!\\)(?P=quote){_REST}*
)"""
_WORD_OF_VALUE = rf"""(?:
    (?:[bfru]{{1,2}}|[\w.]*[(\[{{])?{_QUOTED}
  | \*{{3}}(?=[\#,)\]}}])  # already hidden
  | (?!\\*["'])[^\s"'&;]+
  | \\*["'][^\n]*  # that nothing ends
)"""
_VALUE = re.compile(
    rf"""(?:(?:Basic|Bearer|Digest|Negotiate|Token|ApiKey)[ \t]+)?{_WORD_OF_VALUE}
    (?:[ \t]*=[ \t]*{_WORD_OF_VALUE.replace("quote", "quote2")})*  # password: str = "x"
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FLAG = re.compile(r"-[\w.+-]+")
_OPTION = re.compile(r"--|-\w$")
# Of curl, that takes user:password; docker's -u, say, takes user:group.
_LOGIN = re.compile(r"-u|-U|--user|--proxy-user")
_USER_AND_PASSWORD = re.compile(r"[\"']?[^\s:]+:(?![\"']?$).+", re.DOTALL)
_COMMAND = 1000
"""Characters before an option, in which its command is looked for."""
_LITERAL = re.compile(
    r"(?:none|null|true|false|-?\d{1,3}|(?P<count>-?\d{4,5}|-?\d+\.\d*)|\[|\(|\{)[\])},.]*", re.IGNORECASE
)
_NAMES = ("name", "key", "parameter", "param", "variable", "setting", "option", "argument", "header", "field")
_WHOLE = re.compile(r"(?P<head>(?P<key>-{0,2}[\w.+-]+)=>?)(?P<value>.+)", re.DOTALL)


class _Eraser:
    """Replaces secrets, and remembers what they were."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def hide(self, secret: str) -> str:
        self.found.add(secret)
        return MASK

    def text(self, text: str) -> str:
        text = _SHAPES.sub(lambda match: self.hide(match[0]), text)
        return _URL.sub(self._url, text) if "://" in text else text

    def _url(self, match: re.Match[str]) -> str:
        rest = match["rest"]
        while userinfo := _USERINFO.match(rest):
            self.found.add(userinfo[0][:-1])
            rest = rest[userinfo.end() :]
        return match["scheme"] + _PARAMETER.sub(self._parameter, rest)

    def _parameter(self, match: re.Match[str]) -> str:
        name, value = unquote(match["name"]), match["value"]
        secret = is_secret(name, value) or _SIGNATURE.fullmatch(name)
        return f"{match['name']}={self.hide(value) if secret else value}"

    def argument(self, text: str) -> str:
        """`text`, and also the values of assignments and options in it."""
        text = self.text(text)
        whole = _WHOLE.fullmatch(text)
        if whole and _is_secret_word(whole["key"], whole["value"]) and re.fullmatch(r"(?!\*\*\*)\S+", whole["value"]):
            return whole["head"] + self.hide(whole["value"])
        parts, position = [], 0
        for head in _KEY.finditer(text):
            key = head["flag"] or head["key"]
            if head.start() < position:
                continue
            login = _LOGIN.fullmatch(key) and "curl" in text[max(0, head.start() - _COMMAND) : head.start()]
            if not (login or _hides(key)):
                continue
            value = _VALUE.match(text, head.end())
            if value is None or (head["flag"] and _OPTION.match(value[0])):
                continue
            if not (_USER_AND_PASSWORD.fullmatch(value[0]) if login else _is_secret_word(key, value[0])):
                continue
            parts += [text[position : head.end()], self.hide(value[0])]
            position = value.end()
        return "".join([*parts, text[position:]])

    def value(self, value: Any, key: str = "") -> Any:
        """Plain data under a key."""
        if is_secret(key, value):
            self.found.update(_leaves(value))
            return MASK
        if isinstance(value, Mapping):
            return self._mapping(value, key)
        if isinstance(value, list):
            return self._list(value, key)
        return self.argument(value) if isinstance(value, str) else value

    def _mapping(self, value: Mapping[str, Any], key: str) -> dict[str, Any]:
        under = key if _hides(key) else ""  # ``auth: {user: x, value: y}``
        secret_name = _secret_name(value, value.values())  # {"name": "API_KEY", "value": "x"}
        clean = {}
        for name, item in value.items():
            its_key = name if _hides(name) else secret_name if secret_name and _is_value(name) else under or name
            clean[self.text(name)] = self.value(item, its_key)
        return clean

    def _pair(self, pair: list[Any], key: str) -> list[Any]:
        """One of a list of pairs, as headers are given."""
        name, item = pair
        return [self.value(name, key), self.value(item, name)] if _hides(name) else self._list(pair, key)

    def _list(self, values: Sequence[Any], key: str) -> list[Any]:
        """A list; in an argument list what follows ``--hub-token`` is its value."""
        if all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in values):
            return [self._pair(item, key) for item in values]
        curl = any(isinstance(item, str) and item.endswith("curl") for item in values)
        clean: list[Any] = []
        flag = ""
        for item in values:
            if isinstance(item, str):
                whole = _WHOLE.fullmatch(item)
                if flag and not _OPTION.match(item):
                    login = not _hides(flag) and _USER_AND_PASSWORD.fullmatch(item)
                    clean.append(self.hide(item) if login else self.value(item, flag))
                elif whole and _is_secret_word(whole["key"], whole["value"]):
                    clean.append(whole["head"] + self.hide(whole["value"]))
                else:
                    clean.append(self.value(item, key))
                takes_secret = _hides(item) or (curl and _LOGIN.fullmatch(item))
                flag = item if takes_secret and _FLAG.fullmatch(item) else ""
            else:
                clean.append(self.value(item, flag or key))
                flag = ""
        return clean


def redact_text(text: str) -> str:
    """The text without values shaped like known tokens, and without userinfo and secret parameters in URLs."""
    return _Eraser().text(text)


def redact_argument(text: str) -> str:
    """`redact_text`, and also the value of ``--hub-token=x``, ``API_KEY=x``, ``"password": "x"`` and the like."""
    return _Eraser().argument(text)


def redact(value: Any, key: str = "") -> Any:
    """Plain data without its secrets.

    Args:
        value: What `events.plain` gives.
        key: The key it stands under.
    """
    return _Eraser().value(value, key)


def redact_row(columns: Sequence[str], row: Sequence[Any]) -> list[Any]:
    """A table's row of plain cells without its secrets; a column's name is the key of its cells."""
    secret_name = _secret_name(columns, row)
    keys = [secret_name if secret_name and _is_value(name) else name for name in columns]
    return [redact(cell, key) for key, cell in zip(keys, row, strict=True)]


def _secret_name(columns: Iterable[str], cells: Iterable[Any]) -> str | None:
    """Of what has a name and a value in different places, the name, if it is a secret's."""
    named = next((cell for column, cell in zip(columns, cells, strict=True) if column.strip().lower() in _NAMES), None)
    return named if isinstance(named, str) and _hides(named) else None


def _is_value(column: str) -> bool:
    return column.strip().lower() in ("value", "val")


# -- known secrets -----------------------------------------------------------------------------------------------------


def secrets_in(value: Any, key: str = "") -> list[str]:
    """The texts that `redact` takes out of plain data, in every spelling they are likely to come back in.

    Returns:
        The longest first; those that are shorter than `SHORTEST` are left out.
    """
    eraser = _Eraser()
    eraser.value(value, key)
    spellings = {spelling for text in eraser.found for spelling in _spellings(text)}
    return sorted((text for text in spellings if len(text) >= SHORTEST), key=lambda text: (-len(text), text))


def secrets_of_environment() -> list[str]:
    """Those of the environment, from where most keys come; short ones, such as ``true``, are none."""
    return [text for text in secrets_in(dict(os.environ)) if len(text) >= 2 * SHORTEST]


def masked(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets, wherever they stand, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return redact_text(text)


def _leaves(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return {leaf for item in value.values() for leaf in _leaves(item)}
    if isinstance(value, list):
        return {leaf for item in value for leaf in _leaves(item)}
    return {str(value)}


def _spellings(text: str) -> set[str]:
    """A secret as it is; its parts, if it is a user's name and password; quoted for URLs, JSON and lines."""
    text = text.strip("\"'")
    parts = {text, *text.splitlines(), text.rpartition(" ")[2]}
    if ":" in text:
        parts |= {text.partition(":")[2], base64.b64encode(unquote(text).encode()).decode()}
    return {
        spelling
        for part in parts
        for spelling in (part, unquote(part), quote(part, safe=""), json.dumps(part)[1:-1], repr(part)[1:-1])
    }
