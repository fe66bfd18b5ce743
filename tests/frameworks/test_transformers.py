"""ReportingCallback reports any transformers-style trainer into one run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import datasets
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import CosineSimilarityLoss
from sentence_transformers.models import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments

import runcast
from runcast import Reporter
from runcast.frameworks.transformers import ReportingCallback, translate


class Regression(torch.nn.Module):
    """The smallest model that a transformers.Trainer trains."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        predicted = self.weight * x
        return {"loss": ((predicted - labels) ** 2).mean(), "logits": predicted}


class Recorder(Reporter):
    """Keeps the metrics it gets."""

    name = "recorder"

    def __init__(self):
        self.names = set()
        self.closed = []

    def log_metrics(self, metrics, step, time):
        self.names |= set(metrics)

    def close(self, status):
        self.closed.append(status)


class FailingStart(Reporter):
    """A tracker that can't start."""

    name = "failing"

    def open(self, run, attach):
        raise RuntimeError("no such server")

    def log_metrics(self, metrics, step, time):
        raise AssertionError("never started")


DATA = [{"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])} for i in range(8)]


@pytest.fixture(autouse=True)
def _inline(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNCAST_DELIVERY", "inline")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def make_trainer(tmp_path):
    """A transformers.Trainer of four steps with one callback."""

    def make(*callbacks, **options):
        defaults = {
            "output_dir": str(tmp_path / "output"),
            "report_to": "none",
            "max_steps": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "learning_rate": 1e-3,
        }
        args = TrainingArguments(**{**defaults, **options})
        return Trainer(Regression(), args, train_dataset=DATA, eval_dataset=DATA, callbacks=list(callbacks))

    return make


@pytest.fixture
def runs(tmp_path):
    """Reads every run that the test has written, the oldest first."""

    def read():
        found = [runcast.read_run(path) for path in (tmp_path / "runs").glob("*")]
        return sorted(found, key=lambda run: run.started)

    return read


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("logs", "values", "summary"),
    [
        (
            {"loss": 1.0, "grad_norm": 2.0, "epoch": 0.5},
            {"train/loss": 1.0, "train/grad_norm": 2.0, "train/epoch": 0.5},
            {},
        ),
        ({"eval_loss": 1.0, "eval_runtime": 3.0, "epoch": 0.5}, {"eval/loss": 1.0, "eval/runtime": 3.0}, {}),
        ({"eval_easy_f1": 1.0}, {"eval/easy_f1": 1.0}, {}),
        ({"test_accuracy": 1.0}, {"test/accuracy": 1.0}, {}),
        ({"val_f1": 1.0, "val_samples_per_second": 2.0}, {"val/f1": 1.0, "val/samples_per_second": 2.0}, {}),
        (
            {"train_runtime": 1.0, "train_samples_per_second": 2.0, "total_flos": 0.0, "train_loss": 3.0, "epoch": 1.0},
            {},
            {"train_runtime": 1.0, "train_samples_per_second": 2.0, "total_flos": 0.0, "train_loss": 3.0},
        ),
        (
            {"rewards/chosen": 1.0, "eval_rewards/chosen": 2.0},
            {"train/rewards/chosen": 1.0, "eval/rewards/chosen": 2.0},
            {},
        ),
        ({"embedding_loss": 1.0, "note": "warm"}, {"train/embedding_loss": 1.0, "train/note": "warm"}, {}),
    ],
)
def test_logs_become_paths_and_one_off_results(logs, values, summary):
    """A trainer's flat names become slash paths, its closing figures a summary."""
    assert translate(logs) == (values, summary)


# -- one run ---------------------------------------------------------------------------------------------------------


def test_training_evaluation_and_prediction_are_one_run(make_trainer, runs):
    """A plain transformers.Trainer's training, evaluation and prediction are one run, read back from the journal."""
    recorder = Recorder()
    callback = ReportingCallback(
        report_to=recorder, project="demo", name="first", tags=["tiny"], config={"data": "toy"}
    )
    trainer = make_trainer(callback, eval_strategy="steps", eval_steps=2)
    trainer.train()
    trainer.evaluate(metric_key_prefix="test")
    trainer.predict(DATA, metric_key_prefix="final")
    callback.finish()
    (run,) = runs()
    assert (run.status, run.project, run.name, run.tags) == ("completed", "demo", "first", ("tiny",))
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3, 4]
    assert [point.step for point in run.metrics["eval/loss"]] == [2, 4]
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [point.value for point in run.metrics["train/loss"]] == logged
    assert {"test/loss", "final/loss"} <= set(run.metrics)
    assert {"train_runtime", "train_loss", "total_flos"} <= set(run.summary)
    assert run.config["learning_rate"] == 1e-3 and run.config["data"] == "toy"
    assert run.config["model"] == {"num_parameters": 1}
    assert set(run.metrics) == recorder.names and recorder.closed == ["completed"]


def test_a_sentence_transformers_trainer_reports(tmp_path, runs):
    """SentenceTransformerTrainer reports through the same callback."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "cat": 1, "dog": 2, "car": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    data = datasets.Dataset.from_dict({"a": ["cat", "dog"] * 4, "b": ["dog", "car"] * 4, "score": [1.0, 0.0] * 4})
    callback = ReportingCallback(report_to=Recorder())
    args = SentenceTransformerTrainingArguments(
        str(tmp_path / "output"),
        max_steps=3,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        eval_strategy="steps",
        eval_steps=3,
    )
    SentenceTransformerTrainer(
        model, args, train_dataset=data, eval_dataset=data, loss=CosineSimilarityLoss(model), callbacks=[callback]
    ).train()
    callback.finish()
    (run,) = runs()
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3]
    assert [point.step for point in run.metrics["eval/loss"]] == [3]
    assert run.status == "completed"


def test_reporting_nothing_leaves_nothing(make_trainer, tmp_path):
    """With "none" there is no folder, no run, and training is as ever."""
    callback = ReportingCallback(report_to="none")
    trainer = make_trainer(callback)
    trainer.train()
    trainer.evaluate()
    assert callback.is_silent
    assert runcast.current_run() is None
    assert not (tmp_path / "runs").exists()


def test_an_evaluation_alone_is_a_run(make_trainer, runs):
    """Evaluating without any training opens a run, which a training afterwards goes on with."""
    callback = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(callback)
    trainer.evaluate()
    trainer.train()
    callback.finish()
    (run,) = runs()
    assert [point.step for point in run.metrics["eval/loss"]] == [0]
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3, 4]


def test_a_run_of_the_users_is_joined_and_not_ended(make_trainer, runs):
    """An open run gets everything and stays open; it keeps its own trackers."""
    mine, other = Recorder(), Recorder()
    with runcast.start_run(report_to=mine, config={"seed_words": 3}) as run:
        callback = ReportingCallback(report_to=other)
        make_trainer(callback).train()
        callback.finish()
        assert run.status == "running" and callback.run is run
        run.log({"after": 1.0})
    (record,) = runs()
    assert {"train/loss", "after"} <= set(record.metrics)
    assert record.config["seed_words"] == 3 and record.config["max_steps"] == 4
    assert "train/loss" in mine.names and not other.names


def test_a_second_training_is_a_second_run(make_trainer, runs):
    """Training again starts a new run, and completes the one before."""
    callback = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(callback)
    trainer.train()
    trainer.train()
    callback.finish()
    assert [run.status for run in runs()] == ["completed", "completed"]
    assert [len(run.metrics["train/loss"]) for run in runs()] == [4, 4]


def test_two_trainers_in_a_row_are_two_runs(make_trainer, runs):
    """A run that another trainer's callback opened is no user's: it is not joined, but completed."""
    first, second = (ReportingCallback(report_to=Recorder()) for _ in range(2))
    one, two = make_trainer(first), make_trainer(second)
    one.train()
    two.train()
    assert [run.status for run in runs()] == ["completed", "running"]
    one.evaluate()
    first.finish()
    second.finish()
    assert [run.status for run in runs()] == ["completed", "completed"]
    assert ["eval/loss" in run.metrics for run in runs()] == [True, False]


def test_evaluating_after_finish_goes_on_with_the_run(make_trainer, runs):
    """An evaluation after the run was finished belongs to it all the same."""
    callback = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(callback)
    trainer.train()
    callback.finish()
    trainer.evaluate()
    callback.finish()
    (run,) = runs()
    assert run.status == "completed" and "eval/loss" in run.metrics


def test_other_ranks_report_nothing(make_trainer, tmp_path):
    """Only the first process of all opens a run."""
    callback = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(callback)
    state = SimpleNamespace(is_world_process_zero=False)
    for event, more in {
        "on_train_begin": {},
        "on_log": {"logs": {"loss": 1.0}},
        "on_predict": {"metrics": {"a": 1}},
    }.items():
        getattr(callback, event)(trainer.args, state, trainer.control, **more)
    assert callback.run is None and not (tmp_path / "runs").exists()


# -- failures --------------------------------------------------------------------------------------------------------


def test_a_training_that_raised_is_failed_when_the_next_begins(make_trainer, runs):
    """A plain trainer doesn't tell of its exceptions; the run is failed as soon as there is another."""

    class Crash(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("boom")

    callback = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(callback, Crash)
    with pytest.raises(RuntimeError):
        trainer.train()
    trainer.remove_callback(Crash)
    trainer.train()
    callback.finish()
    assert [run.status for run in runs()] == ["failed", "completed"]


def test_a_named_tracker_that_cannot_start_stops_the_training_before_it_begins(make_trainer):
    """An error at the start of a tracker that was asked for by name is raised before the first step."""
    trainer = make_trainer(ReportingCallback(report_to=FailingStart(), start_timeout=20))
    with pytest.raises(runcast.TrackerStartError, match="no such server"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"report_to": "mlflw"}, "Did you mean 'mlflow'"),
        ({"log_model": "always"}, "log_model is 'always'; expected one of"),
    ],
)
def test_wrong_options_fail_when_the_callback_is_made(options, message):
    """A misspelt tracker or option is an error at once."""
    with pytest.raises(ValueError, match=message):
        ReportingCallback(**options)


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_resuming_goes_on_with_the_run_of_the_checkpoint(make_trainer, runs):
    """The run id travels in the checkpoint: a new process appends to the same run, without any step twice."""
    options = {"save_strategy": "steps", "save_steps": 2}
    first = ReportingCallback(report_to=Recorder())
    make_trainer(first, **options).train()
    first.finish("failed")
    again = ReportingCallback(report_to=Recorder())
    trainer = make_trainer(again, **options, max_steps=6)
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    again.finish()
    (run,) = runs()
    assert run.status == "completed"
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_resuming_without_the_run_folder_starts_a_new_run(make_trainer, runs, tmp_path, caplog):
    """A run folder that is gone is no error: a new run starts, and a warning says so."""
    options = {"save_strategy": "steps", "save_steps": 2}
    first = ReportingCallback(report_to=Recorder())
    make_trainer(first, **options).train()
    first.finish()
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    again = ReportingCallback(report_to=Recorder())
    make_trainer(again, **options, max_steps=6).train(resume_from_checkpoint=True)
    again.finish()
    (run,) = runs()
    assert [point.step for point in run.metrics["train/loss"]] == [5, 6]
    assert "has no folder any more" in caplog.text


def test_a_checkpoint_without_the_callback_can_be_resumed_with_it(make_trainer, runs):
    """A checkpoint of an unreported training starts a new run, and saves on."""
    options = {"save_strategy": "steps", "save_steps": 2}
    make_trainer(**options).train()
    callback = ReportingCallback(report_to=Recorder())
    make_trainer(callback, **options, max_steps=6).train(resume_from_checkpoint=True)
    callback.finish()
    (run,) = runs()
    assert [point.step for point in run.metrics["train/loss"]] == [5, 6]


def test_the_callback_can_be_restored_from_a_checkpoint(make_trainer, runs, tmp_path):
    """With restore_callback_states_from_checkpoint, too, it is one run."""
    options = {"save_strategy": "steps", "save_steps": 2}
    first = ReportingCallback(report_to="console", project="demo")
    make_trainer(first, **options).train()
    first.finish()
    state = TrainerState.load_from_json(str(tmp_path / "output" / "checkpoint-4" / "trainer_state.json"))
    assert json.dumps(state.stateful_callbacks["ReportingCallback"])
    trainer = make_trainer(
        ReportingCallback(report_to="console"), **options, max_steps=6, restore_callback_states_from_checkpoint=True
    )
    trainer.train(resume_from_checkpoint=True)
    restored = next(item for item in trainer.callback_handler.callbacks if isinstance(item, ReportingCallback))
    restored.finish()
    assert restored.project == "demo"
    (run,) = runs()
    assert [point.step for point in run.metrics["train/loss"]] == [1, 2, 3, 4, 5, 6]


def test_a_restored_callback_says_which_reporters_it_lost(make_trainer, caplog):
    """A checkpoint knows reporters by name; one that has none elsewhere is missed aloud."""
    options = {"save_strategy": "steps", "save_steps": 2}
    first = ReportingCallback(report_to=["console", Recorder()])
    make_trainer(first, **options).train()
    first.finish()
    assert not caplog.records
    again = ReportingCallback(report_to=["console", Recorder()])
    trainer = make_trainer(again, **options, max_steps=6, restore_callback_states_from_checkpoint=True)
    trainer.train(resume_from_checkpoint=True)
    restored = next(item for item in trainer.callback_handler.callbacks if isinstance(item, ReportingCallback))
    restored.finish()
    assert [reporter.name for reporter in restored.reporters] == ["console"]
    (message,) = [record.getMessage() for record in caplog.records if "by name only" in record.getMessage()]
    assert f"nothing goes to {Recorder.name}. Register them" in message


# -- artifacts -------------------------------------------------------------------------------------------------------


def test_models_and_checkpoints_are_logged_on_request(make_trainer, runs, tmp_path):
    """log_model="checkpoint" logs each checkpoint, "end" the model, and by default there is neither."""
    options = {"save_strategy": "steps", "save_steps": 2}
    for log_model in ("none", "checkpoint"):
        callback = ReportingCallback(report_to=Recorder(), log_model=log_model)
        make_trainer(callback, **options).train()
        callback.finish()
    Regression.save_pretrained = lambda self, folder: torch.save(self.state_dict(), f"{folder}/weights.pt")
    try:
        callback = ReportingCallback(report_to=Recorder(), log_model="end")
        make_trainer(callback, **options).train()
        callback.finish()
    finally:
        del Regression.save_pretrained
    found = [{name: artifact.kind for name, artifact in run.artifacts.items()} for run in runs()]
    assert found == [{}, {"checkpoint-2": "checkpoint", "checkpoint-4": "checkpoint"}, {"model": "model"}]
    assert "weights.pt" in runs()[2].artifacts["model"].files
