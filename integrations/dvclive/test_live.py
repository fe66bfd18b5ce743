"""What is true of DVCLive alone, proven with DVC's own commands and DVCLive's own reader."""

from __future__ import annotations

import json
import math
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import runcast
from runcast.media import png
from runcast.reporter import NativeRun, RunInfo
from runcast.reporters import _dvclive_files as files
from runcast.reporters.dvclive import DVCLiveReporter
from runcast.testing.contract import PATIENCE
from runcast.testing.couriers import (
    deliver_again,
    kill_courier,
    native_of,
    python,
    read,
    wait_delivered,
)
from runcast.verify import compare, same

from .backend import git, metrics, plots, repository, run_dvc

PICTURE = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=300)
NAMES = st.text("ab/.", max_size=5)  # that often are others' beginnings
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
PLAIN = st.recursive(
    LEAVES, lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3), max_leaves=8
)


def assert_same(run_dir: Path) -> None:
    assert compare("dvclive", runcast.read_run(run_dir), read(run_dir, "dvclive")).differences == []


def info(folder: Path, run_id: str = "a-run") -> RunInfo:
    return RunInfo(run_id, run_id, "p", None, folder, 0.0)


class Shown(NamedTuple):
    """A run in a repository of DVC's, and where its files are below that."""

    root: Path
    run_dir: Path
    files: str


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    root = repository(tmp_path_factory.mktemp("shown") / "repository")
    config = {"lr": 0.1, "model": {"name": "tiny", "layers": [1, 2]}, "yes": "no", "nan": math.nan}
    with runcast.start_run("dvclive", dir=root / "runs", project="p", name="n", config=config, tags=["t"]) as run:
        for step in range(20):
            run.log({"train/loss": 1 / (step + 1), "naïve #1 🚀": 0.1 * step}, step=step)
        run.log({"odd": math.nan, "step": 5.0, "train": 7.0}, step=20)
        run.log_text("note", "a **bold** text", step=1)
        run.log_image("picture", PICTURE, step=3)
        run.log_table("curve", ["recall", "precision", "n"], [[0.0, 0.1, 1], [1.0, 0.9, 2]], step=3)
        run.log_table("predictions", ["text", "label"], [["good", 1], [None, 0.5]], step=3)
        run.log_histogram("weights", np.arange(100.0), step=2)
        run.log_histogram("weights", np.arange(50.0), step=3)
        run.log_artifact(root / "train.txt", name="classifier", kind="model", metadata={"score": 1})
        run.set_summary({"best": "step-7", "eval/f1": 0.75})
    return Shown(root, run.dir, f"runs/{run.id}/dvclive")


def test_dvc_metrics_show_has_the_latest_values_and_the_summary(shown: Shown) -> None:
    """A name below another's is there too, and the one called `step` isn't taken for DVCLive's."""
    assert metrics(shown.root) == {
        f"{shown.files}/metrics.json": {
            "best": "step-7",
            "eval": {"f1": 0.75},
            "train": 7.0,
            "train/loss": 0.05,
            "naïve #1 🚀": 0.1 * 19,
            "odd": "nan",
            "%73%tep": 5.0,
            "step": 20,
        }
    }


def test_dvc_plots_show_draws_every_point(shown: Shown) -> None:
    """Metrics over their steps, with the doubles that were logged."""
    drawn = plots(shown.root)[f"{shown.files}/plots/metrics/train/loss.tsv"]
    assert [(int(point["step"]), float(point["loss"])) for point in drawn] == [(s, 1 / (s + 1)) for s in range(20)]


def test_dvc_plots_show_has_images_tables_of_numbers_and_the_latest_histogram(shown: Shown) -> None:
    """The PNG byte for byte; a table with words isn't drawn."""
    drawn = plots(shown.root)
    custom = f"{shown.files}/plots/custom"
    assert drawn[f"{shown.files}/plots/images/picture/3.png"].read_bytes() == png(PICTURE)
    assert {(point["recall"], point["precision"], point["n"]) for point in drawn[f"{custom}/curve/3.json"]} == {
        (0.0, 0.1, 1),
        (1.0, 0.9, 2),
    }
    assert sum(point["count"] for point in drawn[f"{custom}/weights/3.json"]) == 50
    assert sorted(path for path in drawn if path.startswith(custom)) == [
        f"{custom}/curve/3.json",
        f"{custom}/weights/3.json",
    ]


def test_dvc_reads_config_status_and_tags_as_parameters(shown: Shown) -> None:
    """With their types, nested as they were."""
    found = _asked(shown.root, "repo.params.show()['']['data']")
    config = found[f"{shown.files}/params.yaml"]["data"]
    assert same({"lr": 0.1, "model": {"name": "tiny", "layers": [1, 2]}, "yes": "no", "nan": math.nan}, config)
    own = found[f"{shown.files}/runcast.json"]["data"]
    assert (own["status"], own["tags"], own["name"], own["project"]) == ("completed", ["t"], "n", "p")


def test_dvc_lists_models(shown: Shown) -> None:
    """An artifact with a name that DVC takes is in `dvc.yaml`, with its kind and metadata."""
    (found,) = _asked(
        shown.root, "{k: {n: a.to_dict() for n, a in v.items()} for k, v in repo.artifacts.read().items()}"
    ).values()
    model = found["classifier"]
    assert (model["type"], model["meta"]) == ("model", {"score": 1})
    assert (shown.run_dir / "dvclive" / model["path"]).read_text() == "code\n"


def _asked(root: Path, expression: str) -> Any:
    """The value of an expression of DVC's Python interface."""
    code = f"import json, sys; from dvc.repo import Repo; repo = Repo(sys.argv[1]); print(json.dumps({expression}))"
    return json.loads(python(code, str(root)).stdout.splitlines()[-1])


def test_live_goes_on_where_the_run_ended(shown: Shown, tmp_path: Path) -> None:
    """DVCLive itself reads step, latest values, parameters and history from the files."""
    code = """
import json, sys, dvclive
from dvclive.utils import parse_metrics
live = dvclive.Live(sys.argv[1], resume=True, save_dvc_exp=False, dvcyaml=None)
history, latest = parse_metrics(live)
(loss,) = (rows for path, rows in history.items() if path.endswith("train/loss.tsv"))
print(json.dumps([live.step, live._params["model"], latest["eval"], loss[1]]))
"""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(shown.run_dir / "dvclive"), str(copy)], check=True)
    step, model, summary, row = json.loads(python(code, str(copy), cwd=tmp_path).stdout)
    logged = runcast.read_run(shown.run_dir).metrics["train/loss"][1]
    assert (step, model, summary) == (21, {"name": "tiny", "layers": [1, 2]}, {"f1": 0.75})
    assert row == {"timestamp": str(round(logged.time * 1000)), "step": "1", "loss": "0.5"}


def test_everything_reads_back(shown: Shown) -> None:
    """Also what DVC doesn't show."""
    assert_same(shown.run_dir)
    record = read(shown.run_dir, "dvclive")
    assert (record.run_id, record.name, record.project) == (shown.run_dir.name, "n", "p")
    assert record.started == runcast.read_run(shown.run_dir).started
    assert record.finished is not None


def test_runs_are_shown_side_by_side_without_a_repository(tmp_path: Path) -> None:
    """`dvc metrics show` above the runs has a line for each, and the command that the run names shows its plots."""
    for loss in (0.25, 0.5):
        with runcast.start_run("dvclive", dir=tmp_path) as run:
            run.log({"loss": loss}, step=0)
    assert sorted(found["loss"] for found in metrics(tmp_path).values()) == [0.25, 0.5]
    (row,) = run.deliveries()
    assert row.where == f"dvc --cd {run.dir}/dvclive plots show"
    assert "index.html" in run_dvc(tmp_path, *row.where.split()[1:])


@pytest.mark.parametrize("dvc", [False, True], ids=["git", "git and DVC"])
def test_repositories_stay_as_they_are(dvc: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository of DVC's is made, nothing is committed, stashed, staged or saved as an experiment."""
    root = repository(tmp_path / "repository", dvc=dvc)
    monkeypatch.chdir(root)

    def everything() -> dict[str, bytes]:
        found = (path for path in root.rglob("*") if path.is_file() and "runs" not in path.relative_to(root).parts)
        return {str(path): path.read_bytes() for path in found}

    before = everything()
    with runcast.start_run("dvclive", dir="runs") as run:
        run.log({"loss": 1.0}, step=0)
        run.log_artifact(root / "train.txt", kind="model")
    assert everything() == before
    assert_same(run.dir)


def test_nothing_of_dvc_is_imported(tmp_path: Path) -> None:
    """Delivery does without DVC's imports, which replace the standard streams and read its configuration."""
    code = (
        "import sys, runcast\n"
        "with runcast.start_run('dvclive', dir=sys.argv[1], delivery='inline', strict=True) as run:\n"
        "    run.log({'loss': 0.1}, step=1); run.log_text('note', 'x'); run.log_histogram('h', [1.0, 2.0])\n"
        "assert not {'dvc', 'dvclive', 'git', 'requests'} & set(sys.modules)\n"
    )
    python(code, str(tmp_path))


# -- names -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_names_become_paths_and_back(one: str, other: str) -> None:
    """No two names share a path, none is too long or hidden, or leads out, or stands where a file has to."""
    for spelled in (False, True):
        path = files.path_of(one, spelled=spelled)
        assert files.name_of(path) == one
        assert (one == other) == (path == files.path_of(other, spelled=spelled))
        for part in path.split("/"):
            assert part
            assert not part.startswith(".")
            assert "\0" not in part
            assert len(part.encode()) <= 250
            assert not part.lower().endswith((".tsv", ".json", ".png", ".md"))


@pytest.mark.parametrize(
    "name", ["/abs", "../up", "a/../../../up", "..", ".", "", "a/./b", "~/x", ".git/config", "nul\0"]
)
def test_no_name_leads_out(name: str, tmp_path: Path) -> None:
    """Whatever a stranger's journal says, files are made in the run's folder alone, and the name reads back."""
    reporter = DVCLiveReporter()
    native = reporter.open(info(tmp_path / "run"), None)
    reporter.log_metrics({name: 1.0}, 0, 0.0)
    reporter.log_text(name, "text", 0, 0.0)
    reporter.log_image(name, _picture(tmp_path), 0, 0.0)
    reporter.log_table(name, ["a"], [[1]], 0, 0.0)
    reporter.set_summary({name: "x"})
    reporter.close("completed")
    record = reporter.read(native)
    assert list(record.metrics) == list(record.texts) == list(record.images) == list(record.tables) == [name]
    assert record.summary == {name: "x"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["dvclive"]
    assert not [path for path in (tmp_path / "run").rglob(".*")]


def _picture(folder: Path) -> Path:
    path = folder / "picture.png"
    path.write_bytes(png(PICTURE))
    return path


def test_names_that_would_share_a_file_stay_apart(tmp_path: Path) -> None:
    """A name below another's, one that looks like another's file, one that differs in capitals, and each again as a text."""
    names = [
        "a",
        "a/b",
        "a.tsv",
        "a.tsv/b",
        "A",
        "A/b",
        "timestamp",
        "x/step",
        "%73%tep",
        "x" * 240 + "é" * 10,
        "é" * 250,
    ]
    with runcast.start_run("dvclive", dir=tmp_path) as run:
        for number, name in enumerate(names):
            run.log({name: float(number)}, step=0)
            run.log_text(name, name, step=0)
            run.log_text(name, f"{name} again", step=0)
    assert_same(run.dir)
    written = [str(path).casefold() for path in (run.dir / "dvclive").rglob("*") if path.is_file()]
    assert len(set(written)) == len(written)


# -- values ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.dictionaries(TEXTS, PLAIN, max_size=4))
def test_config_survives_yaml(config: dict[str, Any]) -> None:
    """DVC reads the same parameters, whatever characters are in them."""
    from dvc.utils.serialize import parse_yaml

    assert same(config, parse_yaml(files.to_yaml(config).decode(), "params.yaml") or {})


@settings(deadline=None)
@given(st.dictionaries(NAMES, PLAIN, max_size=6), st.dictionaries(NAMES, st.floats(), max_size=6))
def test_summary_is_found_among_the_latest_values(summary: dict[str, Any], latest: dict[str, float]) -> None:
    """It comes before a metric of the same name."""
    tree = files.nested([*summary.items(), *latest.items()])
    assert all(same(value, files.in_nested(tree, name)) for name, value in summary.items())


def test_yaml_that_explodes_is_refused(tmp_path: Path) -> None:
    """A stranger's few lines don't fill the memory."""
    bomb = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    bomb += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (tmp_path / "params.yaml").write_text("\n".join(bomb))
    with pytest.raises(ValueError, match="means more than"):
        files.from_yaml(tmp_path / "params.yaml")


# -- exactly once, resume ----------------------------------------------------------------------------------------------


def log_some(run: runcast.Run) -> None:
    for step in (5, 3, 4):
        run.log({"loss": step / 7, "a/b": float(step)}, step=step)
    run.log_image("picture", PICTURE, step=0)
    run.log_text("note", "x", step=0)
    run.update_config({"a": {"c": 2}})
    run.set_summary({"best": 1})
    run.log_artifact(__file__)


def test_whole_journal_delivered_twice_is_there_once(tmp_path: Path) -> None:
    """After a crash of the courier nothing is repeated."""
    with runcast.start_run("dvclive", dir=tmp_path, config={"a": {"b": 1}}) as run:
        log_some(run)
    deliver_again(run.dir, "dvclive")
    assert_same(run.dir)


def test_torn_lines_are_completed(tmp_path: Path) -> None:
    """A courier killed while writing leaves a part of a line, which nobody reads, and which is written again."""
    with runcast.start_run("dvclive", dir=tmp_path) as run:
        log_some(run)
    folder = run.dir / "dvclive"
    torn = [folder / "plots/metrics/loss.tsv", folder / "plots/metrics/a/b.tsv", folder / "runcast.jsonl"]
    for path, rest in zip(torn, (-3, 9, -20), strict=True):  # of a/b not even the header is whole
        path.write_bytes(path.read_bytes()[:rest])
    record = read(run.dir, "dvclive")
    assert [point.step for point in record.metrics["loss"]] == [5, 3]
    assert not record.metrics.get("a/b")
    deliver_again(run.dir, "dvclive")
    assert_same(run.dir)


def test_full_disk_leaves_no_torn_line(tmp_path: Path) -> None:
    """What doesn't fit is taken back whole, and is there once when it is written again."""
    code = """
import resource, sys
from pathlib import Path
from runcast.reporters._dvclive_files import append
path = Path(sys.argv[1])
append(path, b"header\\n", b"one\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (15, -1))
try:
    append(path, b"header\\n", b"two\\nthree\\n")
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
    print(path.read_text())
    append(path, b"header\\n", b"two\\nthree\\n")
"""
    path = tmp_path / "loss.tsv"
    assert python(code, str(path)).stdout.split() == ["header", "one"]
    assert path.read_text().split() == ["header", "one", "two", "three"]


def test_killed_courier_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of a run: the next courier goes on in the same files."""
    run = runcast.start_run("dvclive", dir=tmp_path, delivery="process", finish_timeout=PATIENCE)
    for step in range(300):
        run.log({"loss": step / 7}, step=step)
        if step in (100, 200):
            wait_delivered(run.dir, "dvclive")
            kill_courier(run.dir, "dvclive")
    run.finish()
    assert_same(run.dir)
    assert len(read(run.dir, "dvclive").metrics["loss"]) == 300


def test_resume_from_a_checkpoint_shows_each_step_once(tmp_path: Path) -> None:
    """Points that were taken back are in no file, and DVC shows the latest of the others."""
    with runcast.start_run("dvclive", dir=tmp_path, config={"lr": 0.1}) as run:
        for step in range(10):
            run.log({"loss": step / 7, "old/only": 1.0} if step > 5 else {"loss": step / 7}, step=step)
        run.log_text("note", "old", step=9)
    with runcast.start_run("dvclive", resume=run.dir, resume_step=4, finish_timeout=PATIENCE) as again:
        for step in (5, 6):
            again.log({"loss": step / 11}, step=step)
    assert_same(run.dir)
    assert not (run.dir / "dvclive/plots/metrics/old").exists()
    (found,) = metrics(tmp_path).values()
    assert found == {"loss": 6 / 11, "step": 6}


def test_resumed_run_keeps_what_dvc_shows(tmp_path: Path) -> None:
    """Latest values, plots and models of the first part are still in `metrics.json` and `dvc.yaml`."""
    with runcast.start_run("dvclive", dir=tmp_path) as run:
        run.log({"first": 1.0}, step=0)
        run.log_table("curve", ["x", "y"], [[1, 2]], step=0)
        run.log_artifact(__file__, name="model", kind="model")
        run.set_summary({"best": math.nan})
    described = (run.dir / "dvclive/dvc.yaml").read_bytes()
    with runcast.start_run("dvclive", resume=run.dir, finish_timeout=PATIENCE) as again:
        again.log({"second": 2.0}, step=1)
    assert (run.dir / "dvclive/dvc.yaml").read_bytes() == described
    assert json.loads((run.dir / "dvclive/metrics.json").read_bytes()) == {
        "best": {"$float": "NaN"},
        "first": 1.0,
        "second": 2.0,
        "step": 1,
    }
    assert_same(run.dir)


# -- where -------------------------------------------------------------------------------------------------------------


def test_dir_is_written_anew_by_each_run(tmp_path: Path) -> None:
    """As `Live` does it; the run before is not read as this one, and what else is there stays."""
    option = {"dvclive": {"dir": str(tmp_path / "dvclive")}}
    runs = []
    for name in ("first", "second"):
        with runcast.start_run(option, dir=tmp_path / "runs", strict=True) as run:
            run.log({name: 1.0}, step=0)
        (tmp_path / "dvclive" / "mine.txt").touch()
        runs.append(run)
    first, second = runs
    assert list(read(second.dir, "dvclive").metrics) == ["second"]
    assert (tmp_path / "dvclive" / "mine.txt").exists()
    assert not (second.dir / "dvclive").exists()
    with pytest.raises(ValueError, match="of another run by now"):
        read(first.dir, "dvclive")
    (tmp_path / "dvclive").rename(tmp_path / "gone")
    with pytest.raises(LookupError, match="no run"):
        read(second.dir, "dvclive")
    (tmp_path / "gone").rename(tmp_path / "dvclive")
    with pytest.raises(ValueError, match="of another run by now"):
        DVCLiveReporter(str(tmp_path / "dvclive")).open(info(first.dir, first.id), native_of(first.dir, "dvclive"))


def test_two_runs_at_once_are_not_mixed_in_one_dir(tmp_path: Path) -> None:
    """The second is refused, in words, while the first is at it."""
    one, other = (DVCLiveReporter(str(tmp_path / "dvclive")) for _ in range(2))
    native = one.open(info(tmp_path, "one"), None)
    with pytest.raises(ValueError, match="written by another run"):
        other.open(info(tmp_path, "other"), None)
    one.log_metrics({"loss": 1.0}, 0, 0.0)
    one.close("completed")
    assert list(one.read(native).metrics) == ["loss"]
    other.open(info(tmp_path, "other"), None)
    other.close("completed")


def test_what_runcast_did_not_write_is_not_removed(tmp_path: Path) -> None:
    """A folder of plain DVCLive's, or a project with its own `params.yaml`, is refused."""
    (tmp_path / "params.yaml").write_text("mine: 1\n")
    with pytest.raises(ValueError, match="didn't write"):
        DVCLiveReporter(str(tmp_path)).open(info(tmp_path), None)
    assert (tmp_path / "params.yaml").read_text() == "mine: 1\n"


def test_a_run_folder_does_not_say_where_we_write(tmp_path: Path) -> None:
    """Neither a stranger's state nor a stranger's link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    told = NativeRun("a-run", data={"dir": str(elsewhere), "home": str(elsewhere)})
    with pytest.raises(ValueError, match="say so"):
        DVCLiveReporter().open(info(tmp_path / "run"), told)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "dvclive").symlink_to(elsewhere)
    with pytest.raises(OSError, match="link"):
        DVCLiveReporter().open(info(tmp_path / "run"), None)
    assert list(elsewhere.iterdir()) == []


def test_moved_run_folder_goes_on_where_it_is(tmp_path: Path) -> None:
    """The files are written beside their journal."""
    with runcast.start_run("dvclive", dir=tmp_path / "runs") as run:
        run.log({"loss": 1.0}, step=0)
    moved = run.dir.rename(tmp_path / run.id)
    with runcast.start_run("dvclive", resume=moved, finish_timeout=PATIENCE) as again:
        again.log({"loss": 0.5}, step=1)
    assert not run.dir.exists()
    assert_same(moved)


def test_files_are_private(tmp_path: Path) -> None:
    """Nobody else reads what is logged."""
    with runcast.start_run("dvclive", dir=tmp_path) as run:
        log_some(run)
    for path in (run.dir / "dvclive", *(run.dir / "dvclive").rglob("*")):
        if "artifacts" not in path.parts or path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


# -- DVC experiments ---------------------------------------------------------------------------------------------------

EXPERIMENT = {"dvclive": {"dir": "dvclive", "save_dvc_exp": True}}


def test_run_is_saved_as_an_experiment_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc exp show` has its metrics and parameters; the branch stays, and artifacts are not put into git."""
    root = repository(tmp_path / "repository")
    monkeypatch.chdir(root)
    head = git(root, "rev-parse", "HEAD")
    with runcast.start_run(EXPERIMENT, name="mine", dir=tmp_path / "runs", config={"lr": 0.5}, strict=True) as run:
        run.log({"train/loss": 0.25}, step=3)
        run.log_artifact(root / "train.txt")
    name = f"mine-{run.id}"
    assert git(root, "rev-parse", "HEAD") == head
    assert name in run_dvc(root, "exp", "list", "--name-only")
    found = json.loads(run_dvc(root, "exp", "show", "--json"))
    (experiment,) = found[1]["experiments"]
    (revision,) = experiment["revs"]
    data = revision["data"]
    assert data["metrics"]["dvclive/metrics.json"]["data"] == {"train": {"loss": 0.25}, "step": 3}
    assert data["params"]["dvclive/params.yaml"]["data"] == {"lr": 0.5}
    assert data["params"]["dvclive/runcast.json"]["data"]["status"] == "completed"
    saved = git(root, "ls-tree", "-r", "--name-only", revision["rev"]).splitlines()
    assert "dvclive/plots/metrics/train/loss.tsv" in saved
    assert not [path for path in saved if "artifacts" in path]
    assert_same(run.dir)


def test_experiment_has_the_name_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC_EXP_NAME keeps its meaning, and a run that goes on is saved in its place."""
    root = repository(tmp_path / "repository")
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_EXP_NAME", "named")
    with runcast.start_run(EXPERIMENT, dir=tmp_path / "runs", strict=True) as run:
        run.log({"loss": 0.25}, step=0)
    with runcast.start_run(EXPERIMENT, resume=run.dir, strict=True) as again:
        again.log({"loss": 0.5}, step=1)
    assert run_dvc(root, "exp", "list", "--name-only").split() == ["named"]


def test_experiment_without_a_repository_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, before training."""
    monkeypatch.chdir(tmp_path)
    run = runcast.start_run(EXPERIMENT, dir=tmp_path / "runs")
    with pytest.raises(runcast.TrackerStartError, match="needs a DVC repository"):
        run.wait_started()
    run.finish()


@pytest.mark.parametrize("outs", ["outs", "metrics and plots"])
def test_stage_of_a_pipeline_has_our_files_as_its_results(outs: str, tmp_path: Path) -> None:
    """`dvc exp run` of a script that reports to its outputs: one experiment, with the values."""
    root = repository(tmp_path / "repository")
    (root / "train.py").write_text(
        "import runcast\n"
        f"with runcast.start_run({EXPERIMENT!r}, dir={str(tmp_path / 'runs')!r}, strict=True) as run:\n"
        "    run.log({'train/loss': 0.25}, step=3)\n"
    )
    results = (
        "    outs: [dvclive]\n"
        if outs == "outs"
        else "    metrics: [dvclive/metrics.json: {cache: false}]\n    plots: [dvclive/plots/metrics: {x: step}]\n"
    )
    (root / "dvc.yaml").write_text(
        f"stages:\n  train:\n    cmd: {sys.executable} train.py\n    deps: [train.py]\n{results}"
    )
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "pipeline")
    run_dvc(root, "exp", "run", "--name", "piped")
    assert run_dvc(root, "exp", "list", "--name-only").split() == ["piped"]
    shown = metrics(root, *(["dvclive/metrics.json"] if outs == "outs" else []))  # DVC reads no dvc.yaml in outputs
    assert shown["dvclive/metrics.json"] == {"train": {"loss": 0.25}, "step": 3}


# -- availability, example ---------------------------------------------------------------------------------------------


def test_available_without_an_account() -> None:
    """`"all"` takes it, with one line that says where."""
    found = DVCLiveReporter.availability()
    assert (found.status, found.mode) == ("ready", "local")
    assert "run folder" in found.reason


def test_unavailable_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed, or too old: the line that helps."""
    from importlib import metadata

    monkeypatch.setattr(metadata, "version", lambda name: "2.0")
    assert DVCLiveReporter.availability().status == "unsupported"
    monkeypatch.setattr(metadata, "version", lambda name: (_ for _ in ()).throw(metadata.PackageNotFoundError(name)))
    found = DVCLiveReporter.availability()
    assert (found.status, "runcast[dvclive]" in found.reason) == ("missing", True)


def test_example_runs(tmp_path: Path) -> None:
    """The example of this folder works and says where to look."""
    example = Path(__file__).with_name("example.py")
    done = subprocess.run(
        [sys.executable, str(example), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run_dir,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert f"dvc --cd {run_dir}/dvclive plots show" in done.stdout
    assert_same(run_dir)
