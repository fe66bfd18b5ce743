"""Secrets are replaced before anything reaches the journal.

A key is judged by how it *ends* (`hub_token`, `api_key`), because in a training's config a word in the middle mostly
means something else (`tokenizer_name`, `max_new_tokens`). Under `token` and `key` only strings are hidden: numbers
there are ids and counts. It errs on the side of hiding: the user can rename a key, but not call back a leaked secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# Hidden whatever the value's type.
_ALWAYS = ("password", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization")
# Hidden when the value is a text.
_TEXTS = ("token", "apikey", "api_key", "access_key", "private_key", "secret_key", "auth", "bearer", "cookie", "dsn")
# A special token of a tokenizer ends in "token" and is a text, yet is no secret.
_SPECIAL_TOKEN = re.compile(
    r"(?:^|_)(?:bos|eos|pad|unk|sep|cls|mask|sot|eot|image|audio|video|boi|eoi|start|end|begin|special|prefix|suffix|"
    r"middle|extra|forced|additional|decoder_start|stop)_token$"
)
_WORD = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")

_VALUE = re.compile(
    r"""
      \bhf_[A-Za-z0-9]{20,}                        # Hugging Face
    | \bsk-[A-Za-z0-9_-]{20,}                      # OpenAI, Anthropic
    | \bgh[pousr]_[A-Za-z0-9]{30,}                 # GitHub
    | \bgithub_pat_[A-Za-z0-9_]{40,}
    | \bglpat-[A-Za-z0-9_-]{20,}                   # GitLab
    | \bxox[abeprs]-[A-Za-z0-9-]{10,}              # Slack
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                # AWS
    | \bAIza[A-Za-z0-9_-]{35}                      # Google
    | \bwandb_v\d+_[A-Za-z0-9_-]{20,}              # Weights & Biases
    | \bdapi[a-f0-9]{32}\b                         # Databricks
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*   # a JSON web token
    | (?<=[Bb]earer\ )[A-Za-z0-9._~+/=-]{8,}
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z\ ]*PRIVATE\ KEY-----|\Z)
    """,
    re.VERBOSE,
)
_USERINFO = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/@?#]+@")
_ASSIGNMENT = re.compile(r"(?P<head>(?:--?|\b)(?P<key>[A-Za-z][\w-]*)[=:]\s?)(?P<value>[^\s,;&'\"]+)")


def is_secret(key: str, value: Any) -> bool:
    """Whether the value under this key has to be hidden."""
    words = [word.lower() for word in _WORD.split(key) if word]
    name = "_".join(words)
    if value is None or value == "" or isinstance(value, bool):
        return False
    if any(name == word or name.endswith(f"_{word}") for word in _ALWAYS):
        return True
    if not isinstance(value, str) or _SPECIAL_TOKEN.search(name):
        return False
    return any(name == word or name.endswith(f"_{word}") for word in _TEXTS)


def redact_text(text: str) -> str:
    """The text without values shaped like known tokens, and without userinfo in URLs."""
    return _USERINFO.sub(r"\1", _VALUE.sub(MASK, text))


def redact_argument(text: str) -> str:
    """`redact_text`, and also the value of ``--hub-token=x`` or ``API_KEY=x``."""

    def hide(match: re.Match[str]) -> str:
        return match["head"] + (MASK if is_secret(match["key"], match["value"]) else match["value"])

    return _ASSIGNMENT.sub(hide, redact_text(text))


def redact(value: Any, key: str = "") -> Any:
    """Plain data without its secrets.

    Args:
        value: What `events.plain` gives.
        key: The key it stands under.
    """
    if isinstance(value, Mapping):
        return {redact_text(name): redact(item, name) for name, item in value.items()}
    if is_secret(key, value):
        return MASK
    if isinstance(value, list):
        return _redact_list(value, key)
    return redact_argument(value) if isinstance(value, str) else value


def _redact_list(values: list[Any], key: str) -> list[Any]:
    """A list; in an argument list what follows ``--hub-token`` is its value."""
    hidden = []
    for before, item in zip([None, *values], values, strict=False):
        flag = before if isinstance(before, str) and before.startswith("-") else ""
        follows_flag = flag and isinstance(item, str) and not item.startswith("-")
        hidden.append(redact(item, flag if follows_flag and "=" not in flag else key))
    return hidden
