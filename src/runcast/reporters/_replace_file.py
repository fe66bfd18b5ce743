"""Writing a file in one piece."""

from __future__ import annotations

from pathlib import Path

from runcast.trust import private


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file of its owner's alone, in the place of whatever is there."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=private) as file:
        file.write(content)
    temporary.replace(path)
