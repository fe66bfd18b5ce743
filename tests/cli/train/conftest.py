"""A tiny Sentence Transformer made on the spot, and small labelled data in files: nothing is downloaded."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

WORDS = {
    "billing": "invoice charge refund money payment card price bill",
    "delivery": "parcel late courier package address door tracking shipping",
    "account": "password login reset email locked profile user name",
}


def rows() -> list[tuple[str, str]]:
    """24 texts in three classes."""
    return [(f"my {word} {words.split()[0]}", label) for label, words in WORDS.items() for word in words.split()]


@pytest.fixture(scope="session")
def body_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Sentence Transformer that adds up word vectors of 16 dimensions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding  # the one path that 5 and 6 both have
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[UNK]", "my", *" ".join(WORDS.values()).split()]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("body")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    body.save_pretrained(str(folder))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """The same rows as CSV, JSONL and Parquet, with columns of other names."""
    import pyarrow as pa
    from pyarrow import parquet

    files = {suffix: tmp_path / f"data.{suffix}" for suffix in ("csv", "jsonl", "parquet")}
    with files["csv"].open("w", newline="") as file:
        csv.writer(file).writerows([("words", "topic"), *rows()])
    files["jsonl"].write_text("".join(json.dumps({"words": text, "topic": label}) + "\n" for text, label in rows()))
    texts, labels = zip(*rows(), strict=True)
    parquet.write_table(pa.table({"words": texts, "topic": labels}), files["parquet"])
    return files


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, no progress bars; files land below `tmp_path`."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
