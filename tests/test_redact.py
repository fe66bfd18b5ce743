"""Secrets, and what only looks like one."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runcast import events
from runcast.events import plain
from runcast.redact import (
    MASK,
    is_secret,
    masked,
    redact,
    redact_argument,
    redact_row,
    redact_text,
    secrets_in,
)

SECRET = "correct-horse"

# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "hub_token", "HF_TOKEN", "HFToken", "api_key", "WANDB_API_KEY", "apiKey", "APIKey", "password", "db.password",
        "dbpassword", "AWS_SECRET_ACCESS_KEY", "AWSSecretKey", "client_secret", "Authorization", "push_to_hub_token", "token",
        "X-Auth", "private-key", "MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "CLEARML_API_SECRET_KEY", "COMET_API_KEY",
        "api_key_2", "password1", "AccountKey", "MYSQL_PWD", "smtp_pass", "sessionCookie", "SENTRY_DSN", "credentials",
        "wandb_key", "WANDB_KEY", "kaggle_key", "hf_key", "openai_key", "OpenAIKey", "github_pat", "GH_PAT", "my.azure-key",
    ],
)  # fmt: skip
def test_secret_keys_are_hidden(key):
    """A key that ends in a secret's name hides its value, at any depth."""
    assert redact({"a": [{key: SECRET}]}) == {"a": [{key: MASK}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_name", "bert"), ("max_new_tokens", 7), ("pad_token_id", 0), ("pad_token", "[PAD]"), ("eos_token", "</s>"),
        ("author", "me"), ("key", 3), ("num_key_value_heads", 4), ("token", 17), ("hub_token", None), ("use_auth_token", False),
        ("keyword", "x"), ("decoder_start_token", "<s>"), ("additional_special_tokens", ["<a>"]), ("secretary", "Ann"),
        ("thinking_token", "<think>"), ("word_delimiter_token", "|"), ("eosToken", "end"), ("sort_key", "date"), ("PWD", "/home/me"),
        ("num_experts_per_token", 8), ("samples_per_token", 1280), ("label2id", {"B-secret": 29, "B-password": 30}),
        ("eos_token", {"content": "</s>", "lstrip": False}), ("token", ""), ("secrets", []), ("credentials", {}),
        ("bypass", "yes"), ("metric_key_prefix", "eval"), ("label_names", ["token", "label"]), ("monkey", "x"),
        ("key", "x"), ("primary_key", "id"), ("keypoints", "nose"), ("pat", "*.py"), ("file_pat", "*.py"), ("s3_key", "a/b.bin"),
        ("cache_key", "0123abcd"), ("multi_modal_key", "image"), ("wandb", "x"), ("hf_keys_to_ignore", "x"), ("github_path", "x"),
        ("openai_key", None), ("columns", [["key", "x"], ["sort_key", "y"]]),
    ],
)  # fmt: skip
def test_settings_that_only_sound_like_secrets_stay(key, value):
    """Tokenizer settings, ids, counts, labels and empty values are no secrets, neither as data nor in a text."""
    assert redact({key: value}) == {key: value}
    if value != "/home/me":
        assert redact_argument(repr({key: value})) == repr({key: value})


def test_everything_below_a_secret_key_is_hidden():
    """A secret may be a dict or a list; below `auth` and its like, numbers stay."""
    assert redact({"credentials": {"user": "me", "value": SECRET}, "passwords": [SECRET, 1234]}) == {
        "credentials": MASK,
        "passwords": MASK,
    }
    assert redact({"auth": {"user": "me", "retries": 3, "more": [{"value": SECRET}]}}) == {
        "auth": {"user": MASK, "retries": 3, "more": [{"value": MASK}]}
    }
    assert redact({"api_key": [SECRET], "token": {"pad": "[PAD]", "hub": SECRET}}) == {
        "api_key": MASK,
        "token": {"pad": "[PAD]", "hub": MASK},
    }


def test_names_and_values_apart_are_seen_together():
    """A list of environment variables, as containers have it, and the row of a table."""
    env = [{"name": "WANDB_API_KEY", "value": SECRET}, {"name": "LR", "value": "0.1"}]
    assert redact({"env": env}) == {"env": [{"name": "WANDB_API_KEY", "value": MASK}, {"name": "LR", "value": "0.1"}]}
    assert redact_row(["name", "value"], ["WANDB_API_KEY", SECRET]) == ["WANDB_API_KEY", MASK]
    assert redact_row(["epoch", "password"], [3, SECRET]) == [3, MASK]
    assert redact_row(["name", "value"], ["loss", 0.5]) == ["loss", 0.5]
    assert redact_row(["key", "val"], ["api_key", SECRET]) == ["api_key", MASK]
    assert redact_row(["Parameter", "Value"], ["hub_token", SECRET]) == ["hub_token", MASK]
    assert redact_row(["parameter", "value"], ["sort_key", "date"]) == ["sort_key", "date"]
    assert redact([{"variable": "HF_TOKEN", "val": SECRET}]) == [{"variable": "HF_TOKEN", "val": MASK}]


def test_pairs_are_names_and_values():
    """Headers, as HTTP clients take them, and what `dict.items` gives."""
    headers = [("Authorization", f"Basic {SECRET}"), ("X-Api-Key", SECRET), ("Accept", "text/html")]
    assert redact(plain({"headers": headers})) == {
        "headers": [["Authorization", MASK], ["X-Api-Key", MASK], ["Accept", "text/html"]]
    }
    assert redact([["hub_token", [SECRET]], ["lr", 0.1], ["pad_token", "[PAD]"], ["args", ["--token", SECRET]]]) == [
        ["hub_token", [MASK]],
        ["lr", 0.1],
        ["pad_token", "[PAD]"],
        ["args", ["--token", MASK]],
    ]


def test_mask_tells_nothing_of_the_length():
    """Short and long secrets look the same."""
    assert redact({"password": "x"}) == redact({"password": "x" * 99})


def test_numbers_under_a_password_are_hidden():
    """A PIN is a secret too."""
    assert is_secret("password", 1234)
    assert redact(["--password", 1234]) == ["--password", MASK]


# -- texts -------------------------------------------------------------------------------------------------------------

TOKENS = [
    "hf_abcdefghijklmnopqrstuvwxyz0123", "sk-proj-abcdefghijklmnopqrstuvwx", "ghp_" + "a1" * 18, "glpat-abcdefghij0123456789",
    "xoxb-1234567890-abcdef", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def", "gsk_" + "aB3" * 12,
    "AIza" + "Sy-_9" * 7, "wandb_v1_" + "abcde" * 6, "dapi" + "0123456789abcdef" * 2, "github_pat_" + "a1_" * 20,
    "sk_live_" + "a1B2" * 6, "nvapi-" + "aB-3" * 15, "eyJhcGlfYWRkcmVzcyI6Imh0dHBzOi8vYXBwLm5lcHR1bmUuYWkifQ==",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_values_shaped_like_tokens_are_hidden_anywhere(token):
    """A known token is hidden under any key, in any text, and as a key."""
    assert token not in str(redact({"note": f"I used {token}, sorry", "list": [token], token: 1}))
    assert redact_text(f"a {token} b") == f"a {MASK} b"
    assert redact_text(f"my_{token}") == f"my_{MASK}"


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("see https://me:pw@host.example:80/path?q=1#x", "see https://host.example:80/path?q=1#x"),
        ("postgresql+psycopg://u:p@h/db and mail a@b.c", "postgresql+psycopg://h/db and mail a@b.c"),
        ("DATABASE_URL=postgres://u:p%40ss@h:5432/db", "DATABASE_URL=postgres://h:5432/db"),
        ("postgres://u:p@ss@h/db", "postgres://h/db"),
        ("postgres://u:pa/ss?x@h/db", "postgres://h/db"),
        ("redis://:pw@h", "redis://h"),
        ("https://host:8080/@user/x@y", "https://host:8080/@user/x@y"),
        ("http://[::1]:5000/x@y", "http://[::1]:5000/x@y"),
        ("file:///home/me/x@y", "file:///home/me/x@y"),
        ("git+ssh://git@h/r.git@v1", "git+ssh://h/r.git@v1"),
        ("https://h/p?token=abc&lr=1&api_key=def#access_token=ghi", f"https://h/p?token={MASK}&lr=1&api_key={MASK}#access_token={MASK}"),
        ("https://h/o?X-Amz-Signature=ab12&X-Amz-Date=2026", f"https://h/o?X-Amz-Signature={MASK}&X-Amz-Date=2026"),
        ("https://h/o?X-Amz-Security-Token=ab%2F12&n=1", f"https://h/o?X-Amz-Security-Token={MASK}&n=1"),
        ("https://h/b?sv=2024-01-01&sig=ab%3D&se=2027", f"https://h/b?sv=2024-01-01&sig={MASK}&se=2027"),
        ("https://hooks.slack.com/services/T0/B0/abc123", f"https://hooks.slack.com/services/{MASK}"),
        ("https://hooks.slack.com/workflows/T0/A0/1/abc123", f"https://hooks.slack.com/workflows/{MASK}"),
        ("https://discord.com/api/webhooks/1234567890/aB-c_1 x", f"https://discord.com/api/webhooks/{MASK} x"),
        ("https://ptb.discordapp.com/api/v10/webhooks/1234567890/aB-c_1", f"https://ptb.discordapp.com/api/v10/webhooks/{MASK}"),
        ("https://x.webhook.office.com/webhookb2/g/IncomingWebhook/ab12/c-d", f"https://x.webhook.office.com/webhookb2/g/IncomingWebhook/{MASK}"),
        ("https://h/docs/webhooks/v2/create", "https://h/docs/webhooks/v2/create"),
        ("https://h/?page_token_id=3&max_tokens=5&sigma=1", "https://h/?page_token_id=3&max_tokens=5&sigma=1"),
    ],
)  # fmt: skip
def test_urls_lose_userinfo_and_secret_parameters(url, clean):
    """User, password, token and signature leave a URL, the rest stays."""
    assert redact_argument(url) == clean
    assert redact({"url": url}) == {"url": clean}


def test_argument_lists_are_covered():
    """A secret flag hides what follows it, joined or apart, whatever is in it."""
    assert redact(["train.py", "--hub-token", SECRET, "--lr", "1"]) == ["train.py", "--hub-token", MASK, "--lr", "1"]
    assert redact(["--hub_token=" + SECRET, "WANDB_API_KEY=" + SECRET]) == [
        f"--hub_token={MASK}",
        f"WANDB_API_KEY={MASK}",
    ]
    assert redact(["--api-key=a b,'c&d;e", "--password", "-x y", "trainer.hub_token=a'b"]) == [
        f"--api-key={MASK}",
        "--password",
        MASK,
        f"trainer.hub_token={MASK}",
    ]
    assert redact(["--wandb-key", SECRET]) == ["--wandb-key", MASK]
    assert redact(["/usr/bin/curl", "-u", f"bob:{SECRET}", "h"]) == ["/usr/bin/curl", "-u", MASK, "h"]
    assert redact(["docker", "run", "-u", "bob:staff"]) == ["docker", "run", "-u", "bob:staff"]
    assert redact(redact([f"--hub-token {SECRET}", "--lr 1", "x"])) == [f"--hub-token {MASK}", "--lr 1", "x"]
    assert redact(["--use-auth-token", "--lr", "1", "--token", "-v"]) == [
        "--use-auth-token",
        "--lr",
        "1",
        "--token",
        "-v",
    ]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"run with API_KEY={SECRET} lr=0.1", f"run with API_KEY={MASK} lr=0.1"),
        (f"train.py --hub-token {SECRET} --lr 1", f"train.py --hub-token {MASK} --lr 1"),
        (f"train.py --hub-token '{SECRET} x' --lr 1", f"train.py --hub-token {MASK} --lr 1"),
        (f"env: WANDB_API_KEY={SECRET}", f"env: WANDB_API_KEY={MASK}"),
        (f"export API_KEY='{SECRET} or so' && train", f"export API_KEY={MASK} && train"),
        (f"{{'api_key': '{SECRET}', 'lr': 1}}", f"{{'api_key': {MASK}, 'lr': 1}}"),
        (f'{{"api_key":"{SECRET}","lr":1}}', f'{{"api_key":{MASK},"lr":1}}'),
        (f'"{{\\"api_key\\": \\"{SECRET}\\"}}"', f'"{{\\"api_key\\": {MASK}}}"'),
        (f"Config(hub_token='{SECRET}', lr=0.1)", f"Config(hub_token={MASK}, lr=0.1)"),
        (f'api_key = "{SECRET}"', f"api_key = {MASK}"),
        (f'password: str = "{SECRET}"', f"password: {MASK}"),
        (f"password=b'{SECRET}'", f"password={MASK}"),
        (f"C(password=SecretStr('{SECRET}'), lr=1)", f"C(password={MASK}), lr=1)"),
        (f"password='it\\'s {SECRET}'", f"password={MASK}"),
        (f"password='{SECRET} cut off", f"password={MASK}"),
        (f"os.environ['WANDB_API_KEY'] = '{SECRET}'", f"os.environ['WANDB_API_KEY'] = {MASK}"),
        (f"curl -H 'Authorization: Token {SECRET}' h", f"curl -H 'Authorization: {MASK}' h"),
        (f"curl -s -u bob:{SECRET} https://h", f"curl -s -u {MASK} https://h"),
        (f"curl --user 'bob:{SECRET} x' h", f"curl --user {MASK} h"),
        ("curl -u bob h; docker run -v a:b", "curl -u bob h; docker run -v a:b"),
        ("docker run -u bob:staff; python -u x:y", "docker run -u bob:staff; python -u x:y"),
        (f"train.py --wandb-key {SECRET} --sort-key date", f"train.py --wandb-key {MASK} --sort-key date"),
        (f"Authorization: Basic {SECRET}", f"Authorization: {MASK}"),
        (f"AccountName=a;AccountKey={SECRET}==;Suffix=b", f"AccountName=a;AccountKey={MASK};Suffix=b"),
        ("--token --lr 1, eos_token='</s>', pad_token: [PAD]", "--token --lr 1, eos_token='</s>', pad_token: [PAD]"),
        ("tokens_per_second: 17, samples_per_token=8, token=None", "tokens_per_second: 17, samples_per_token=8, token=None"),
        ("I forgot my password. The tokenizer: BPE", "I forgot my password. The tokenizer: BPE"),
    ],
)  # fmt: skip
def test_assignments_in_texts_are_covered(text, clean):
    """Command lines, JSON, reprs, headers and code lose the values of secrets, and nothing else."""
    assert redact_argument(text) == clean


@pytest.mark.parametrize(
    "text",
    ["a.b-" * 250_000, "a:" * 500_000, "-eyJaaaaaaaaaaaa" * 60_000, "x://a:b/" * 120_000, "a=b&" * 250_000, "-u a " * 250_000, "curl -u a " * 100_000, "'a\\\"" * 200_000],
)  # fmt: skip
def test_a_megabyte_of_anything_is_searched_once(text):
    """A long text without secrets comes back as it is; nothing in it makes the search start over and over."""
    assert redact_argument(text) == text


# -- what configs are made of ------------------------------------------------------------------------------------------


@dataclass
class Hub:
    hub_token: str
    repos: list[str] = field(default_factory=list)


class Connection(msgspec.Struct):
    url: str
    api_key: str


def test_every_kind_of_config_is_covered():
    """Dicts in lists in dataclasses in namespaces, structs, paths, sets: what holds a secret is hidden, the rest stays."""
    config = argparse.Namespace(
        hub=Hub(SECRET, ["a", "b"]),
        connections=[Connection(f"https://me:{SECRET}@h/", SECRET)],
        nested=({"deep": [{"password": SECRET, "layers": 6}]},),
        command=["--api-key", SECRET],
        output=Path("/tmp/x"),
        tags={"a"},
        lr=0.1,
    )
    assert redact(plain(config)) == {
        "hub": {"hub_token": MASK, "repos": ["a", "b"]},
        "connections": [{"url": "https://h/", "api_key": MASK}],
        "nested": [{"deep": [{"password": MASK, "layers": 6}]}],
        "command": ["--api-key", MASK],
        "output": "/tmp/x",
        "tags": ["a"],
        "lr": 0.1,
    }


def test_object_that_shows_its_secret_is_covered():
    """What is only known by its text is searched as a text."""

    class Client:
        def __repr__(self):
            return f"Client(url='https://me:{SECRET}@h', api_key='{SECRET}')"

    assert redact(plain({"client": Client()})) == {"client": f"Client(url='https://h', api_key={MASK})"}


# -- properties --------------------------------------------------------------------------------------------------------

_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_DATA = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_RANDOM = st.text(_LETTERS, min_size=36, max_size=50)
_TOKENS = st.builds(str.__add__, st.sampled_from(["hf_", "sk-", "ghp_", "npm_", "gsk_"]), _RANDOM)


@st.composite
def _planted(draw: st.DrawFn) -> tuple[str, Any]:
    """A token, and data that has it somewhere."""
    token = draw(_TOKENS)
    data: Any = draw(
        st.sampled_from([token, f"see {token}.", [token], {token: 1}, {"a": token}, ["--x", token], f"x={token}"])
    )
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            data = [*draw(st.lists(_DATA, max_size=2)), data, *draw(st.lists(_DATA, max_size=2))]
        else:
            data = {**draw(st.dictionaries(st.text(max_size=8), _DATA, max_size=2)), draw(st.text(max_size=8)): data}
    return token, data


@given(_planted())
def test_planted_token_never_reaches_the_journal(planted):
    """Wherever in nested data a token stands, the encoded event doesn't have it."""
    token, data = planted
    assert token.encode() not in events.encode(events.ConfigUpdated(time=0.0, config=redact(plain({"data": data}))))


_MARK = "S3cr3t"
_MARKED = st.builds(lambda before, after: f"{before}{_MARK}{after}", st.text(max_size=10), st.text(max_size=10)).filter(
    lambda text: text[0] not in "<[{|"  # a tokenizer's token
)
_KEYS = st.sampled_from(["hub_token", "API_KEY", "db.password", "client-secret", "apiKey"])


@given(_MARKED, _KEYS, st.lists(st.text(max_size=5), max_size=4))
def test_value_of_a_secret_key_never_survives(secret, key, path):
    """Any text under a secret key is hidden, however deep, also after its flag and in its assignment."""
    data: Any = {key: secret, "list": [{key: [secret]}], "args": [f"--{key}", f"x{secret}", f"{key}={secret}"]}
    for name in path:
        data = {name: [data]}
    assert _MARK not in str(redact(data))


@given(_MARKED, _KEYS)
def test_value_of_a_secret_key_never_survives_in_a_text(secret, key):
    """Nor in JSON, JSON within JSON, and reprs."""
    shapes = [
        json.dumps({key: secret, "b": 1}),
        json.dumps([json.dumps({key: secret})]),
        repr({key: secret, "b": 1}),
        repr(make_dataclass("Config", ["lr", "hub_token"])(0.1, secret)),
    ]
    assert all(_MARK not in redact_argument(shape) for shape in shapes)


_PIECES = st.sampled_from(
    ["password", "token", "api_key", "--hub-token", "sig", "key", "=", ":", "=>", " ", "'", '"', "\\", '\\"', "://", "@", "/"]
    + ["curl ", " -u ", "/webhooks/", "123456/", "wandb_key", "val"]
    + ["?", "&", "#", "a", "7", "hf_", "x" * 20, "eyJ", ".", "-", "Bearer ", "Basic ", MASK, "\n", "[", "]", "(", ",", ";", "80"]
)  # fmt: skip
_TEXTS = st.lists(_PIECES, max_size=14).map("".join)


@given(_TEXTS, st.lists(_TEXTS, max_size=4))
def test_redaction_is_done_when_it_is_done(text, texts):
    """Redacting once more changes nothing."""
    for once in (redact_text(text), redact_argument(text)):
        assert redact_text(once) == once
    assert redact_argument(redact_argument(text)) == redact_argument(text)
    assert redact(redact(texts)) == redact(texts)


_NUMBERS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["lr", "pad_token_id", "token", "keys", "a b"]), inner)
    ),
)


@given(_NUMBERS)
def test_numbers_and_innocent_keys_stay(data):
    """Data without texts and without secret keys comes out as it went in."""
    assert redact(data) == data


# -- secrets that are known --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": "hunter2secret"}, "wrong key: hunter2secret"),
        ({"tracking_uri": "http://user:hunter2secret@h:1/"}, "user has not the password hunter2secret"),
        ({"tracking_uri": "http://user:hunter2%2Fsecret@h:1/"}, "user has not the password hunter2/secret"),
        ({"tracking_uri": "http://user:hunter2secret@h:1/"}, "header dXNlcjpodW50ZXIyc2VjcmV0"),
        ({"headers": {"Authorization": "Bearer hunter2secret"}}, "no bearer hunter2secret"),
        ({"url": "https://h/?token=hunter2secret"}, "token hunter2secret is old"),
        ({"credentials": {"user": "me", "more": ["hunter2secret"]}}, "hunter2secret, again"),
        ({"password": 'hunter2"secret'}, '{"p": "hunter2\\"secret"}'),
        ({"command": "login --password 'hunter2 secret'"}, "not hunter2 secret"),
    ],
)
def test_known_secret_is_masked_by_what_it_says(options, said):
    """What redaction takes out of options is found again in any text, in the spellings it is quoted in."""
    assert "hunter2" not in str(redact(options))
    clean = masked(said, secrets_in(options))
    assert MASK in clean
    assert not any(word in clean for word in ("hunter2", "aHVudGVyMn", "dXNlcjpodW50"))


def test_no_secret_and_short_secrets_mask_nothing():
    """A log stays readable: what is no secret, or so short that it is everywhere, is not looked for."""
    assert secrets_in({"project": "demo", "lr": 0.1, "password": "a", "eos_token": "</s>"}) == []
    assert masked("an apple", secrets_in({"password": "a"})) == "an apple"
