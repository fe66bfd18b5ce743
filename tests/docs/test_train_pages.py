"""The examples of the pages that need the trainer run as they stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("pages", Path(__file__).with_name("pages.py"))
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)


@pytest.mark.parametrize("page", pages.pages(trainer=True), ids=lambda page: page.name)
def test_examples_run(page, tmp_path, monkeypatch):
    """Every Python block of the page runs, in order."""
    monkeypatch.chdir(tmp_path)
    pages.run(page)
