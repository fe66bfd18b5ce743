"""A hyper-parameter search: a run a trial, all in one group of every tracker, as the trackers themselves tell it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import TrainerCallback

import runcast
from runcast.delivery import load_state
from runcast.fewshot import FewShotClassifier, Trainer, TrainingArguments
from runcast.testing import couriers

from .conftest import texts_and_labels

optuna = pytest.importorskip("optuna")

RATES = (1e-3, 3e-3, 5e-3, 1e-2)


class SecondIsPruned(optuna.pruners.BasePruner):
    """Gives up the second trial at its first evaluation."""

    def prune(self, study: Any, trial: Any) -> bool:
        return trial.number == 1


class ThirdFails(TrainerCallback):
    """Ends the third trial with an error."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.trial_name == "third":
            raise ArithmeticError("out of numbers")


class Searched(NamedTuple):
    """What a search left behind; runs by trial."""

    trainer: Trainer
    best: Any
    folders: list[Path]
    runs: list[runcast.RunRecord]


def space(trial):
    return {
        "learning_rate": trial.suggest_categorical("learning_rate", RATES),
        "max_steps": trial.suggest_int("max_steps", 2, 4),
    }


def name(trial):
    return ["first", "second", "third", "fourth"][trial.number]


def trackers() -> list[str]:
    """The trackers of this environment that are read back below."""
    ready = {found.name for found in runcast.available_reporters() if found.status == "ready"}
    return sorted({"mlflow", "wandb"} & ready)


@pytest.fixture(scope="module")
def searched(body_dir, tmp_path_factory):
    """Four trials: one well, one pruned, one failed, one well."""
    folder = tmp_path_factory.mktemp("search")
    texts, labels = texts_and_labels(2)

    def model_init(trial):
        head = "logistic" if trial is None else trial.suggest_categorical("head", ["torch"])
        return FewShotClassifier.from_pretrained(body_dir, head=head, device="cpu")

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RUNCAST_DIR", str(folder / "runs"))
        patch.setenv("RUNCAST_DELIVERY", "inline")
        patch.setenv("WANDB_MODE", "offline")
        args = TrainingArguments(
            "output",
            report_to=["tensorboard", *trackers()],
            eval_strategy="steps",
            eval_steps=1,
            max_steps=7,
            per_device_train_batch_size=8,
            disable_tqdm=True,
            use_cpu=True,
        )
        data = {"text": texts, "label": labels}
        trainer = Trainer(None, args, data, data, model_init=model_init, callbacks=[ThirdFails])
        best = trainer.hyperparameter_search(
            space,
            n_trials=4,
            hp_name=name,
            sampler=optuna.samplers.RandomSampler(seed=1),
            pruner=SecondIsPruned(),
            catch=(ArithmeticError,),
        )
        folders = sorted(
            (folder / "runs").glob("*/journal.jsonl"), key=lambda path: runcast.read_run(path.parent).started
        )
        found = [path.parent for path in folders]
        yield Searched(trainer, best, found, [runcast.read_run(run) for run in found])


def test_each_trial_is_a_run_in_one_group(searched):
    """Names, a common group, parameters (also those of the model alone), the objective, and what became of each trial."""
    runs = searched.runs
    assert [run.name for run in runs] == ["first", "second", "third", "fourth"]
    assert len({run.group for run in runs}) == 1
    assert runs[0].group.startswith("search-")
    assert [run.status for run in runs] == ["completed", "completed", "failed", "completed"]
    assert [run.summary.get("trial_status") for run in runs] == [None, "pruned", None, None]
    for run in runs:
        assert set(run.config["trial"]) == {"learning_rate", "max_steps", "head"}
        assert run.config["learning_rate"] == run.config["trial"]["learning_rate"]
        assert run.config["max_steps"] == run.config["trial"]["max_steps"]
    assert [run.summary.get("objective") for run in runs if run.status == "completed"] == [
        run.metrics["eval/accuracy"][-1].value for run in runs if run.status == "completed"
    ]
    assert "objective" not in runs[2].summary
    assert len(runs[1].metrics["eval/accuracy"]) == 1  # pruned at its first evaluation


def test_the_best_trial_is_the_one_with_the_highest_objective(searched):
    """Of the trials that came to an end; its parameters make arguments to train with, and a model."""
    best = searched.best
    ended = {0: searched.runs[0], 3: searched.runs[3]}
    assert best.objective == max(run.summary["objective"] for run in ended.values())
    assert best.hyperparameters == ended[int(best.run_id)].config["trial"]
    args = searched.trainer.args
    assert args.max_steps == 7, "a search leaves the arguments as they were"
    assert args.learning_rate == 2e-5
    options = {key: value for key, value in best.hyperparameters.items() if key != "head"}
    applied = dataclasses.replace(args, **options)
    assert (applied.learning_rate, applied.max_steps) == (options["learning_rate"], options["max_steps"])
    model = searched.trainer.call_model_init(optuna.trial.FixedTrial(best.hyperparameters))
    assert model.head.kind == "torch"


@pytest.mark.skipif("mlflow" not in trackers(), reason="MLflow is not installed")
def test_mlflow_has_the_trials_as_a_group(searched):
    """Its own client finds the four runs by their group, with parameters, objective and status."""
    from mlflow import MlflowClient

    natives = [couriers.native_of(run, "mlflow") for run in searched.folders]
    client = MlflowClient(natives[0].data["tracking_uri"])
    experiment = client.get_run(natives[0].id).info.experiment_id
    group = searched.runs[0].group
    found = {run.info.run_id: run for run in client.search_runs([experiment], f"tags.`runcast.group` = '{group}'")}
    assert set(found) == {native.id for native in natives}
    ordered = [found[native.id] for native in natives]
    assert [run.info.status for run in ordered] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert [run.data.params["trial/max_steps"] for run in ordered] == [
        str(run.config["trial"]["max_steps"]) for run in searched.runs
    ]
    assert ordered[1].data.tags["summary.trial_status"] == "pruned"
    assert ordered[3].data.metrics["summary/objective"] == searched.runs[3].summary["objective"]
    for folder, run in zip(searched.folders, searched.runs, strict=True):
        assert couriers.read(folder, "mlflow").group == run.group


@pytest.mark.skipif("wandb" not in trackers(), reason="W&B is not installed")
def test_wandb_has_the_trials_as_a_group(searched):
    """Its own offline files name the group of each of the four runs."""
    from runcast.reporters._wandb_store import Log

    for folder, run in zip(searched.folders, searched.runs, strict=True):
        (log,) = folder.glob("**/*.wandb")
        records = [record.run for record in Log(log).records() if record.WhichOneof("record_type") == "run"]
        assert {record.run_group for record in records} == {run.group}
        assert {record.display_name for record in records} == {run.name}
        back = couriers.read(folder, "wandb")
        assert (back.group, back.status, back.summary.get("trial_status")) == (
            run.group,
            run.status,
            run.summary.get("trial_status"),
        )


def test_a_search_below_a_run_of_the_users_is_its_group(body_dir, make_args, train_data, tmp_path):
    """Trials are runs of their own, under the name of the run that was open."""
    make = lambda: FewShotClassifier.from_pretrained(body_dir, device="cpu")  # noqa: E731
    args = make_args(report_to="tensorboard", max_steps=1)
    trainer = Trainer(None, args, train_data, {"first": train_data, "second": train_data}, model_init=make)
    with runcast.start_run("tensorboard", name="the study") as ours:
        best = trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}, n_trials=1)
    (trial,) = [runcast.read_run(run) for run in (tmp_path / "runs").iterdir() if run.name != ours.id]
    assert (trial.name, trial.group) == ("trial-0", "the study")
    assert best.objective == trial.summary["objective"] == trial.metrics["eval/first_accuracy"][-1].value
    assert runcast.read_run(ours.dir).status == "completed"
    assert load_state(tmp_path / "runs" / trial.run_id, "tensorboard").state == "complete"


def test_a_search_without_model_init_says_so(model, make_args, train_data):
    """Every trial needs a model of its own."""
    with pytest.raises(RuntimeError, match="model_init"):
        Trainer(model, make_args(), train_data).hyperparameter_search(space, n_trials=1)


def test_options_of_the_head_can_be_searched_as_json(body_dir, train_data, eval_data, tmp_path):
    """Text that a trial suggests is parsed; what the head doesn't take fails before the trial trains."""
    steps = []

    class Steps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            steps.append(state.trial_params["head_params"])

    options = {"report_to": "none", "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "use_cpu": True}
    options["head_params"] = {"C": 3.0}
    trainer = Trainer(
        None,
        TrainingArguments(str(tmp_path / "output"), disable_tqdm=True, **options),
        train_data,
        eval_data,
        model_init=lambda: FewShotClassifier.from_pretrained(body_dir, device="cpu"),
        callbacks=[Steps],
    )
    tried = ['{"C": 2.0}', '{"C": -2.0}']
    with pytest.raises(ValueError, match="can't be fitted with head_params"):
        trainer.hyperparameter_search(
            lambda trial: {"head_params": trial.suggest_categorical("head_params", tried)},
            n_trials=2,
            sampler=optuna.samplers.GridSampler({"head_params": tried}, seed=0),
        )
    assert set(steps) <= {tried[0]}
    trainer.hyperparameter_search(
        lambda trial: {"head_params": trial.suggest_categorical("head_params", tried[:1])}, n_trials=1
    )
    assert tried[0] in steps and trainer.args.head_params == {"C": 3.0}
