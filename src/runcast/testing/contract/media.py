"""Texts, images, tables and histograms."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from runcast.record import Content
from runcast.testing.contract.base import ContractBase, Delivered, assert_same, feature
from runcast.verify import same


class _AtStep(Protocol):
    @property
    def step(self) -> int: ...


class MediaContract(ContractBase):
    """What becomes of what people look at."""

    # -- texts -----------------------------------------------------------------------------------------------------

    @feature("texts")
    def test_texts_are_whole(self, delivered: Delivered) -> None:
        """Lines, markup and Unicode come back as they were written, step by step."""
        self.needs(delivered.reporter, "log_text")
        wanted, found = delivered.journal.texts["note"], delivered.found.texts.get("note", [])
        assert [(point.step, point.text) for point in found] == [(point.step, point.text) for point in wanted], (
            "a text is lost, moved or changed: does the tracker render it as Markdown or HTML?"
        )

    @feature("texts")
    def test_empty_and_blank_texts_are_texts(self, delivered: Delivered) -> None:
        """No characters at all, and white space at both ends."""
        self.needs(delivered.reporter, "log_text")
        for name in ("text/empty", "text/blank"):
            wanted = [point.text for point in delivered.journal.texts[name]]
            found = [point.text for point in delivered.found.texts.get(name, [])]
            assert found == wanted, (
                f"{name}: expected {wanted}, found {found}: is it stripped, or an empty one left out?"
            )

    @feature("texts")
    def test_long_texts_are_not_cut(self, delivered: Delivered) -> None:
        """A text of 140,000 characters comes back whole."""
        self.assert_long_text(delivered, "text/long")

    @feature("extremes")
    def test_text_of_a_million_characters_is_not_cut(self, extreme: Delivered) -> None:
        """A text of 1,450,000 characters comes back whole."""
        self.assert_long_text(extreme, "text/very-long")

    @feature("texts")
    def test_all_texts_are_the_ones_logged(self, delivered: Delivered) -> None:
        """No text is lost or added, and each has its time."""
        self.needs(delivered.reporter, "log_text")
        why = "texts are lost, added, or of another time:"
        assert_same(delivered.reporter, delivered.journal, delivered.found, why, ["texts"])

    # -- images ----------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("name", ["picture/rgb", "picture/rgba", "picture/grey", "picture/dot"])
    @feature("images")
    def test_images_are_the_same_pixel_by_pixel(self, name: str, delivered: Delivered) -> None:
        """Size, channels and every pixel come back, at the right step."""
        self.assert_pixels(delivered, name)

    @feature("extremes")
    def test_large_image_is_not_scaled(self, extreme: Delivered) -> None:
        """An image of 1,100 by 1,040 pixels has them all."""
        self.assert_pixels(extreme, "picture/large")

    @feature("images")
    def test_all_images_are_the_ones_logged(self, delivered: Delivered) -> None:
        """No image is lost or added; the files are the same byte by byte, as ``runcast verify`` wants them."""
        self.needs(delivered.reporter, "log_image")
        why = "images differ; if only in size, the PNG was written anew: hand the file through as it is\n"
        assert_same(delivered.reporter, delivered.journal, delivered.found, why, ["images"])

    # -- tables ----------------------------------------------------------------------------------------------------

    @feature("tables")
    def test_tables_are_the_same_cell_by_cell(self, delivered: Delivered) -> None:
        """Texts with commas, quotes and lines, numbers, NaN, None and booleans come back as what they were."""
        self.assert_tables(
            delivered, "predictions", "does everything go through CSV, where None, 1 and True are texts?"
        )

    @feature("tables")
    def test_tables_keep_texts_that_look_like_something_else(self, delivered: Delivered) -> None:
        """The texts "1", "true", "null" and "NaN" stay texts, under columns of the same name, or of none."""
        self.assert_tables(delivered, "table/words", "texts became numbers, or columns of one name became one column")

    @feature("tables")
    def test_empty_tables_are_tables(self, delivered: Delivered) -> None:
        """A table without rows has its columns."""
        self.assert_tables(delivered, "table/empty", "a table without rows is lost, or its columns are")

    @feature("tables")
    def test_long_tables_are_not_cut(self, delivered: Delivered) -> None:
        """Five hundred rows come back, in order."""
        self.assert_tables(delivered, "table/long", "rows are cut, or out of order")

    @feature("extremes")
    def test_twelve_thousand_rows_are_not_cut(self, extreme: Delivered) -> None:
        """Twelve thousand rows come back, in order."""
        self.assert_tables(extreme, "table/very-long", "rows are cut, or out of order")

    @feature("extremes")
    def test_sixty_columns_are_not_cut(self, extreme: Delivered) -> None:
        """A table of sixty columns comes back with all of them."""
        self.assert_tables(extreme, "table/wide", "columns are cut")

    # -- histograms ------------------------------------------------------------------------------------------------

    @feature("histograms")
    def test_histograms_keep_counts_and_edges(self, delivered: Delivered) -> None:
        """Every bin has its count and its exact edges, step by step."""
        self.assert_histograms(delivered, "weights", "are the bins made anew, or the edges rounded?")

    @feature("histograms")
    def test_histogram_of_one_value_is_kept(self, delivered: Delivered) -> None:
        """Where all values are the same, there is a bin with all of them."""
        self.assert_histograms(delivered, "weights/one", "is a distribution without width left out?")

    @feature("extremes")
    def test_six_hundred_bins_are_kept(self, extreme: Delivered) -> None:
        """An imported histogram has as many bins as others gave it: torch's usual ones have hundreds."""
        self.assert_histograms(extreme, "bins/many", "are there too many bins for the tracker, or made anew?")

    @feature("fractional counts")
    def test_fractional_counts_are_kept(self, extreme: Delivered) -> None:
        """An imported histogram may be weighted, or a density: its counts are no whole numbers."""
        self.assert_histograms(extreme, "bins/fractions", "are they rounded, or turned into integers?")

    # -- verbs -----------------------------------------------------------------------------------------------------

    def assert_steps(self, name: str, wanted: Sequence[_AtStep], found: Sequence[_AtStep], kind: str) -> None:
        """Fails if there aren't as many, at the same steps."""
        steps, there = [point.step for point in wanted], [point.step for point in found]
        assert there == steps, f"{kind} {name}: logged at the steps {steps}, found at {there}"

    def assert_long_text(self, delivered: Delivered, name: str) -> None:
        """Fails if the one text of this name isn't whole."""
        self.needs(delivered.reporter, "log_text")
        (wanted,) = delivered.journal.texts[name]
        found = [point.text for point in delivered.found.texts.get(name, [])]
        assert [len(text) for text in found] == [len(wanted.text)], "a long text is cut, lost or in pieces"
        assert found == [wanted.text]

    def assert_pixels(self, delivered: Delivered, name: str) -> None:
        """Fails at the first image of this name that has another size, other channels or other pixels."""
        self.needs(delivered.reporter, "log_image")
        wanted, found = delivered.journal.images[name], delivered.found.images.get(name, [])
        self.assert_steps(name, wanted, found, "images")
        for expected, actual in zip(wanted, found, strict=True):
            before, after = _pixels(expected.image), _pixels(actual.image)
            assert before[:2] == after[:2], f"{name} at step {expected.step} was {before[:2]} and is {after[:2]}"
            assert before == after, (
                f"{name} at step {expected.step} has other pixels: is it compressed with a loss, or scaled?"
            )

    def assert_tables(self, delivered: Delivered, name: str, why: str) -> None:
        """Fails at the first cell that isn't what was logged."""
        self.needs(delivered.reporter, "log_table")
        wanted, found = delivered.journal.tables[name], delivered.found.tables.get(name, [])
        self.assert_steps(name, wanted, found, "tables")
        for expected, actual in zip(wanted, found, strict=True):
            assert list(actual.columns) == list(expected.columns), f"{name}: other columns. {why}"
            assert len(actual.rows) == len(expected.rows), (
                f"{name}: {len(actual.rows)} of {len(expected.rows)} rows. {why}"
            )
            for number, (row, other) in enumerate(zip(expected.rows, actual.rows, strict=True)):
                assert same(row, other), f"{name}, row {number}: expected {_typed(row)}, found {_typed(other)}. {why}"
            assert same(expected, actual), f"{name}: logged at {expected.time}, found at {actual.time}"

    def assert_histograms(self, delivered: Delivered, name: str, why: str) -> None:
        """Fails if a bin isn't what was logged."""
        self.needs(delivered.reporter, "log_histogram")
        wanted, found = delivered.journal.histograms[name], delivered.found.histograms.get(name, [])
        self.assert_steps(name, wanted, found, "histograms")
        for expected, actual in zip(wanted, found, strict=True):
            assert actual.counts == expected.counts, f"{name} at step {expected.step} has other counts: {why}"
            assert actual.edges == expected.edges, f"{name} at step {expected.step} has other edges: {why}"
            assert same(expected, actual), f"{name}: logged at {expected.time}, found at {actual.time}"


def _typed(row: Sequence[Any]) -> str:
    return ", ".join(f"{type(cell).__name__} {cell!r}" for cell in row)


def _pixels(content: Content) -> tuple[str, tuple[int, int], bytes]:
    """Mode, size and pixels of an image."""
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(content.read()))
    return image.mode, image.size, image.tobytes()
