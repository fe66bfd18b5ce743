"""Watches what a process asks for: connections to other machines, which are refused, and questions to somebody.

The kit's processes load this file as their ``sitecustomize``, so it knows nothing but the standard library. What another
language connects to (a helper program of an SDK's, say) it doesn't see.
"""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
from typing import Any

_log: list[str] = []
"""Where it is written down; empty while nobody watches."""


def watch(log: str) -> None:
    """Watches this process, and those that it forks, from now on.

    Args:
        log: The file to add a line of JSON to for each thing.
    """
    installed = bool(getattr(sys, "_runcast_watches", False))
    _log[:] = [log]
    if not installed:  # an audit hook is there for good
        sys._runcast_watches = True  # type: ignore[attr-defined]  # the one thing that all copies of this file see
        sys.addaudithook(_hook)


def unwatch() -> None:
    """Looks away again."""
    _log.clear()


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _log:
        return
    if event == "builtins.input":
        _note("prompt", f"input({args[0]!r})")
    elif event == "open" and args[0] == "/dev/tty":
        if sys._getframe(1).f_code.co_name != "leave_terminal":  # which our own courier gives up
            _note("prompt", "opens the terminal")
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        _refuse(event, args[1][0] if isinstance(args[1], tuple) else None)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        _refuse(event, args[0])


def _refuse(event: str, host: Any) -> None:
    if isinstance(host, bytes):
        host = host.decode(errors="replace")
    if isinstance(host, str) and not _is_here(host):
        _note("connection", f"{event} {host}")
        raise ConnectionRefusedError(f"the conformance kit lets nothing out of this machine: {event} {host}")


def _is_here(host: str) -> bool:
    if host in ("", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False


def _note(kind: str, what: str) -> None:
    line = json.dumps({"kind": kind, "what": what, "pid": os.getpid()}) + "\n"
    descriptor = os.open(_log[0], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
