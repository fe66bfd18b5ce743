"""`runcast trackers`."""

from __future__ import annotations


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
