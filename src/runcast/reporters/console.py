"""The console: metrics as lines on standard output, for those who want to read along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from runcast.events import RunStatus
from runcast.flatten import flatten
from runcast.reporter import Availability, NativeRun, Reporter, RunInfo


class ConsoleReporter(Reporter):
    """Prints what is logged. It is no tracker: ``"all"`` leaves it out, its name asks for it."""

    name: ClassVar[str] = "console"
    in_process: ClassVar[bool] = True

    @classmethod
    def availability(cls) -> Availability:
        reason = 'prints to the terminal; ask for it by name, "all" leaves it out'
        return replace(super().availability(), status="on request", reason=reason, mode="local")

    def open(self, run: RunInfo, attach: NativeRun | None) -> NativeRun:
        self._print(run.project, run.name, str(run.dir))
        return NativeRun(id=run.run_id, url="this terminal")

    def log_config(self, config: Mapping[str, Any]) -> None:
        for key, value in flatten(config).items():
            self._print("config", key, str(value))

    def log_metrics(self, metrics: Mapping[str, float], step: int, time: float) -> None:
        self._print(f"step {step}", "  ".join(f"{name} {value:.6g}" for name, value in metrics.items()))

    def log_text(self, key: str, text: str, step: int, time: float) -> None:
        self._print(f"step {step}", key, text)

    def set_summary(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self._print("summary", key, str(value))

    def add_tags(self, tags: Sequence[str]) -> None:
        self._print("tags", ", ".join(tags))

    def close(self, status: RunStatus) -> None:
        self._print("run", status)

    def _print(self, *parts: str) -> None:
        from rich.console import Console
        from rich.markup import escape

        from runcast.display import line, visible

        head, rest = line(parts[0]), visible("  ".join(parts[1:]))
        Console(soft_wrap=True, highlight=False).print(f"[dim]{escape(head)}[/dim] {escape(rest)}")
