"""The kit's pytest plugin: lists what a reporter doesn't support, and writes what the tests have proven.

pytest loads it in every test run where runcast is installed, so it imports nothing, and does nothing for other tests.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.register_assert_rewrite(
    *(f"runcast.testing.{name}" for name in ("contract", "couriers", "fault_contract")),
)

METHODS = {
    "metrics": ("log_metrics", "log_metrics_batch"),
    "config": ("log_config",),
    "texts": ("log_text",),
    "images": ("log_image",),
    "tables": ("log_table",),
    "histograms": ("log_histogram",),
    "artifacts": ("log_artifact",),
    "summary": ("set_summary",),
    "tags": ("add_tags",),
    "status": ("close",),
    "older checkpoint": ("replace",),
    "import": ("find_runs",),
}
"""Feature → the reporter's methods that are it, whose docstring says how."""

_PROPERTY = "runcast"


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--capabilities FILE``."""
    parser.getgroup("runcast").addoption(
        "--capabilities",
        metavar="FILE",
        type=Path,
        help="add to this JSON file what the conformance kit has proven of each reporter, feature by feature",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> None:
    """Notes which reporter a test of the kit was about, and which features, for the report that is about to be made."""
    reporter = _tested(item)
    if reporter is not None:
        features = _features(item)
        how = {feature: words for feature in features if (words := _how(reporter, feature))}
        about = {"reporter": reporter.name, "features": features, "how": how}
        item.user_properties[:] = [
            *(entry for entry in item.user_properties if entry[0] != _PROPERTY),
            (_PROPERTY, about),
        ]


def _tested(item: pytest.Item) -> Any:
    """The class of the reporter; None for a test that isn't the kit's."""
    contract = sys.modules.get("runcast.testing.contract.base")
    cls = getattr(item, "cls", None)
    if contract is None or cls is None or not issubclass(cls, contract.ContractBase):
        return None
    return cls.tested if cls.tested.name else None


def _features(item: pytest.Item) -> list[str]:
    """What `feature` says of the test, or of the standard test that it overrides."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    name = getattr(item, "originalname", item.name)
    tests = (vars(cls).get(name) for cls in item.cls.__mro__)  # type: ignore[attr-defined]  # that of the kit
    said = (test.features for test in tests if hasattr(test, "features"))
    return [feature.format_map(parameters) for feature in next(said, ())]


def _how(reporter: Any, feature: str) -> str:
    """Where a feature goes, in the reporter's own words: the first line of its method's own docstring."""
    for method in METHODS.get(feature, ()):
        if reporter.supports(method) and (words := getattr(reporter, method).__doc__):
            return str(words).strip().splitlines()[0]
    return ""


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what was not tested and why, by reporter; and writes the file."""
    skipped: dict[str, Counter[str]] = defaultdict(Counter)
    seen: dict[str, dict[str, list[_Seen]]] = defaultdict(lambda: defaultdict(list))
    for outcome in ("passed", "skipped", "xfailed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            about = dict(getattr(report, "user_properties", ())).get(_PROPERTY)  # a module that is skipped has none
            if about is None:
                continue
            reason = _reason(report)
            if outcome in ("skipped", "xfailed"):
                skipped[about["reporter"]][reason] += 1
            for feature in about["features"]:
                seen[about["reporter"]][feature].append(_Seen(outcome, reason, about["how"].get(feature, "")))
    for name, reasons in sorted(skipped.items()):
        terminalreporter.section(f"{name}: not tested")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{reason} ({count} test{'s' if count > 1 else ''})")
    if path := config.getoption("--capabilities"):
        _write(path, {name: {key: row for key in found if (row := _row(found[key]))} for name, found in seen.items()})


class _Seen(NamedTuple):
    """What became of a test of a feature."""

    outcome: str
    reason: str
    how: str


def _row(tests: Sequence[_Seen]) -> dict[str, str]:
    """The result of a feature; nothing if its tests were skipped for another reason than that it isn't supported."""
    outcomes = {test.outcome for test in tests}
    if outcomes & {"failed", "error"}:
        return {"result": "failed", "how": tests[0].how}
    if "xfailed" in outcomes:
        return {"result": "no", "how": next(test.reason for test in tests if test.outcome == "xfailed")}
    if "passed" in outcomes:
        return {"result": "yes", "how": tests[0].how}
    return {"result": "no", "how": ""} if any("doesn't override" in test.reason for test in tests) else {}


def _reason(report: Any) -> str:
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return ""


def _write(path: Path, results: dict[str, dict[str, dict[str, str]]]) -> None:
    """Adds to the file; of a reporter that was tested now, a feature that wasn't keeps its old result."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, row in results.items():
        found[name] = {**found.get(name, {}), **row}
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
