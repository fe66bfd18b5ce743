"""Trainers hand the probes that they are given to the runs that they open."""

from __future__ import annotations

import json
import pickle

import pytest

import runcast
from runcast.probe import Probe, resolve_probes
from runcast.probes import SystemMetrics

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DATA = [{"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])} for i in range(8)]


class Regression(torch.nn.Module):
    """The smallest model that a transformers.Trainer trains."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        predicted = self.weight * x
        return {"loss": ((predicted - labels) ** 2).mean(), "logits": predicted}


class Steps(Probe):
    """Counts its runs, and cannot be pickled."""

    name = "steps"
    starts = 0

    def start(self):
        self.starts += 1
        self.lock = torch.multiprocessing.get_context("spawn").Lock()

    def measure(self):
        return {"system/starts": self.starts}


@pytest.fixture
def train(tmp_path):
    """Trains four steps with a callback."""

    def call(callback, **options):
        args = transformers.TrainingArguments(
            **{
                "output_dir": str(tmp_path / "output"),
                "report_to": "none",
                "max_steps": 4,
                "logging_steps": 1,
                "save_strategy": "no",
                "disable_tqdm": True,
                "use_cpu": True,
                **options,
            }
        )
        transformers.Trainer(Regression(), args, train_dataset=DATA, callbacks=[callback]).train(
            **({"resume_from_checkpoint": True} if options.get("max_steps", 4) > 4 else {})
        )
        callback.finish()
        return runcast.read_run(callback.run.dir)

    return call


def test_callback_hands_its_probes_to_each_run(train):
    """Every training has them, also the second one, which is another run."""
    from runcast.frameworks.transformers import ReportingCallback

    steps = Steps(interval=3600)
    for number in (1, 2):
        record = train(ReportingCallback("console", probes=[steps, "system"]))
        assert [point.value for point in record.metrics["system/starts"]] == [number]
        assert "system/cpu_percent" in record.metrics


def test_callback_asks_the_environment(train, monkeypatch):
    """As a run would; what isn't known is an error where the callback is made."""
    from runcast.frameworks.transformers import ReportingCallback

    monkeypatch.setenv("RUNCAST_PROBES", "system")
    assert "system/cpu_percent" in train(ReportingCallback("console")).metrics
    with pytest.raises(ValueError, match="Did you mean 'system'"):
        ReportingCallback("console", probes="system_")


def test_checkpoint_names_the_probes(train):
    """A checkpoint is written with any probe, and the training that goes on from it measures on in the same run."""
    from runcast.frameworks.transformers import ReportingCallback

    saving = {"save_strategy": "steps", "save_steps": 2}
    first = train(ReportingCallback("console", probes=["system", Steps(3600)]), **saving)
    callback = ReportingCallback("console", probes="system")
    assert callback.state()["args"]["probes"] == ["system"]
    assert ReportingCallback(**callback.state()["args"]).probes[0].name == "system"
    record = train(callback, **saving, max_steps=6)
    assert record.run_id == first.run_id
    assert [point.step for point in record.metrics["system/cpu_percent"]] == [4, 6]


def test_arguments_of_a_few_shot_training_have_them(monkeypatch):
    """Any form is kept; as JSON and in a checkpoint there are names; without any, the environment's."""
    pytest.importorskip("sentence_transformers")
    from runcast.fewshot import TrainingArguments
    from runcast.fewshot.reporting import _reporting_callback

    steps = Steps()
    steps.start()
    args = TrainingArguments(report_to="console", probes=[steps, SystemMetrics])
    assert args.probes == [steps, SystemMetrics]
    assert [probe.name for probe in _reporting_callback(args, {}).probes] == ["steps", "system"]
    assert json.loads(args.to_json_string())["probes"] == ["steps", "system"]
    assert pickle.loads(pickle.dumps(args)).probes == ["steps", "system"]
    assert _reporting_callback(TrainingArguments(report_to="console"), {}).probes == []
    monkeypatch.setenv("RUNCAST_PROBES", "system")
    (probe,) = _reporting_callback(TrainingArguments(report_to="console"), {}).probes
    assert probe.name == "system"


def test_few_shot_arguments_are_read_from_a_command_line():
    """By names."""
    pytest.importorskip("sentence_transformers")
    from runcast.fewshot import TrainingArguments

    parser = transformers.HfArgumentParser(TrainingArguments)
    (args,) = parser.parse_args_into_dataclasses(["--report_to", "none", "--probes", "system"])
    assert [type(probe) for probe in resolve_probes(args.probes)] == [SystemMetrics]
