"""A tiny Sentence Transformer made on the spot, and small labelled data: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from runcast.fewshot import FewShotClassifier, TrainingArguments

TOPICS = {
    "billing": ["invoice charge refund", "money payment card", "price invoice bill", "refund payment money"],
    "delivery": ["parcel late courier", "package address door", "courier parcel tracking", "shipping package late"],
    "account": ["password login reset", "email account locked", "login profile email", "account password user"],
}


def texts_and_labels(times: int = 2) -> tuple[list[str], list[str]]:
    """Every text of `TOPICS`, `times` times with another word in front."""
    fillers = ["my", "the", "your", "a", "this"][:times]
    rows = [(f"{word} {text}", label) for label, texts in TOPICS.items() for text in texts for word in fillers]
    return [text for text, _ in rows], [label for _, label in rows]


@pytest.fixture(scope="session")
def body_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Sentence Transformer with two layers of 16 dimensions."""
    folder = tmp_path_factory.mktemp("body")
    words = sorted({word for text in texts_and_labels(5)[0] for word in text.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=16)
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save_pretrained(str(folder / "st"))
    return folder / "st"


@pytest.fixture
def model(body_dir: Path) -> FewShotClassifier:
    """A fresh tiny classifier."""
    return FewShotClassifier.from_pretrained(body_dir, device="cpu")


@pytest.fixture
def train_data() -> dict[str, list[str]]:
    """24 texts in three classes."""
    texts, labels = texts_and_labels(2)
    return {"text": texts, "label": labels}


@pytest.fixture
def eval_data() -> dict[str, list[str]]:
    """Other texts of the same classes."""
    texts, labels = texts_and_labels(4)
    return {"text": texts[2::4] + texts[3::4], "label": labels[2::4] + labels[3::4]}


@pytest.fixture
def make_args(tmp_path: Path) -> Callable[..., TrainingArguments]:
    """Training arguments for a short, silent training below `tmp_path`."""

    def make(**options: Any) -> TrainingArguments:
        defaults = {
            "output_dir": str(tmp_path / "output"),
            "report_to": "none",
            "max_steps": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "logging_steps": 2,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return TrainingArguments(**{**defaults, **options})

    return make


@pytest.fixture(autouse=True)
def isolated_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs go below `tmp_path`, are delivered in this process, and none is left open."""
    import runcast

    for name, value in {"RUNCAST_DIR": str(tmp_path / "runs"), "RUNCAST_DELIVERY": "inline", "WANDB_MODE": "offline"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("RUNCAST_REPORT_TO", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "runs"
    while (run := runcast.current_run()) is not None:
        run.finish("failed")
