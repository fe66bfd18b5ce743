"""The trainer under fire: what a tracker does changes nothing that is trained, and a killed training goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import runcast
from runcast.fewshot import FewShotClassifier, Trainer
from runcast.testing.contract import PATIENCE, wait_until_through
from runcast.testing.faults import Fault, inject, strikes
from runcast.testing.lines import LinesReporter, lines_of
from runcast.verify import verify

SCRIPT = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
import runcast.testing.lines
from runcast.fewshot import FewShotClassifier, Trainer, TrainingArguments

torch.set_num_threads(1)
body, output, rows, die_at, resume = json.loads(sys.argv[1])

class Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

trainer = Trainer(
    model=FewShotClassifier.from_pretrained(body),
    args=TrainingArguments(
        output_dir=output, max_steps=12, save_strategy="steps", save_steps=5, logging_steps=1, use_cpu=True,
        per_device_train_batch_size=4, report_to=["lines", "tensorboard"], disable_tqdm=True,
    ),
    train_dataset=rows,
    callbacks=[Dies()],
)
trainer.train(resume_from_checkpoint=resume)
trainer.save_model(f"{output}/final")
"""


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("log", "raise", nth=3, times=3)],
        [Fault("log", "segv", nth=4)],
        [Fault("flush", "hang", times=0)],
    ],
    ids=["loses its connection", "crashes", "hangs for ever"],
)
def test_weights_are_those_of_an_unreported_training(make_args, body_dir, train_data, tmp_path, monkeypatch, faults):
    """Bit by bit, whatever the tracker does."""
    monkeypatch.setenv("RUNCAST_DELIVERY", "process")
    faulty = inject(LinesReporter(), *faults, ledger=tmp_path / "ledger", call_timeout=3.0)
    trained = []
    for report_to in ("none", faulty):
        model = FewShotClassifier.from_pretrained(str(body_dir))
        args = make_args(max_steps=6, logging_steps=1, report_to=report_to)
        trainer = Trainer(model=model, args=args, train_dataset=train_data)
        trainer.train()
        trained.append(list(model.body.parameters()))
    runcast.current_run().finish()
    assert strikes(tmp_path / "ledger")
    assert all(torch.equal(a, b) for a, b in zip(*trained, strict=True))


def test_killed_training_goes_on_as_if_nothing_had_happened(make_args, body_dir, train_data, tmp_path, monkeypatch):
    """Killed at step 8, resumed from step 5: the weights of an undisturbed one, and one run, no step of which shows twice."""
    monkeypatch.setenv("RUNCAST_DELIVERY", "process")

    def train(die_at, resume):
        spec = json.dumps([str(body_dir), str(tmp_path / "output"), train_data, die_at, resume])
        return subprocess.run(
            [sys.executable, "-c", SCRIPT, spec], env=dict(os.environ), capture_output=True, text=True, check=False
        )

    killed = train(8, None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (run_dir,) = Path(os.environ["RUNCAST_DIR"]).iterdir()
    for name in ("lines", "tensorboard"):
        wait_until_through(run_dir, name)
    assert runcast.read_run(run_dir).status == "crashed"
    resumed = train(0, True)
    assert resumed.returncode == 0, resumed.stderr
    assert list(Path(os.environ["RUNCAST_DIR"]).iterdir()) == [run_dir]
    record = runcast.read_run(run_dir)
    assert record.status == "completed"
    assert [point.step for point in record.metrics["train/loss"]] == list(range(1, 13))
    for name in ("lines", "tensorboard"):
        wait_until_through(run_dir, name)
    (path,) = run_dir.glob("lines/*.jsonl")
    shown = Counter(
        line["step"] for line in lines_of(path) if line["kind"] == "metrics" and "train/loss" in line["values"]
    )
    assert shown == Counter(range(1, 13))
    for result in verify(run_dir):
        assert result.matches, result

    undisturbed = FewShotClassifier.from_pretrained(str(body_dir), device="cpu")
    args = make_args(
        max_steps=12, per_device_train_batch_size=4, learning_rate=2e-5, output_dir=str(tmp_path / "other")
    )
    Trainer(undisturbed, args, train_data).train()
    killed_and_resumed = FewShotClassifier.from_pretrained(tmp_path / "output" / "final", device="cpu")
    expected, found = undisturbed.state_dict(), killed_and_resumed.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    for name, array in undisturbed.head.arrays().items():
        assert torch.equal(torch.tensor(array), torch.tensor(killed_and_resumed.head.arrays()[name]))
