"""The trainer's page shows code that runs."""

from __future__ import annotations

import re
from pathlib import Path

import runcast
from runcast.fewshot import model as model_module

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"


def test_the_page_is_a_program_that_runs(body_dir, monkeypatch, tmp_path, capsys):
    """All blocks, one after the other, run; the tiny model stands in for all-MiniLM-L6-v2."""
    monkeypatch.setattr(
        model_module, "resolve_model", lambda name: str(body_dir) if name == "all-MiniLM-L6-v2" else name
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {"__name__": "docs"})  # noqa: S102 -- our own page
    runs = [runcast.read_run(folder) for folder in (tmp_path / "runs").iterdir()]
    assert [run.status for run in runs] == ["completed"] * 3
    assert any("separation" in run.metrics and "train/loss" in run.metrics for run in runs)
    assert any("mine" in run.metrics and "train/loss" in run.metrics for run in runs)
    assert any("eval/embeddings" in run.images for run in runs)
    assert "eval_accuracy" in capsys.readouterr().out
