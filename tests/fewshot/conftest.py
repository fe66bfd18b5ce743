"""A tiny Sentence Transformer made on the spot, and small labelled data: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from threadpoolctl import threadpool_limits
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import runcast
from runcast import Reporter, RunRecord
from runcast.fewshot import FewShotClassifier, TrainingArguments
from runcast.fewshot.heads import HEADS

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


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are many times faster on one thread where other processes keep the cores busy."""
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


def save_transformer(folder: Path, vocabulary: int, *, layers: int, dimensions: int, seed: int) -> None:
    """Writes a tiny BERT with random weights; the random state stays as it is."""
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=dimensions,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * dimensions,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)


@pytest.fixture(autouse=True)
def _own_heads() -> Iterator[None]:
    """Kinds of heads that a test defines are forgotten after it."""
    before = dict(HEADS)
    yield
    HEADS.clear()
    HEADS.update(before)


@pytest.fixture(scope="session")
def body_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Sentence Transformer with two layers of 16 dimensions."""
    folder = tmp_path_factory.mktemp("body")
    words = sorted({word for text in texts_and_labels(5)[0] for word in text.split()})
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 16}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    save_transformer(folder, len(vocabulary), layers=2, dimensions=16, seed=0)
    # A plain transformer becomes a Sentence Transformer with mean pooling.
    SentenceTransformer(str(folder), device="cpu").save_pretrained(str(folder / "st"))
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


class Recorder(Reporter):
    """Keeps what it gets; a class of its own a test, so that nothing is shared."""

    name = "recorder"

    def __init__(self) -> None:
        self.points: list[tuple[str, int, float]] = []
        self.closed: list[str] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self.points += [(key, step, value) for key, value in metrics.items()]

    def close(self, status: str) -> None:
        self.closed.append(status)


@pytest.fixture
def recorder_class() -> type[Recorder]:
    """The class of a reporter that nobody registered."""
    return Recorder


@pytest.fixture
def recorder(recorder_class: type[Recorder]) -> Recorder:
    """A reporter that keeps what it gets."""
    return recorder_class()


@pytest.fixture(autouse=True)
def _inline_and_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers are delivered to at once, in this process and offline; files land below `tmp_path`."""
    monkeypatch.setenv("RUNCAST_DELIVERY", "inline")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def only_run(tmp_path: Path) -> Callable[[], RunRecord]:
    """Reads the one run that the test has written."""

    def read() -> RunRecord:
        folders = list((tmp_path / "runs").iterdir())
        assert len(folders) == 1, f"expected one run, found {folders}"
        return runcast.read_run(folders[0])

    return read
