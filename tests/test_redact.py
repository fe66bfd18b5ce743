"""Secrets, and what only looks like one."""

from __future__ import annotations

import pytest

from runcast.redact import MASK, is_secret, redact, redact_argument, redact_text

SECRET = "correct-horse"


@pytest.mark.parametrize(
    "key",
    [
        "hub_token",
        "HF_TOKEN",
        "api_key",
        "WANDB_API_KEY",
        "apiKey",
        "password",
        "db.password",
        "AWS_SECRET_ACCESS_KEY",
        "client_secret",
        "Authorization",
        "push_to_hub_token",
        "token",
        "X-Auth",
        "private-key",
    ],
)
def test_secret_keys_are_hidden(key):
    """A key that ends in a secret's name hides its value, at any depth."""
    assert redact({"a": [{key: SECRET}]}) == {"a": [{key: MASK}]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_name", "bert"), ("max_new_tokens", 7), ("pad_token_id", 0), ("pad_token", "[PAD]"), ("eos_token", "</s>"),
        ("author", "me"), ("key", 3), ("num_key_value_heads", 4), ("token", 17), ("hub_token", None), ("use_auth_token", False),
        ("keyword", "x"), ("decoder_start_token", "<s>"), ("additional_special_tokens", ["<a>"]), ("secretary", "Ann"),
    ],
)  # fmt: skip
def test_settings_that_only_sound_like_secrets_stay(key, value):
    """Tokenizer settings, ids, counts and empty values are no secrets."""
    assert redact({key: value}) == {key: value}


@pytest.mark.parametrize(
    "token",
    ["hf_abcdefghijklmnopqrstuvwxyz0123", "sk-proj-abcdefghijklmnopqrstuvwx", "ghp_" + "a1" * 18, "glpat-abcdefghij0123456789", "xoxb-1234567890-abcdef", "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def"],
)  # fmt: skip
def test_values_shaped_like_tokens_are_hidden_anywhere(token):
    """A known token is hidden under any key and within any text."""
    assert token not in str(redact({"note": f"I used {token}, sorry", "list": [token]}))
    assert redact_text(f"a {token} b") == f"a {MASK} b"


def test_urls_lose_their_userinfo():
    """User and password leave a URL, the rest stays."""
    assert redact_text("see https://me:pw@host.example:80/path?q=1#x") == "see https://host.example:80/path?q=1#x"
    assert redact_text("postgresql+psycopg://u:p@h/db and mail a@b.c") == "postgresql+psycopg://h/db and mail a@b.c"


def test_argument_lists_are_covered():
    """A secret flag hides what follows it, joined or apart."""
    assert redact(["train.py", "--hub-token", SECRET, "--lr", "1"]) == ["train.py", "--hub-token", MASK, "--lr", "1"]
    assert redact(["--hub_token=" + SECRET, "WANDB_API_KEY=" + SECRET]) == [
        f"--hub_token={MASK}",
        f"WANDB_API_KEY={MASK}",
    ]
    assert redact_argument(f"run with API_KEY={SECRET} lr=0.1") == f"run with API_KEY={MASK} lr=0.1"


def test_mask_tells_nothing_of_the_length():
    """Short and long secrets look the same."""
    assert redact({"password": "x"}) == redact({"password": "x" * 99})


def test_numbers_under_a_password_are_hidden():
    """A PIN is a secret too."""
    assert is_secret("password", 1234)
