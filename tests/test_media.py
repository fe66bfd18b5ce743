"""Images, tables, histograms and artifacts as files of the run folder."""

from __future__ import annotations

import hashlib
import io
import json
import os

import numpy as np
import pytest
from PIL import Image as PIL_Image

from runcast import media
from runcast.record import read_table


def pixels(data: bytes):
    return np.asarray(PIL_Image.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 255], [7, 8]], dtype=np.uint8), [[0, 255], [7, 8]]),
        (np.array([[0.0, 1.0], [0.5, 2.0]]), [[0, 255], [128, 255]]),
        (np.array([[True, False]]), [[255, 0]]),
        (np.arange(12, dtype=np.int64).reshape(2, 2, 3), np.arange(12).reshape(2, 2, 3).tolist()),
        (np.arange(4, dtype=np.uint8).reshape(2, 2, 1), [[0, 1], [2, 3]]),
        (np.array([[np.nan, 1.0]]), [[0, 255]]),
    ],
)
def test_array_becomes_the_same_pixels(array, expected):
    """Integers are taken as they are, floats from 0 to 1, one channel is grey."""
    assert pixels(media.png(array)).tolist() == expected


def test_png_stays_as_it_is_and_other_formats_are_converted(tmp_path):
    """A PNG's bytes are kept, a JPEG becomes a PNG, a PIL image too."""
    image = PIL_Image.new("RGB", (3, 2), (10, 20, 30))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "a.jpg")
    assert media.png(tmp_path / "a.png") == (tmp_path / "a.png").read_bytes()
    assert pixels(media.png(str(tmp_path / "a.jpg"))).shape == (2, 3, 3)
    assert pixels(media.png(image)).tolist() == np.asarray(image).tolist()


@pytest.mark.parametrize("bad", [np.zeros((2, 2, 5)), np.zeros(3), np.zeros((0, 2)), np.array([["a"]])])
def test_what_is_no_image_says_what_one_is(bad):
    """An impossible array is refused with the shape that was expected."""
    with pytest.raises(ValueError, match="an image array"):
        media.png(bad)
    with pytest.raises(TypeError, match="an image is a path"):
        media.png(object())


def test_same_content_is_stored_once(tmp_path):
    """Files are named by key, step and content, below the run folder."""
    first = media.store(tmp_path, "images", "a/b c", 3, b"data", ".png")
    again = media.store(tmp_path, "images", "a/b c", 3, b"data", ".png")
    assert first == again
    assert first.sha256 == hashlib.sha256(b"data").hexdigest()
    assert [p.name for p in (tmp_path / "artifacts" / "images").iterdir()] == [os.path.basename(first.path)]


def test_table_reads_back_with_its_types(tmp_path):
    """Cells of every kind come back as they were."""
    rows = [["a", 1, 0.5, None], ["b", 2**40, float("inf"), True]]
    (tmp_path / "t.json").write_bytes(media.table_json(["t", "n", "x", "f"], rows))
    columns, back = read_table(tmp_path / "t.json")
    assert columns == ("t", "n", "x", "f")
    assert [list(row) for row in back] == rows


def test_ragged_table_is_refused():
    """A row of another length is named by its number."""
    with pytest.raises(ValueError, match="row 1 of the table has 1 cells, but there are 2"):
        media.table_json(["a", "b"], [[1, 2], [3]])


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0, 2.0], list(range(1000)), [5], [1e-9, 2e-9, -3.0]])
def test_histogram_is_numpys(values):
    """With and without numpy the bins and counts agree."""
    counts, edges = media.histogram(values)
    expected_counts, expected_edges = np.histogram(np.array(values, dtype=float), bins=media.BINS)
    assert sum(counts) == len(values)
    assert np.allclose(edges, expected_edges)
    assert np.abs(np.array(counts) - expected_counts).sum() <= 2  # a value on an edge may fall on either side
    assert media.histogram(np.array(values))[0] == tuple(expected_counts.astype(float))


def test_histogram_leaves_out_what_is_not_finite():
    """NaN and infinities have no bin; if nothing is left, it says so."""
    assert sum(media.histogram([1.0, float("nan"), float("inf")])[0]) == 1
    assert sum(media.histogram(np.array([1.0, np.nan]))[0]) == 1
    with pytest.raises(ValueError, match="at least one finite value"):
        media.histogram([float("nan")])
    with pytest.raises(TypeError, match="takes numbers, not str"):
        media.histogram(["a"])


def test_folder_is_linked_and_outlives_its_original(tmp_path):
    """A checkpoint that rotation deletes is still in the run folder, byte by byte."""
    source = tmp_path / "checkpoint"
    (source / "sub").mkdir(parents=True)
    (source / "a.bin").write_bytes(b"a" * 100)
    (source / "sub" / "b.json").write_text("{}")
    run = tmp_path / "run"
    path, files = media.store_artifact(run, source, "checkpoint")
    assert os.path.samefile(run / path / "a.bin", source / "a.bin")
    (source / "a.bin").unlink()
    assert (run / path / "a.bin").read_bytes() == b"a" * 100
    assert [(f.path, f.size) for f in files] == [("a.bin", 100), ("sub/b.json", 2)]


def test_file_is_copied_and_its_second_version_is_another(tmp_path):
    """A file that is written again in place keeps the version that was logged."""
    source = tmp_path / "best.pt"
    source.write_bytes(b"one")
    first, _ = media.store_artifact(tmp_path / "run", source, "best.pt")
    source.write_bytes(b"two")
    second, _ = media.store_artifact(tmp_path / "run", source, "best.pt")
    assert (tmp_path / "run" / first).read_bytes() == b"one"
    assert (tmp_path / "run" / second).read_bytes() == b"two"


def test_missing_artifact_is_a_file_not_found_error(tmp_path):
    """The error names the path."""
    with pytest.raises(FileNotFoundError, match="no file or folder .*gone"):
        media.store_artifact(tmp_path / "run", tmp_path / "gone", "gone")


def test_table_json_is_json():
    """Anybody can read a table's file."""
    assert json.loads(media.table_json(["a"], [[1]])) == {"columns": ["a"], "rows": [[1]]}
