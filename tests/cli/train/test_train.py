"""`runcast train`, with a tiny model."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time

import pytest

import runcast


@pytest.fixture
def train(cli, data, body_dir, tmp_path):
    """Calls `runcast train` for two steps."""

    def call(*options, suffix="csv", report_to="shelf"):
        return cli(
            *("train", data[suffix], "--eval", data["csv"], "--text-column", "words", "--label-column", "topic"),
            *("--model", body_dir, "--output", tmp_path / "output", "--max-steps", 2, "--use-cpu"),
            *("--report-to", report_to, *options),
        )

    return call


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_files_become_a_model_and_a_run(train, cli, tmp_path, suffix):
    """Every format trains, evaluates on all rows, saves a model that predicts, and is complete in the tracker."""
    from runcast.fewshot import FewShotClassifier

    result = train("--shots", 4, "--name", "first", "--project", "tests", "--json", suffix=suffix)
    assert result.code == 0, result.err
    trained = result.json
    assert (trained["steps"], trained["examples"], trained["evaluated"]) == (2, 12, 24)
    assert 0.0 <= trained["metrics"]["accuracy"] <= 1.0
    assert [(row["name"], row["state"]) for row in trained["deliveries"]] == [("shelf", "complete")]

    model = FewShotClassifier.from_pretrained(trained["model"], device="cpu")
    assert set(model.predict(["my invoice", "my parcel"])) <= {"account", "billing", "delivery"}

    record = runcast.read_run(trained["run_dir"])
    assert (record.name, record.project, record.status) == ("first", "tests", "completed")
    assert record.metrics["eval/accuracy"][-1].value == trained["metrics"]["accuracy"]
    assert record.config["data"] == {
        "train_file": str(tmp_path / f"data.{suffix}"),
        "eval_file": str(tmp_path / "data.csv"),
        "shots": 4,
        "eval_examples": 24,
        "train_examples": 12,
        "labels": ["account", "billing", "delivery"],
    }
    assert record.artifacts == {}
    assert cli("verify", trained["run"]).code == 0


def test_run_is_verified_in_tensorboard(train, cli):
    """With a real tracker: everything that was reported reads back."""
    result = train("--json", report_to="tensorboard")
    assert result.code == 0, result.err
    verified = cli("verify", result.json["run"], "--json")
    assert verified.code == 0
    (tracker,) = verified.json["trackers"]
    assert tracker["compared"]["metrics"]["matched"] > 5


def test_terminal_says_where_everything_is(train):
    """Metrics, the model's folder and the run, with the next commands."""
    out = train().out
    for part in ("accuracy", "output/model", "runcast verify"):
        assert part in out


def test_options_of_training_arguments_work(train):
    """In kebab or snake case, with `=` or a space; booleans as flags."""
    result = train(
        "--learning-rate", "3e-4", "--weight_decay=0.01", "--logging-steps", 1, "--no-logging-first-step", "--json"
    )
    assert result.code == 0, result.err
    config = runcast.read_run(result.json["run_dir"]).config
    assert (config["learning_rate"], config["weight_decay"], config["logging_first_step"]) == (3e-4, 0.01, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--learning-rat", "1"], "no option --learning-rat. Did you mean --learning-rate?"),
        (["--learning-rate", "fast"], "invalid float value: 'fast'"),
        (["--eval-strategy", "sometimes"], "sometimes"),
        (["--head-params", "{"], "an option takes JSON, not '{'"),
        (["--weight-decay", "0.1", "stray"], "unexpected argument 'stray'"),
        (["--loss", "cosin"], "cosin"),
        (["--head", "torc"], "head is 'torc'; expected one of logistic, torch (torch?)"),
        (
            ["--early-stopping", "2", "--eval-strategy", "no", "--load-best-model-at-end", "False"],
            "early stopping needs evaluations",
        ),
        (["--model", "no/such-model"], "no/such-model"),
        (["--resume-from-checkpoint", "no/such-folder"], "no/such-folder holds no checkpoint"),
        (["--resume-from-checkpoint", "True"], "output has no checkpoint to resume from"),
        (["--do-predict"], "--do-predict would do nothing: train always trains and evaluates; predictions are made by"),
        (["--no-remove-unused-columns"], "--no-remove-unused-columns would do nothing"),
        (["--hub_model_id=me/it"], "--hub_model_id would do nothing: it needs --push-to-hub"),
        (["--per-device-train-batch-size", "8"], "it is for pairs; --sampling-strategy batch has --classes-per-batch"),
        (["--sampling-strategy", "unique", "--classes-per-batch", "8"], "it is for --sampling-strategy batch"),
        (["--push-to-hub", "True"], "--push-to-hub: the repository 'output' can't be made at http"),
    ],
)
def test_option_that_makes_no_sense_is_refused(train, options, said, tmp_path):
    """Unknown options (with the nearest), bad values and missing models end in one line, before there is a run."""
    result = train(*options)
    assert result.code == 2
    assert said in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


def test_head_is_of_the_kind_that_was_asked_for(train):
    """And the saved classifier has it."""
    from runcast.fewshot import FewShotClassifier

    result = train("--head", "torch", "--json")
    assert result.code == 0, result.err
    assert FewShotClassifier.from_pretrained(result.json["model"], device="cpu").head.kind == "torch"


def test_same_seed_gives_the_same_result(train):
    """Examples, order and metrics depend on the seed alone."""
    first, second = (train("--seed", 7, "--shots", 3, "--json", report_to="none").json for _ in range(2))
    assert first["metrics"]["accuracy"] == second["metrics"]["accuracy"]
    assert first["metrics"]["loss"] == second["metrics"]["loss"]
    assert first["run_dir"] is None


def test_early_stopping_evaluates_and_keeps_the_best(train):
    """With a patience it evaluates while training, stops when nothing gets better, and draws embeddings on request."""
    options = ("--eval-steps", 1, "--early-stopping", 1, "--plot-embeddings", "--learning-rate", 0.0, "--json")
    result = train("--max-steps", 9, *options)
    assert result.code == 0, result.err
    assert result.json["steps"] == 2
    assert all(figure.endswith(".png") for figure in result.json["figures"])
    record = runcast.read_run(result.json["run_dir"])
    assert [point.step for point in record.metrics["eval/accuracy"]] == [1, 2, 2]
    assert len(record.images["eval/embeddings"]) == 3


def test_killed_training_goes_on(train, data, body_dir, tmp_path):
    """Resumed from its last checkpoint it is the same run, in which no step shows twice; `False` starts another."""
    output = tmp_path / "output"
    saving = ("--save-strategy", "steps", "--save-steps", "2", "--logging-steps", "1")
    command = [
        *(sys.executable, "-m", "runcast", "train", data["csv"], "--eval", data["csv"], "--text-column", "words"),
        *("--label-column", "topic", "--model", body_dir, "--output", output, "--report-to", "tensorboard"),
        *("--max-steps", "100000", "--use-cpu", "--disable-tqdm", "True", *saving),
    ]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while killed.poll() is None and not (output / "checkpoint-4" / "trainer_state.json").exists():
            time.sleep(0.05)
    finally:
        killed.kill()
    assert killed.wait() < 0, "it has ended by itself"
    (run,) = (tmp_path / "runs").glob("*/journal.jsonl")
    last = max(int(path.parent.name.partition("-")[2]) for path in output.glob("checkpoint-*/trainer_state.json"))

    more = last + 3
    resumed = train("--max-steps", more, "--resume-from-checkpoint", "True", *saving, "--json", report_to="tensorboard")
    assert resumed.code == 0, resumed.err
    assert (resumed.json["steps"], resumed.json["run"]) == (more, run.parent.name)
    record = runcast.read_run(run.parent)
    assert record.status == "completed"
    assert [point.step for point in record.metrics["train/loss"]] == list(range(1, more + 1))

    (checkpoint,) = output.glob(f"checkpoint-{last + 2}")
    again = train("--max-steps", more + 1, "--resume-from-checkpoint", checkpoint, "--json", report_to="tensorboard")
    assert (again.json["steps"], again.json["run"]) == (more + 1, resumed.json["run"])
    anew = train("--resume-from-checkpoint", "False", "--json", report_to="tensorboard")
    assert (anew.json["steps"], anew.json["run"] == resumed.json["run"]) == (2, False)


def test_checkpoint_of_other_labels_is_refused(train, data):
    """In one line; the run that wrote the checkpoint stays as it is."""
    first = train("--save-strategy", "steps", "--save-steps", 2, "--json").json
    data["csv"].write_text(data["csv"].read_text().replace("billing", "money"))
    result = train("--resume-from-checkpoint", "True", "--max-steps", 4)
    assert result.code == 2
    assert "checkpoint-2 is of a classifier with the labels" in result.err.splitlines()[-1]
    assert runcast.read_run(first["run_dir"]).status == "completed"


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as an upload of small files needs; commits go to the server's list."""

    def answer(self):
        sent = self.rfile.read(int(self.headers.get("content-length") or 0))
        found = {"id": "me/it", "name": "me/it", "url": "https://huggingface.co/me/it", "sha": "a" * 40, "siblings": []}
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(sent)["files"]]
            found = {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
        elif "/commit/" in self.path:
            lines = [json.loads(line)["value"] for line in sent.splitlines()]
            self.server.commits.append([line["path"] for line in lines if "path" in line])
            found = {"commitUrl": "https://huggingface.co/me/it/commit/abc", "commitOid": "a" * 40, "success": True}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args):
        """Nothing on standard error."""


def test_model_is_pushed_on_request(data, body_dir, tmp_path):
    """`--push-to-hub` uploads the classifier that was saved, without checkpoints, and says where it is."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        hub.commits = []
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        command = [
            *(sys.executable, "-m", "runcast", "train", data["csv"], "--eval", data["csv"], "--text-column", "words"),
            *("--label-column", "topic", "--model", body_dir, "--max-steps", "2", "--report-to", "none", "--use-cpu"),
            *("--json", "--push-to-hub", "True", "--hub-model-id", "me/it", "--hub-token", "hf_ours"),
        ]
        address = f"http://127.0.0.1:{hub.server_port}"
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        hub.shutdown()
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)
    assert trained["pushed"] == "https://huggingface.co/me/it/commit/abc"
    saved = tmp_path / trained["model"]
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert [set(commit) for commit in hub.commits] == [files]


def test_model_is_an_artifact_on_request(train):
    """`--log-model` adds the saved model to the run."""
    record = runcast.read_run(train("--log-model", "--json").json["run_dir"])
    assert record.artifacts["model"].kind == "model"
    assert "classifier.json" in record.artifacts["model"].files


def test_classes_with_few_examples_are_noted(train, tmp_path, data):
    """Fewer examples than wanted are used, and said."""
    lines = data["csv"].read_text().splitlines()
    data["csv"].write_text("\n".join(lines[:1] + lines[1:3] + lines[9:25]) + "\n")
    result = train("--shots", 4, "--json")
    assert result.code == 0, result.err
    assert result.json["notes"] == ["class 'billing' has 2 of the 4 examples wanted: all are used"]
    assert result.json["notes"][0] in result.err


def test_run_that_was_not_delivered_ends_with_1(train, tmp_path):
    """A tracker that refuses what it gets is told, the exit code is 1, and the model is there all the same."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shelf-refuses").touch()
    result = train("--json")
    assert result.code == 1
    (row,) = result.json["deliveries"]
    assert row["refused"] > 0
    assert "the shelf refuses" in row["detail"]
    assert json.loads((tmp_path / "output" / "model" / "classifier.json").read_text())["labels"]


def test_named_tracker_that_cannot_start_is_refused(train, tmp_path):
    """A tracker that was asked for by name and can't start ends the command before it trains, in one line."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "shelf-is-gone").touch()
    result = train()
    assert result.code == 2
    assert "tracker 'shelf' can't start: ValueError: the shelf is gone" in result.err.splitlines()[-1]
