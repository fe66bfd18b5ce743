"""What `import runcast` costs."""

from __future__ import annotations

import tomllib
from importlib import resources

import runcast

_VERSIONS = tomllib.loads(resources.files("runcast.reporters").joinpath("versions.toml").read_text())
HEAVY = (
    *("torch", "transformers", "sentence_transformers", "numpy", "pyarrow", "codecarbon", "pynvml"),
    *(row["module"] for row in _VERSIONS.values()),
)
CHECK = f"""
import sys
{{code}}
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_import_loads_neither_torch_nor_a_tracker(python):
    """`import runcast` loads nothing heavy, and hardly anything of its own."""
    code = CHECK.format(code="import runcast; assert not [m for m in sys.modules if m.startswith('runcast.')]")
    result = python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_detection_loads_neither_torch_nor_a_tracker(python):
    """Asking what is available, and resolving "all", imports no SDK."""
    code = CHECK.format(code="import runcast; runcast.available_reporters(); runcast.resolve_report_to('all')")
    result = python(code)
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_can_be_loaded():
    """Everything in `__all__` is there, and an unknown name is an AttributeError."""
    for name in runcast.__all__:
        assert getattr(runcast, name) is not None
    assert sorted(runcast.__all__) == sorted(runcast._MODULE_OF)
    assert set(runcast.__all__) <= set(dir(runcast))
    try:
        runcast.no_such_name
    except AttributeError as error:
        assert "no_such_name" in str(error)
    else:
        raise AssertionError("an unknown name must be an AttributeError")
