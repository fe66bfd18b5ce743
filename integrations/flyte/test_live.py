"""The decks of real tasks, read back from what flytekit's local execution wrote."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runcast
from runcast.delivery import load_state
from runcast.errors import MissingDependencyError
from runcast.events import RunStatus
from runcast.reporters._flyte_page import CURVES, LONGEST, NAMES, POINTS, ROWS, Curve, Page, Shelf
from runcast.reporters.flyte import FlyteReporter
from runcast.sync import sync
from runcast.testing.couriers import PATIENCE, python

from .backend import Element, decks, execute, run

EVERYTHING = """
import numpy as np
from PIL import Image

@task(enable_deck=True)
def train(rate: float) -> float:
    config = {"optimizer": {"lr": rate, "name": "adam"}, "layers": [1, 2], "none": None, "text": "3"}
    with runcast.start_run("flyte", project="demo", name="first", group="grid", tags=["a tag"], config=config,
                           dir=folder / "runs") as run:
        for step in range(20):
            run.log({"train/loss": 1 / (step + 1)}, step=step)
        for step in (7, 3, 2**40):
            run.log({"odd/order": float(step)}, step=step)
        for value in (float("nan"), float("inf"), 0.1 + 0.2):
            run.log({"odd/value": value})
        run.update_config({"optimizer": {"lr": 0.5}})
        run.log_text("note", "first line\\nsecond 🚀", step=1)
        run.log_image("picture", np.arange(48, dtype=np.uint8).reshape(4, 4, 3), step=2)
        run.log_table("predictions", ["text", "n"], [["a", 1], ["b", None]], step=3)
        run.log_histogram("weights", [1.0, 1.0, 2.0, 5.0], step=4)
        run.set_summary({"best": 7, "diverged": False})
        run.add_tags("later")
    (row,) = run.deliveries()
    assert row.done, row
    print(row.where)
    return rate

print(train(rate=0.1))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that logs something of everything has been executed below it."""
    folder = tmp_path_factory.mktemp("flyte")
    assert execute(EVERYTHING, folder) == "the deck 'first' of the task\n0.1\n"
    return folder


@pytest.fixture(scope="module")
def deck(folder: Path) -> Element:
    """The run's deck."""
    (tabs,) = decks(folder)
    return tabs["first"]


def test_flytekits_own_decks_stay(folder: Path) -> None:
    """The run's deck is one more beside those that flytekit makes."""
    (tabs,) = decks(folder)
    assert set(tabs) == {"Timeline", "Input", "Output", "Source Code", "Dependencies", "first"}


def test_deck_says_what_the_run_is(deck: Element) -> None:
    """Name, id, project, group, tags, times and status are there."""
    rows = dict(row for row in deck.rows() if len(row) == 2)
    assert deck.texts("h1") == ["first"]
    assert (rows["project"], rows["group"], rows["status"]) == ("demo", "grid", "completed")
    assert rows["tags"] == '["a tag", "later"]'
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", rows["started"])
    assert rows["finished"] >= rows["started"]
    assert rows["run"]


def test_metrics_are_a_table_and_curves(deck: Element) -> None:
    """Last values are exact, steps may be out of order and huge, NaN and infinity are shown and not drawn."""
    table = {row[0]: row[1:] for row in deck.rows() if len(row) == 6}
    assert table == {
        "odd/order": [repr(2.0**40), str(2**40), "3.0", repr(2.0**40), "3"],
        "odd/value": [repr(0.1 + 0.2), str(2**40 + 3), repr(0.1 + 0.2), "inf", "3"],
        "train/loss": ["0.05", "19", "0.05", "1.0", "20"],
    }
    charts = [figure for figure in deck.all("figure") if figure.texts("figcaption")]
    assert [chart.texts("figcaption") for chart in charts] == [["odd/order"], ["odd/value"], ["train/loss"]]
    (curve,) = charts[2].all("polyline")
    points = [tuple(map(float, point.split(","))) for point in curve.attributes["points"].split()]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    assert xs == sorted(xs) and ys == sorted(ys)  # the loss falls, and y goes down
    assert len(set(points)) == 20
    order = [point.split(",") for point in next(charts[0].all("polyline")).attributes["points"].split()]
    assert [float(x) for x, _ in order] == sorted(float(x) for x, _ in order)


def test_everything_else_is_there(deck: Element) -> None:
    """Config with its updates, summary, texts, tables, histograms; the picture is the PNG as it is."""
    rows = deck.rows()
    for row in (
        ["optimizer/lr", "0.5"],
        ["optimizer/name", "adam"],
        ["layers", "[1, 2]"],
        ["none", "null"],
        ["text", "3"],
        ["best", "7"],
        ["diverged", "false"],
        ["a", "1"],
        ["b", "null"],
    ):
        assert row in rows
    assert ["optimizer/lr", "0.1"] not in rows
    assert deck.texts("pre") == ["first line\nsecond 🚀"]
    captions = deck.texts("h3")
    assert captions == ["picture, step 2", "predictions, step 3", "weights, step 4", "note, step 1"]
    (image,) = deck.all("img")
    data = base64.b64decode(image.attributes["src"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.array(Image.open(io.BytesIO(data))), np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    heights = [float(bar.attributes["height"]) for bar in deck.all("rect")]
    assert sum(height > 0 for height in heights) == 3
    assert max(heights) == heights[0]


def test_deck_needs_no_network_and_runs_no_code(deck: Element) -> None:
    """There is nothing in it to fetch, to follow or to run."""
    assert not {element.tag for element in deck.all()} & {"script", "link", "a", "iframe", "object", "form", "base"}
    attributes = [item for element in deck.all() for item in element.attributes.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("data:image/png;base64,") for name, value in attributes if name in ("src", "href"))
    assert not [style for style in deck.texts("style") if "url(" in style or "@import" in style]


HOSTILE = (
    "</pre></td></table></div><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;${BODY_HTML} javascript:x"
)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Markup in any place of a run is shown as the text that it is."""
    execute(
        f"""
bad = {HOSTILE!r}

@task(enable_deck=True)
def train():
    with runcast.start_run("flyte", project=bad, name=bad, group=bad, tags=[bad], config={{bad: {{bad: bad}}}},
                           dir=folder / "runs") as run:
        run.log({{"m" + bad.replace("/", "|"): 1.0}})
        run.log_text(bad.replace("/", "|"), bad)
        run.log_table(bad.replace("/", "|"), [bad], [[bad]])
        run.log_histogram(bad.replace("/", "|"), [1.0, 2.0])
        run.log_image(bad.replace("/", "|"), b"\\x89PNG\\r\\n\\x1a\\n<svg onload=alert(1)>")
        run.set_summary({{bad.replace("/", "|"): bad}})
    assert run.deliveries()[0].done, run.deliveries()

train()
""",
        tmp_path,
    )
    (tabs,) = decks(tmp_path)
    deck = tabs[HOSTILE]
    test_deck_needs_no_network_and_runs_no_code(deck)
    assert deck.texts("pre") == [HOSTILE]
    assert deck.texts("h1") == [HOSTILE]
    assert ["project", HOSTILE] in deck.rows() and [HOSTILE] in deck.rows()
    assert len(list(deck.all("img"))) == 1
    assert deck.text().count("<script>alert(1)</script>") >= 8


@pytest.mark.parametrize("status", ["failed", "killed"])
def test_other_ends(status: RunStatus, tmp_path: Path) -> None:
    """A run that failed or was killed says so."""
    execute(
        f"""
@task(enable_deck=True)
def train():
    run = runcast.start_run("flyte", name="n", dir=folder / "runs")
    run.log({{"loss": 1.0}})
    run.finish({status!r})

train()
""",
        tmp_path,
    )
    (tabs,) = decks(tmp_path)
    assert ["status", status] in tabs["n"].rows()


def test_a_deck_that_is_published_early(tmp_path: Path) -> None:
    """While the run goes on, `Deck.publish` has the page as it is, and says that the run is running."""
    execute(
        """
@task(enable_deck=True)
def train():
    with runcast.start_run("flyte", name="n", dir=folder / "runs") as run:
        run.wait_started()
        Deck.publish()
        run.log({"loss": 1.0})

train()
""",
        tmp_path,
    )
    early, late = decks(tmp_path)
    assert ["status", "running"] in early["n"].rows()
    assert ["status", "completed"] in late["n"].rows()


def test_runs_of_a_workflow(tmp_path: Path) -> None:
    """Two runs of one name in one task are two decks; a task without decks writes none, and is left alone by "all"."""
    out = execute(
        """
def log(value):
    with runcast.start_run("all", name="same", dir=folder / "runs") as run:
        run.log({"loss": value})
    return [row.name for row in run.deliveries()]

@task(enable_deck=True)
def with_decks(x: float) -> float:
    print("flyte" in log(1.0), "flyte" in log(2.0))
    return x

@task
def without(x: float) -> float:
    print("flyte" in log(3.0))
    return x

@workflow
def both(x: float) -> float:
    return without(x=with_decks(x=x))

both(x=1.0)
print("flyte" in log(4.0))
""",
        tmp_path,
    )
    assert out.split() == ["True", "True", "False", "False"]
    (tabs,) = decks(tmp_path)
    first, second = (tab for name, tab in tabs.items() if name.startswith("same"))
    assert [[row[1] for row in tab.rows() if row[:1] == ["loss"]] for tab in (first, second)] == [["1.0"], ["2.0"]]


@pytest.mark.parametrize("delivery", ["process", "thread", "inline"])
def test_every_host_is_in_the_task(delivery: str, tmp_path: Path) -> None:
    """Whatever the host that was asked for, the deck is written in the task's own process, and may be sent to another."""
    execute(
        f"""
import pickle

@task(enable_deck=True)
def train():
    with runcast.start_run("flyte", name="n", dir=folder / "runs", delivery={delivery!r}) as run:
        run.log({{"loss": 1.0}})
    assert run.deliveries()[0].done, run.deliveries()
    assert pickle.loads(pickle.dumps(current_context().decks))[-1].name == "n"

train()
""",
        tmp_path,
    )
    (tabs,) = decks(tmp_path)
    assert [row[1] for row in tabs["n"].rows() if row[:1] == ["loss"]] == ["1.0"]


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    """In a further deck, that says so; one that goes on from a checkpoint begins anew, without what was taken back."""
    execute(
        """
@task(enable_deck=True)
def train():
    with runcast.start_run("flyte", name="n", dir=folder / "runs", config={"a": 1}) as run:
        for step in range(10):
            run.log({"loss": float(step)}, step=step)
    with runcast.start_run(resume=run.dir) as run:
        run.log({"loss": 10.0}, step=10)
    Deck.publish()
    with runcast.start_run(resume=run.dir, resume_step=4) as run:
        run.log({"loss": 5.5}, step=5)
    assert run.deliveries()[0].done, run.deliveries()

train()
""",
        tmp_path,
    )
    early, late = ({name: tab for name, tab in tabs.items() if name.startswith("n")} for tabs in decks(tmp_path))
    points = [[row for row in tab.rows() if row[:1] == ["loss"]] for tab in early.values()]
    assert points == [[["loss", "9.0", "9", "0.0", "9.0", "10"]], [["loss", "10.0", "10", "10.0", "10.0", "1"]]]
    assert "an earlier deck" in list(early.values())[1].text()
    (tab,) = late.values()
    assert ["loss", "5.5", "5", "0.0", "5.5", "6"] in tab.rows()
    assert ["a", "1"] in tab.rows()


def test_outside_a_task(tmp_path: Path) -> None:
    """There it is inactive; by name, and for `sync` afterwards, that is an error that says why."""
    found = FlyteReporter.availability()
    assert (found.status, found.version is not None) == ("inactive", True)
    with pytest.raises(MissingDependencyError, match=r"enable_deck=True"):
        runcast.start_run("flyte", dir=tmp_path)
    execute(
        """
import os

@task(enable_deck=True)
def train():
    run = runcast.start_run("flyte", dir=folder / "runs")
    run.log({"loss": 1.0})
    run.wait_started()
    os._exit(0)

train()
""",
        tmp_path,
    )
    (run_dir,) = (tmp_path / "runs").iterdir()
    (row,) = sync(run_dir, timeout=PATIENCE)
    assert row.state == "failed"
    assert "not in a Flyte task" in row.detail
    assert load_state(run_dir, "flyte").native is not None


def test_sdk_stays_unimported() -> None:
    """Detection imports no flytekit, where the program hasn't."""
    done = python(
        "import sys, runcast\n"
        "print([found.status for found in runcast.available_reporters() if found.name == 'flyte'])\n"
        "assert 'flytekit' not in sys.modules\n"
    )
    assert done.stdout == "['inactive']\n"


# -- the page has a bound ----------------------------------------------------------------------------------------------


def test_page_of_a_huge_run_is_small() -> None:
    """A million points, thousands of names and endless texts and pictures make a page of bounded size that says so."""
    page = Page("huge", {})
    for step in range(1_000_000):
        page.add_metric("loss", step, 1.0 / (step + 1))
    for number in range(3 * NAMES):
        page.add_metric(f"m/{number}", 0, float(number))
    for step in range(500):
        page.add_text("text", "x" * 100_000, step)
        page.add_image("image", b"\0" * 200_000, step)
        page.add_table("table", ["a"], [["y" * 1000]] * 1000, step)
        page.add_histogram("histogram", [1.0] * 64, [float(edge) for edge in range(65)], step)
    page.config = {"long": "z" * 1_000_000}
    html = page.html()
    assert len(html) < 32 << 20
    curve = page.curves["loss"]
    assert (curve.count, curve.step, curve.last, curve.high) == (1_000_000, 999_999, 1e-6, 1.0)
    assert curve.points is not None and POINTS <= len(curve.points) <= 2 * POINTS
    assert "more names had no room here" in html and "more had no room here" in html
    assert f"<p>{1000 - ROWS} more rows.</p>" in html and "(1000000 characters)" in html
    assert html.count("<polyline") == CURVES
    assert ">1000000<" in html and "text, step 499" in html and "x" * (LONGEST + 1) not in html


def test_curve_keeps_its_shape() -> None:
    """Of a long series every so many points are drawn, the first and the last among them, and extremes are exact."""
    curve = Curve(points=[])
    for step in range(10_001):
        curve.add(step, 5.0 if step == 777 else 0.0)
    assert curve.points is not None
    steps = [step for step, _ in curve.points]
    assert steps[0] == 0 and len({later - earlier for earlier, later in zip(steps, steps[1:], strict=False)}) == 1
    assert (curve.high, curve.low, curve.step) == (5.0, 0.0, 10_000)
    assert "step 0 to 10000" in curve.drawn()


@pytest.mark.parametrize("values", [[1e308, -1e308], [5e-324, 0.0], [1.0], [2.0, 2.0], [float("nan"), 1.0]])
@pytest.mark.parametrize("stride", [1, 2**62, 2**2000])
def test_curves_of_every_range(values: list[float], stride: int) -> None:
    """Every finite value is drawn within its frame."""
    curve = Curve(points=[])
    for number, value in enumerate(values):
        curve.add(number * stride, value)
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", curve.drawn())
    assert points
    assert all(0 <= float(x) <= 360 and 0 <= float(y) <= 120 for x, y in points)


def test_nothing_finite_draws_nothing() -> None:
    """A metric that was never finite is in the table alone."""
    curve = Curve(points=[])
    curve.add(0, float("nan"))
    assert curve.drawn() == ""


def test_shelf_keeps_the_newest() -> None:
    """The oldest go first, and one that is too large by itself leaves the others alone gone, and is counted."""
    shelf = Shelf(10)
    for piece in ("aaaa", "bbbb", "cccc"):
        shelf.put(piece)
    assert list(shelf) == ["bbbb", "cccc", "<p>1 more had no room here.</p>"]


def test_example_runs(tmp_path: Path) -> None:
    """The example is a task that writes its deck."""
    out = run(Path(__file__).with_name("example.py"), tmp_path, str(tmp_path / "runs"))
    assert re.search(r"flyte: \d+ of \d+ events. Look at them in: the deck", out)
    (tabs,) = decks(tmp_path)
    (deck,) = (tab for name, tab in tabs.items() if name == "example")
    assert [row[5] for row in deck.rows() if row[:1] == ["train/loss"]] == ["100"]
