"""What transformers' own objects hold of secrets stays out of the journal; what only sounds like one stays in."""

from __future__ import annotations

import datasets
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    T5Config,
    Trainer,
    TrainingArguments,
    Wav2Vec2Config,
    WhisperConfig,
)

import runcast
from runcast.events import plain
from runcast.frameworks.transformers import ReportingCallback
from runcast.redact import MASK, redact, redact_argument

SECRET = "hunter2secret"


def arguments(folder):
    """Training arguments with a token."""
    return TrainingArguments(str(folder), hub_token=SECRET, report_to="none", use_cpu=True, max_steps=1)


class Regression(torch.nn.Module):
    """The smallest model that a transformers.Trainer trains."""

    def __init__(self):
        super().__init__()
        self.config = BertConfig(hub_token=SECRET)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


def test_token_of_training_arguments_is_hidden_and_nothing_else(tmp_path):
    """`TrainingArguments` as a config: the token is masked, every other setting is what it was."""
    settings = plain(arguments(tmp_path))
    assert settings["hub_token"] == SECRET
    assert redact(settings) == {**settings, "hub_token": MASK}


def test_token_reaches_neither_journal_nor_folder(tmp_path):
    """Not by the adapter, not by the config of a run, not by what the arguments say of themselves as a text."""
    args = arguments(tmp_path / "out")
    data = datasets.Dataset.from_dict({"x": [1.0, 2.0], "labels": [1.0, 2.0]})
    callback = ReportingCallback("console", config={"args": args})
    Trainer(Regression(), args, train_dataset=data, callbacks=[callback]).train()
    with runcast.start_run("console", delivery="inline", config=args) as run:
        run.log_text("arguments", str(args))
        run.log_text("a dict", str(args.__dict__))
    folders = [path.parent for path in run.dir.parent.glob("*/journal.jsonl")]
    assert len(folders) == 2
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path
    assert runcast.read_run(run.dir).config["hub_token"] == MASK


@pytest.mark.parametrize(
    "config", [BertConfig, GPT2Config, LlamaConfig, T5Config, WhisperConfig, Wav2Vec2Config, GenerationConfig]
)
def test_model_configs_stay_as_they_are(config):
    """Special tokens, ids and sizes are no secrets, neither as data nor as a text."""
    settings = plain(config().to_dict())
    assert redact(settings) == settings
    assert redact_argument(str(settings)) == str(settings)


def test_tokenizer_stays_as_it_is():
    """So are a tokenizer's special tokens, whatever they are called."""
    words = Tokenizer(WordLevel({"a": 0, "[UNK]": 1, "[PAD]": 2, "</s>": 3, "<think>": 4}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        eos_token="</s>",
        extra_special_tokens={"think_token": "<think>"},
    )
    settings = plain({**tokenizer.init_kwargs, **tokenizer.special_tokens_map})
    assert "[PAD]" in str(settings)
    assert redact(settings) == settings
    assert redact_argument(str(tokenizer)) == str(tokenizer)
