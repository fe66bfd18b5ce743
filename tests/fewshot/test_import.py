"""Without the extra that brings torch, the error has the line that installs it."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("module", "missing"),
    [("runcast.fewshot", "torch"), ("runcast.fewshot", "sklearn"), ("runcast.frameworks.transformers", "transformers")],
)
def test_a_missing_package_is_named_with_the_command(python, module, missing):
    """Importing what needs a package that isn't installed raises ImportError with the pip line."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import {module}
except ImportError as error:
    print(error)
"""
    output = python(code).stdout
    assert f"{missing}" in output and 'is not installed. Install it with: pip install "runcast[train]"' in output
