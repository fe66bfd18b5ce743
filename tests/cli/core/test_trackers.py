"""`runcast trackers`."""

from __future__ import annotations

import json
from importlib import resources


def test_every_tracker_is_listed_with_its_state(cli):
    """Ours and other distributions' reporters, each with status and mode."""
    result = cli("trackers", "--json")
    found = {tracker["name"]: tracker for tracker in result.json}
    assert result.code == 0
    assert found["shelf"]["status"] == "ready"
    assert found["console"]["status"] == "on request"
    assert {"tensorboard", "wandb", "mlflow", "comet", "clearml"} <= set(found)


def test_missing_tracker_has_its_install_line(cli, monkeypatch):
    """What is not installed is listed with the command that installs it, in JSON and in the table."""
    from runcast.reporters.wandb import WandbReporter

    monkeypatch.setattr(type(WandbReporter.requires), "installed_version", lambda self: None)
    found = {tracker["name"]: tracker for tracker in cli("trackers", "--json").json}
    assert found["wandb"]["status"] == "missing"
    assert 'pip install "runcast[wandb]"' in found["wandb"]["reason"]
    assert 'pip install "runcast[wandb]"' in cli("trackers").out


def test_capabilities_are_what_the_kit_has_seen(cli):
    """The table shows the packaged results of the conformance kit, tracker by tracker and feature by feature."""
    found = cli("trackers", "--capabilities", "--json").json
    known = json.loads(resources.files("runcast.reporters").joinpath("capabilities.json").read_text())
    assert found.keys() == known.keys() >= {"tensorboard", "wandb", "mlflow", "comet", "clearml"}
    for tracker, row in known.items():
        for feature, seen in row.items():
            assert found[tracker][feature]["result"] == seen["result"] != "failed"
    table = cli("trackers", "--capabilities").out
    assert all(tracker in table for tracker in known)
    assert all(feature in table for row in known.values() for feature in row)
