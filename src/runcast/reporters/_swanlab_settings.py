"""How SwanLab is configured, found where SwanLab looks for it, but without importing it."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

MODES = ("online", "offline")


def mode_of(option: str | None) -> str:
    """``online``, ``offline`` or ``disabled``, as SwanLab itself would decide, but that it never asks for a key."""
    asked = option or configured("mode")
    if asked == "disabled":
        return "disabled"
    if asked in ("offline", "local"):  # the same log; `local` adds a dashboard of SwanLab's own to it
        return "offline"
    if asked in ("online", "cloud"):
        return "online"
    return "online" if has_key() else "offline"


def has_key() -> bool:
    """Whether SwanLab would find an API key."""
    if configured("api_key"):
        return True
    host = configured("api_host")
    for path in (Path(".swanlab") / ".netrc", _root() / ".netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if hosts := netrc.netrc(path).hosts:  # of several, SwanLab takes the first
                return host is None or _bare(host) == _bare(next(iter(hosts)))
    return False


def configured(name: str) -> str | None:
    """A setting, e.g. ``log_dir``, from SwanLab's files or from the environment, whichever comes first with SwanLab."""
    return next(filter(None, map(_text, _found(name))), None)


def _found(name: str) -> Iterator[Any]:
    variable = f"SWANLAB_{name.upper()}"
    system = Path(os.environ.get("SWANLAB_CONFIG_DIR") or "/etc/swanlab")
    yield from (_in_yaml(Path(f"swanlab.{ending}"), name) for ending in ("yaml", "yml"))
    yield from (_in_yaml(path, name) for path in sorted(system.glob("*.y*ml"), reverse=True))
    yield _in_dotenv(Path(".env"), variable)
    if secrets := os.environ.get("SWANLAB_SECRETS_DIR"):
        with contextlib.suppress(OSError):
            yield (Path(secrets) / name).read_text(errors="replace")
    yield os.environ.get(variable)
    for folder in (Path(".swanlab"), _root()):
        yield from (_in_yaml(folder / f"config.{ending}", name) for ending in ("yaml", "yml"))
    if name == "log_dir":  # as it was called before SwanLab 0.8
        yield os.environ.get("SWANLAB_LOGDIR")


def _root() -> Path:
    return Path(os.environ.get("SWANLAB_ROOT") or os.environ.get("SWANLAB_SAVE_DIR") or Path.home() / ".swanlab")


def _in_yaml(path: Path, name: str) -> Any:
    if not path.is_file():
        return None
    yaml = import_module("yaml")
    with contextlib.suppress(OSError, ValueError, yaml.YAMLError):
        found = yaml.safe_load(path.read_text())
        return found.get(name) if isinstance(found, dict) else None
    return None


def _in_dotenv(path: Path, variable: str) -> str | None:
    found = None
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            name, equals, value = line.partition("=")
            if equals and name.strip().removeprefix("export ").strip().upper() == variable:
                found = value
    return found


def _text(value: Any) -> str:
    """A value without the quotes that shells leave."""
    text = "" if value is None else str(value).strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _bare(host: str) -> str:
    return host.rpartition("://")[2].partition("/")[0]
