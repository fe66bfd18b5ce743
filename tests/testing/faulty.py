"""Reporters with one fault each, and the tests of the kit that have to catch it.

Each is the healthy `MemoryReporter` with a line or two gone wrong, as it happens in real ones. Those that are
`registered` get a courier process, through an entry point that the tests make.
"""

from __future__ import annotations

import contextlib
import html
import io
import json
import math
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time as clock
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from runcast.events import unpack
from runcast.flatten import flatten, unflatten
from runcast.record import Content
from runcast.reporter import Availability, Requirement
from runcast.testing.memory import MemoryReporter

ALL: list[type[Faulty]] = []


class Faulty(MemoryReporter):
    """A reporter with a fault.

    Attributes:
        caught_by: The tests that fail.
        registered: Whether it has a courier process.
    """

    caught_by: ClassVar[tuple[str, ...]] = ()
    registered: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        cls.name = re.sub("(?<!^)(?=[A-Z0-9])", "-", cls.__name__).lower()
        ALL.append(cls)


class Healthy(MemoryReporter):
    """None: it passes everything, in a courier process."""

    name = "healthy"


# -- numbers -----------------------------------------------------------------------------------------------------------


class DropsTheLastBatch(Faulty):
    """What is waiting when the run is closed is lost."""

    caught_by = ("test_short_run_has_its_only_point",)

    def flush(self):
        if len(self._waiting) > 100:
            super().flush()

    def close(self, status):
        self._waiting = []
        self._put("status", status=status)
        super(Faulty, self).flush()


class WritesTwice(Faulty):
    """Each point is there twice."""

    caught_by = ("test_all_points_arrive",)

    def log_metrics(self, metrics, step, time):
        for _ in range(2):
            super().log_metrics(metrics, step, time)


class LosesAMetric(Faulty):
    """A name is dropped."""

    caught_by = ("test_all_points_arrive",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics({key: value for key, value in metrics.items() if key != "epoch"}, step, time)


class Samples(Faulty):
    """Of a long series, every tenth point is kept."""

    caught_by = ("test_ten_thousand_points_all_arrive",)

    def log_metrics(self, metrics, step, time):
        if step < 1000 or step % 10 == 0:
            super().log_metrics(metrics, step, time)


class CapsSeries(Faulty):
    """The reader gives the first thousand points, as many an API does."""

    caught_by = ("test_ten_thousand_points_all_arrive",)

    def read(self, native):
        record = super().read(native)
        record.metrics = {key: points[:1000] for key, points in record.metrics.items()}
        return record


class SwapsStepAndTime(Faulty):
    """Step and time are handed over in the wrong order."""

    caught_by = ("test_points_are_at_their_steps", "test_wall_times_are_kept")

    def log_metrics(self, metrics, step, time):
        super().log_metrics(metrics, int(time), float(step))


class CountsSteps(Faulty):
    """The step is a count of calls."""

    caught_by = ("test_points_are_at_their_steps", "test_steps_out_of_order_are_kept")

    def log_metrics(self, metrics, step, time):
        self._steps = getattr(self, "_steps", -1) + 1
        super().log_metrics(metrics, self._steps, time)


class RoundsTo32Bits(Faulty):
    """Values go through a 32-bit float."""

    caught_by = ("test_values_are_exact",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics({key: _float32(value) for key, value in metrics.items()}, step, time)


class FormatsValues(Faulty):
    """Values go through a text of six digits."""

    caught_by = ("test_values_are_exact",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics({key: float(f"{value:.6g}") for key, value in metrics.items()}, step, time)


class LosesNaN(Faulty):
    """NaN is left out."""

    caught_by = ("test_nan_and_infinities_survive",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics({key: value for key, value in metrics.items() if not math.isnan(value)}, step, time)


class ClampsInfinity(Faulty):
    """Infinity is the largest float."""

    caught_by = ("test_nan_and_infinities_survive",)

    def log_metrics(self, metrics, step, time):
        largest = sys.float_info.max
        clamped = {
            key: value if math.isnan(value) else max(-largest, min(value, largest)) for key, value in metrics.items()
        }
        super().log_metrics(clamped, step, time)


class StampsOnDelivery(Faulty):
    """A point has the time at which it was delivered."""

    caught_by = ("test_wall_times_are_kept",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics(metrics, step, clock.time())


class WholeSeconds(Faulty):
    """Times are cut to seconds."""

    caught_by = ("test_wall_times_are_kept",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics(metrics, step, float(int(time)))


class RisingSteps(Faulty):
    """A step below the last one is ignored, as W&B does by itself."""

    caught_by = ("test_steps_out_of_order_are_kept",)

    def log_metrics(self, metrics, step, time):
        last = self.__dict__.setdefault("_last", {})
        rising = {key: value for key, value in metrics.items() if step >= last.get(key, step)}
        last.update(dict.fromkeys(metrics, step))
        super().log_metrics(rising, step, time)


class Steps32Bits(Faulty):
    """Steps are cut to 32 bits."""

    caught_by = ("test_huge_steps_are_kept",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics(metrics, step & 0xFFFFFFFF, time)


class NoNegativeSteps(Faulty):
    """A step below zero is step zero."""

    caught_by = ("test_negative_steps_are_kept",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics(metrics, max(step, 0), time)


class NoNegativeStepsOfTexts(Faulty):
    """A text's step below zero is step zero."""

    caught_by = ("test_negative_steps_are_kept",)

    def log_text(self, key, text, step, time):
        super().log_text(key, text, max(step, 0), time)


class HundredNames(Faulty):
    """A call takes a hundred names, and the others are left out."""

    caught_by = ("test_twelve_hundred_names_of_one_event_all_arrive",)

    def log_metrics(self, metrics, step, time):
        super().log_metrics(dict(list(metrics.items())[:100]), step, time)


class OneValueAStep(Faulty):
    """A later value at a step replaces the earlier."""

    caught_by = ("test_two_values_at_one_step_are_two",)

    def read(self, native):
        record = super().read(native)
        for key, points in record.metrics.items():
            record.metrics[key] = list({point.step: point for point in points}.values())
        return record


# -- names -------------------------------------------------------------------------------------------------------------


class _Renames(MemoryReporter):
    def log_metrics(self, metrics, step, time):
        super().log_metrics({self.renamed(key): value for key, value in metrics.items()}, step, time)

    def renamed(self, name: str) -> str:
        raise NotImplementedError


class MergesTwoNames(_Renames, Faulty):
    """Dots, spaces and dashes become underscores."""

    caught_by = ("test_names_stay_distinct[punctuation]",)

    def renamed(self, name):
        return re.sub("[. -]", "_", name)


class LowersNames(_Renames, Faulty):
    """Names are lower case."""

    caught_by = ("test_names_stay_distinct[case]",)

    def renamed(self, name):
        return name.lower()


class CutsNames(_Renames, Faulty):
    """Names end after 100 characters."""

    caught_by = ("test_names_stay_distinct[250 characters]",)

    def renamed(self, name):
        return name[:100]


class AsciiNames(_Renames, Faulty):
    """What isn't ASCII is left out of names."""

    caught_by = ("test_names_stay_distinct[Unicode]",)

    def renamed(self, name):
        return name.encode("ascii", "ignore").decode()


class CollapsesSlashes(_Renames, Faulty):
    """Two slashes are one, and the last is dropped."""

    caught_by = ("test_names_stay_distinct[slashes]",)

    def renamed(self, name):
        return os.path.normpath(name)


class UnquotesNames(_Renames, Faulty):
    """Names are taken for URLs, and what looks quoted is unquoted."""

    caught_by = ("test_names_stay_distinct[special characters]",)

    def renamed(self, name):
        return name.replace("%2F", "/").partition("#")[0]


class ReservesNames(Faulty):
    """Names that the tracker uses itself are left out."""

    caught_by = ("test_names_stay_distinct[words that trackers use themselves]",)

    def log_metrics(self, metrics, step, time):
        ours = {key: value for key, value in metrics.items() if key not in ("step", "time") and key[0] != "_"}
        super().log_metrics(ours, step, time)


class OneKindAName(Faulty):
    """A text under the name of a metric replaces it, as columns do."""

    caught_by = ("test_a_name_is_free_for_everything",)

    def read(self, native):
        record = super().read(native)
        record.metrics = {key: points for key, points in record.metrics.items() if key not in record.texts}
        return record


# -- config ------------------------------------------------------------------------------------------------------------


class _Settings(MemoryReporter):
    def log_config(self, config):
        super().log_config({key: self.setting(value) for key, value in config.items()})

    def setting(self, value: Any) -> Any:
        """The value, with `leaf` of all in it."""
        if isinstance(value, dict):
            return {key: self.setting(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.setting(item) for item in value]
        return self.leaf(value)

    def leaf(self, value: Any) -> Any:
        return value


class FlattensConfig(Faulty):
    """Keys are joined by slashes, and nobody takes them apart."""

    caught_by = ("test_config_is_nested", "test_keys_stay_distinct")

    def log_config(self, config):
        super().log_config({key.replace("%2F", "/"): value for key, value in flatten(config).items()})


class ReplacesConfig(Faulty):
    """An update of a part replaces the whole."""

    caught_by = ("test_config_updates_are_merged",)

    def log_config(self, config):
        for key in config:
            super().log_config({key: {}})
        super().log_config(config)


class TruncatesConfig(_Settings, Faulty):
    """Values end after 500 characters."""

    caught_by = ("test_long_config_is_not_cut",)

    def leaf(self, value):
        return value[:500] if isinstance(value, str) else value


class ShallowConfig(Faulty):
    """Below the fifth level there is a text."""

    caught_by = ("test_deep_config_is_whole",)

    def log_config(self, config):
        super().log_config(self._level(config, 5))

    def _level(self, value, levels):
        if not isinstance(value, dict):
            return value
        return {key: self._level(item, levels - 1) for key, item in value.items()} if levels else repr(value)


class HundredSettings(Faulty):
    """A call takes a hundred settings, and the others are left out."""

    caught_by = ("test_many_settings_all_arrive",)

    def log_config(self, config):
        super().log_config({k: dict(list(v.items())[:100]) if isinstance(v, dict) else v for k, v in config.items()})


class DictsStayDicts(Faulty):
    """A setting that was a dict is no longer replaced by anything else."""

    caught_by = ("test_settings_may_change_their_type",)

    def log_config(self, config):
        known = self.__dict__.setdefault("_known", {})
        new = {
            key: value
            for key, value in config.items()
            if isinstance(value, dict) or not isinstance(known.get(key), dict)
        }
        known.update(new)
        super().log_config(new)


class PartsStay(Faulty):
    """Settings are kept by path, so the parts of a dict stay when it is one no more."""

    caught_by = ("test_settings_may_change_their_type",)

    def read(self, native):
        record, flat = super().read(native), {}
        for line in self._lines(native.data["place"]):
            entry = unpack(json.loads(line))
            flat |= flatten(entry["config"]) if entry["line"] == "config" else {}
        record.config = unflatten(dict(sorted(flat.items(), key=lambda item: item[0].count("/"))))
        return record


class LosesEmptySettings(Faulty):
    """An empty dict has no path, and is gone."""

    caught_by = ("test_empty_settings_are_settings",)

    def log_config(self, config):
        super().log_config({"empty": {"text": ""}} | {key: value for key, value in config.items() if key != "empty"})


class AsciiConfig(_Settings, Faulty):
    """What isn't ASCII becomes a question mark."""

    caught_by = ("test_unicode_config_survives",)

    def leaf(self, value):
        return value.encode("ascii", "replace").decode() if isinstance(value, str) else value


class TextsForConfig(_Settings, Faulty):
    """Every value is a text, and read as what it looks like."""

    caught_by = ("test_settings_keep_their_types",)

    def leaf(self, value):
        text = str(value)
        return {"None": None, "True": True, "False": False}.get(text, int(text) if text.isdigit() else value)


class ConfigWithoutNaN(_Settings, Faulty):
    """NaN becomes None, as JSON libraries do."""

    caught_by = ("test_nan_in_config_survives",)

    def leaf(self, value):
        return None if isinstance(value, float) and not math.isfinite(value) else value


class AddsSettings(Faulty):
    """The SDK's version is among the settings."""

    caught_by = ("test_nothing_else_is_in_the_config",)

    def log_config(self, config):
        super().log_config({**config, "_sdk": "1.0"})


# -- texts -------------------------------------------------------------------------------------------------------------


class EscapesTexts(Faulty):
    """Texts are escaped for HTML, and stay so."""

    caught_by = ("test_texts_are_whole",)

    def log_text(self, key, text, step, time):
        super().log_text(key, html.escape(text), step, time)


class StripsTexts(Faulty):
    """White space at both ends is removed, and an empty text left out."""

    caught_by = ("test_empty_and_blank_texts_are_texts",)

    def log_text(self, key, text, step, time):
        if text.strip():
            super().log_text(key, text.strip(), step, time)


class CutsTexts(Faulty):
    """Texts end after 64 KiB."""

    caught_by = ("test_long_texts_are_not_cut",)

    def log_text(self, key, text, step, time):
        super().log_text(key, text[:65536], step, time)


class CutsVeryLongTexts(Faulty):
    """Texts end after 200,000 characters."""

    caught_by = ("test_text_of_a_million_characters_is_not_cut",)

    def log_text(self, key, text, step, time):
        super().log_text(key, text[:200_000], step, time)


class TextsWithoutTime(Faulty):
    """Texts have no time."""

    caught_by = ("test_all_texts_are_the_ones_logged",)

    def log_text(self, key, text, step, time):
        super().log_text(key, text, step, 0.0)


# -- images ------------------------------------------------------------------------------------------------------------


class _Images(MemoryReporter):
    def log_image(self, key, image, step, time):
        from PIL import Image

        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            self.changed(Image.open(image)).save(file, "png", compress_level=0)
            file.flush()
            super().log_image(key, Path(file.name), step, time)

    def changed(self, image: Any) -> Any:
        return image


class JpegImages(_Images, Faulty):
    """Images are compressed with a loss."""

    caught_by = ("test_images_are_the_same_pixel_by_pixel[picture/rgb]",)

    def changed(self, image):
        from PIL import Image

        file = io.BytesIO()
        image.convert("RGB").save(file, "jpeg")
        return Image.open(file)


class ForgetsAlpha(_Images, Faulty):
    """All images are RGB."""

    caught_by = (
        "test_images_are_the_same_pixel_by_pixel[picture/rgba]",
        "test_images_are_the_same_pixel_by_pixel[picture/grey]",
    )

    def changed(self, image):
        return image.convert("RGB")


class ScalesImages(_Images, Faulty):
    """Images are thumbnails of at least two pixels."""

    caught_by = ("test_images_are_the_same_pixel_by_pixel[picture/dot]",)

    def changed(self, image):
        return image.resize((max(image.width // 2, 2), max(image.height // 2, 2)))


class ShrinksLargeImages(_Images, Faulty):
    """No side of an image is longer than 64 pixels."""

    caught_by = ("test_large_image_is_not_scaled",)

    def changed(self, image):
        image.thumbnail((64, 64))
        return image


class LastImageOnly(Faulty):
    """Of a series, the last image is kept."""

    caught_by = ("test_images_are_the_same_pixel_by_pixel[picture/rgb]",)

    def read(self, native):
        record = super().read(native)
        record.images = {key: points[-1:] for key, points in record.images.items()}
        return record


class RewritesImages(_Images, Faulty):
    """The pixels are the same, the file isn't."""

    caught_by = ("test_all_images_are_the_ones_logged", "test_runcast_verify_agrees")
    registered = True


# -- tables and histograms ---------------------------------------------------------------------------------------------


class CsvTables(Faulty):
    """Every cell is a text."""

    caught_by = ("test_tables_are_the_same_cell_by_cell",)

    def log_table(self, key, columns, rows, step, time):
        super().log_table(key, columns, [[str(cell) for cell in row] for row in rows], step, time)


class GuessesCells(Faulty):
    """A text that looks like a number becomes one."""

    caught_by = ("test_tables_keep_texts_that_look_like_something_else",)

    def log_table(self, key, columns, rows, step, time):
        super().log_table(key, columns, [[_number(cell) for cell in row] for row in rows], step, time)


class SkipsEmptyTables(Faulty):
    """A table without rows is left out."""

    caught_by = ("test_empty_tables_are_tables",)

    def log_table(self, key, columns, rows, step, time):
        if rows:
            super().log_table(key, columns, rows, step, time)


class HundredRows(Faulty):
    """Tables end after a hundred rows."""

    caught_by = ("test_long_tables_are_not_cut",)

    def log_table(self, key, columns, rows, step, time):
        super().log_table(key, columns, rows[:100], step, time)


class ThousandRows(Faulty):
    """Tables end after a thousand rows."""

    caught_by = ("test_twelve_thousand_rows_are_not_cut",)

    def log_table(self, key, columns, rows, step, time):
        super().log_table(key, columns, rows[:1000], step, time)


class TwentyColumns(Faulty):
    """Tables have twenty columns at most."""

    caught_by = ("test_sixty_columns_are_not_cut",)

    def log_table(self, key, columns, rows, step, time):
        super().log_table(key, columns[:20], [row[:20] for row in rows], step, time)


class MakesBinsAnew(Faulty):
    """Two bins become one."""

    caught_by = ("test_histograms_keep_counts_and_edges",)

    def log_histogram(self, key, counts, edges, step, time):
        pairs = [sum(counts[number : number + 2]) for number in range(0, len(counts), 2)]
        super().log_histogram(key, pairs, [*edges[:-1:2], edges[-1]], step, time)


class SkipsNarrowHistograms(Faulty):
    """A distribution of one value is left out."""

    caught_by = ("test_histogram_of_one_value_is_kept",)

    def log_histogram(self, key, counts, edges, step, time):
        if sum(count > 0 for count in counts) > 1:
            super().log_histogram(key, counts, edges, step, time)


class RefusesFineHistograms(Faulty):
    """More than 512 bins raise, as W&B does by itself."""

    caught_by = ("test_six_hundred_bins_are_kept", "test_extremes_are_delivered")

    def log_histogram(self, key, counts, edges, step, time):
        if len(counts) > 512:
            raise ValueError("too many bins")
        super().log_histogram(key, counts, edges, step, time)


class CountsAreIntegers(Faulty):
    """The counts of a histogram are rounded."""

    caught_by = ("test_fractional_counts_are_kept",)

    def log_histogram(self, key, counts, edges, step, time):
        super().log_histogram(key, [float(round(count)) for count in counts], edges, step, time)


# -- artifacts, tags, results ------------------------------------------------------------------------------------------


class _Files(MemoryReporter):
    def read(self, native):
        record = super().read(native)
        for name, artifact in record.artifacts.items():
            files = {path: Content.of_bytes(self.content(file.read())) for path, file in artifact.files.items()}
            record.artifacts[name] = replace(artifact, files=self.files(files))
        return record

    def content(self, data: bytes) -> bytes:
        return data

    def files(self, files: dict[str, Content]) -> dict[str, Content]:
        return files


class FilesAsText(_Files, Faulty):
    """Files are read as text."""

    caught_by = ("test_file_is_the_same_byte_by_byte",)

    def content(self, data):
        return data.decode("utf-8", "replace").encode()


class SkipsEmptyFiles(_Files, Faulty):
    """A file without bytes is left out."""

    caught_by = ("test_empty_file_is_a_file",)

    def files(self, files):
        return {path: content for path, content in files.items() if content.size}


class FlattensFolders(_Files, Faulty):
    """Of a path, the base name is kept."""

    caught_by = ("test_folder_is_the_same_file_by_file",)

    def files(self, files):
        return {Path(path).name: content for path, content in files.items()}


class FirstVersionOnly(Faulty):
    """An artifact that is there isn't replaced."""

    caught_by = ("test_later_version_of_an_artifact_counts",)

    def log_artifact(self, artifact, step, time):
        if artifact.name not in self.__dict__.setdefault("_names", set()):
            super().log_artifact(artifact, step, time)
        self._names.add(artifact.name)


class ForgetsKinds(Faulty):
    """Everything is a file."""

    caught_by = ("test_artifacts_keep_kind_and_metadata",)

    def log_artifact(self, artifact, step, time):
        super().log_artifact(replace(artifact, kind="file"), step, time)


class ForgetsSteps(Faulty):
    """An artifact without a step is of step 0."""

    caught_by = ("test_artifacts_keep_their_step",)

    def log_artifact(self, artifact, step, time):
        super().log_artifact(artifact, step or 0, time)


class AddsArtifacts(Faulty):
    """The SDK's own files are among the artifacts."""

    caught_by = ("test_no_artifact_is_added",)

    def log_artifact(self, artifact, step, time):
        super().log_artifact(artifact, step, time)
        super().log_artifact(replace(artifact, name="requirements.txt"), step, time)


class SplitsTags(Faulty):
    """Tags are joined by commas."""

    caught_by = ("test_tags_are_kept",)

    def add_tags(self, tags):
        super().add_tags(",".join(tags).split(","))


class CutsTags(Faulty):
    """Tags end after 64 characters."""

    caught_by = ("test_long_tag_is_not_cut",)

    def add_tags(self, tags):
        super().add_tags([tag[:64] for tag in tags])


class CutsResults(Faulty):
    """Results end after 10,000 characters."""

    caught_by = ("test_long_result_is_not_cut",)

    def set_summary(self, values):
        super().set_summary({key: value[:10_000] if isinstance(value, str) else value for key, value in values.items()})


class TextsForResults(Faulty):
    """Every result is a text."""

    caught_by = ("test_results_keep_value_and_type",)

    def set_summary(self, values):
        super().set_summary({key: str(value) for key, value in values.items()})


class FirstResultCounts(Faulty):
    """A result that is there isn't replaced."""

    caught_by = ("test_last_result_of_a_name_counts",)

    def set_summary(self, values):
        known = self.__dict__.setdefault("_known", {})
        super().set_summary({key: known.setdefault(key, value) for key, value in values.items()})


class AddsResults(Faulty):
    """The last value of each metric is a result, as trackers do."""

    caught_by = ("test_no_result_is_added",)

    def read(self, native):
        record = super().read(native)
        record.summary = {key: points[-1].value for key, points in record.metrics.items()} | record.summary
        return record


# -- the run -----------------------------------------------------------------------------------------------------------


class _Calls(MemoryReporter):
    what: ClassVar[str]

    def read(self, native):
        record = super().read(native)
        setattr(record, self.what, self.called(getattr(record, self.what)))
        return record

    def called(self, value: Any) -> Any:
        return f"{value}-1"


class OwnId(_Calls, Faulty):
    """The run's id is the tracker's."""

    caught_by = ("test_run_is_called_what_it_is_called[run_id]",)
    what = "run_id"


class OwnName(_Calls, Faulty):
    """The name is made unique."""

    caught_by = ("test_run_is_called_what_it_is_called[name]",)
    what = "name"


class OwnProject(_Calls, Faulty):
    """The project is another."""

    caught_by = ("test_run_is_called_what_it_is_called[project]",)
    what = "project"


class OwnGroup(_Calls, Faulty):
    """The group is another."""

    caught_by = ("test_run_is_called_what_it_is_called[group]",)
    what = "group"


class StartsInMilliseconds(_Calls, Faulty):
    """The start is in milliseconds."""

    caught_by = ("test_run_is_called_what_it_is_called[started]",)
    what = "started"

    def called(self, value):
        return value * 1000


class NeverCompletes(Faulty):
    """`close` forgets to say how the run ended."""

    caught_by = ("test_completed_run_says_so",)

    def close(self, status):
        self.flush()


class IgnoresStatus(Faulty):
    """Every run ends well."""

    caught_by = ("test_status_reads_back[failed]", "test_status_reads_back[killed]")

    def close(self, status):
        super().close("completed")


class NoCrashes(Faulty):
    """The tracker knows no crash, so it is none."""

    caught_by = ("test_killed_process_leaves_all_points_and_the_status_crashed",)
    registered = True

    def close(self, status):
        super().close("completed" if status == "crashed" else status)


class EmptyRunsFail(Faulty):
    """The reader takes for granted that there are metrics."""

    caught_by = ("test_run_with_nothing_in_it_is_a_run",)

    def read(self, native):
        record = super().read(native)
        if not record.metrics:
            record.status = "running"
        return record


class BeginsAnew(Faulty):
    """`open` forgets the run that it is to go on with."""

    caught_by = ("test_resumed_run_is_one_run",)

    def open(self, run, attach):
        return super().open(run, None)


class AnotherRun(Faulty):
    """A run that goes on is another one in the tracker."""

    caught_by = ("test_resumed_run_is_one_run",)

    def open(self, run, attach):
        native = super().open(run, attach)
        return native if attach is None else replace_native(native)


class _ForgetsOnAttach(MemoryReporter):
    line: ClassVar[str]

    def open(self, run, attach):
        native = super().open(run, attach)
        if attach is not None:
            path = Path(native.data["place"])
            lines = path.read_text().splitlines(keepends=True)
            path.write_text("".join(line for line in lines if json.loads(line)["line"] != self.line))
        return native


class ForgetsMetrics(_ForgetsOnAttach, Faulty):
    """The points from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "metrics"


class ForgetsConfig(_ForgetsOnAttach, Faulty):
    """The settings from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "config"


class ForgetsTexts(_ForgetsOnAttach, Faulty):
    """The texts from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "texts"


class ForgetsImages(_ForgetsOnAttach, Faulty):
    """The images from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "images"


class ForgetsTables(_ForgetsOnAttach, Faulty):
    """The tables from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "tables"


class ForgetsHistograms(_ForgetsOnAttach, Faulty):
    """The histograms from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "histograms"


class ForgetsArtifacts(_ForgetsOnAttach, Faulty):
    """The artifacts from before it went on are lost, as are those from before a SIGKILL."""

    caught_by = ("test_resumed_run_is_one_run", "test_killed_courier_goes_on")
    registered = True
    line = "artifact"


class ForgetsResults(_ForgetsOnAttach, Faulty):
    """The results from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "summary"


class ForgetsTags(_ForgetsOnAttach, Faulty):
    """The tags from before it went on are lost."""

    caught_by = ("test_resumed_run_is_one_run",)
    line = "tags"


class ReplacesNothing(Faulty):
    """`replace` leaves the old points."""

    caught_by = ("test_points_behind_the_checkpoint_are_taken_back",)

    def replace(self, run, old):
        return super().open(run, old)


class _LeavesSome(MemoryReporter):
    line: ClassVar[str]

    def replace(self, run, old):
        left = [line for line in self._lines(old.data["place"]) if json.loads(line)["line"] == self.line]
        native = super().replace(run, old)
        self._waiting += left
        return native


class LeavesTexts(_LeavesSome, Faulty):
    """`replace` leaves the old texts."""

    caught_by = ("test_points_behind_the_checkpoint_are_taken_back",)
    line = "texts"


class LeavesImages(_LeavesSome, Faulty):
    """`replace` leaves the old images."""

    caught_by = ("test_points_behind_the_checkpoint_are_taken_back",)
    line = "images"


class OneRunOnly(Faulty):
    """All runs are one in the tracker."""

    caught_by = ("test_two_runs_at_once_stay_apart",)

    def _place_of(self, run_id):
        return super()._place_of("run")


class ClaimsIdempotence(Faulty):
    """It says that repeats do no harm, and they do."""

    caught_by = ("test_nothing_is_there_twice_when_a_batch_is_delivered_again",)
    idempotent = True


class FlushesAtTheEnd(Faulty):
    """`flush` returns before anything is durable."""

    caught_by = ("test_what_was_flushed_survives_a_sigkill",)
    registered = True

    def flush(self):
        if getattr(self, "_ending", False):
            super().flush()

    def close(self, status):
        self._ending = True
        super().close(status)


class LosesTheFirstLife(Faulty):
    """After a SIGKILL, the file of the run is made anew."""

    caught_by = ("test_killed_courier_goes_on",)
    registered = True

    def open(self, run, attach):
        return super().open(run, None)


# -- starting, reading and finding -------------------------------------------------------------------------------------


class RefusesImages(Faulty):
    """An image raises."""

    caught_by = ("test_everything_is_delivered",)

    def log_image(self, key, image, step, time):
        raise ValueError("no images, please")


class CannotBeRead(Faulty):
    """The reader raises."""

    caught_by = ("test_run_can_be_read_back", "test_all_points_arrive")

    def read(self, native):
        raise KeyError("metrics")


class FindsNothing(Faulty):
    """`find_runs` knows other runs alone."""

    caught_by = ("test_stored_run_can_be_imported",)

    def find_runs(self, source):
        raise LookupError(source)


class SaysNothing(Faulty):
    """`find_runs` gives an empty list."""

    caught_by = ("test_nothing_found_is_said",)

    def find_runs(self, source):
        with contextlib.suppress(LookupError):
            return super().find_runs(source)
        return []


class SaysThatItCannot(Faulty):
    """`availability` says that it can't run."""

    caught_by = ("test_availability_tells_and_touches_nothing",)

    @classmethod
    def availability(cls):
        return Availability(cls.name, "missing", "not installed")


# -- manners -----------------------------------------------------------------------------------------------------------


class WritesToHome(Faulty):
    """A file of settings is made at home."""

    caught_by = ("test_nothing_is_written_outside_its_place",)

    def open(self, run, attach):
        Path("~/.tracker").expanduser().write_text("token")
        return super().open(run, attach)


class WritesHere(Faulty):
    """A log is written to the working directory, by a courier process."""

    caught_by = ("test_nothing_is_written_outside_its_place",)
    registered = True

    def open(self, run, attach):
        Path("debug.log").write_text("started")
        return super().open(run, attach)


class LeavesTemporaryFiles(Faulty):
    """A temporary file isn't removed."""

    caught_by = ("test_no_temporary_file_is_left",)

    def open(self, run, attach):
        os.close(tempfile.mkstemp()[0])
        return super().open(run, attach)


class PhonesHome(Faulty):
    """It connects to a server, and hides that it can't."""

    caught_by = ("test_nothing_leaves_this_machine",)

    def open(self, run, attach):
        with contextlib.suppress(OSError):
            socket.create_connection(("192.0.2.1", 443), timeout=0.1).close()
        return super().open(run, attach)


class LooksForUpdates(Faulty):
    """It looks a name up, in a courier process."""

    caught_by = ("test_nothing_leaves_this_machine",)
    registered = True

    def open(self, run, attach):
        with contextlib.suppress(OSError):
            socket.getaddrinfo("updates.tracker.example", 443)
        return super().open(run, attach)


class Prompts(Faulty):
    """It asks for a key, and goes on without one."""

    caught_by = ("test_nobody_is_asked",)

    def open(self, run, attach):
        with contextlib.suppress(EOFError, OSError):
            input("API key: ")
        return super().open(run, attach)


class ReadsTheKeyboard(Faulty):
    """It waits for a line of standard input, in a courier process."""

    caught_by = ("test_nobody_is_asked",)
    registered = True

    def open(self, run, attach):
        sys.stdin.readline()
        return super().open(run, attach)


class LeaksAThread(Faulty):
    """A thread goes on after the end."""

    caught_by = ("test_no_thread_or_process_is_left", "test_nothing_goes_on_after_the_end")

    def open(self, run, attach):
        threading.Thread(target=clock.sleep, args=(8,), daemon=True).start()
        return super().open(run, attach)


class LeaksAProcess(Faulty):
    """A process goes on after the courier's end."""

    caught_by = ("test_no_thread_or_process_is_left",)
    registered = True

    def open(self, run, attach):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], start_new_session=True)
        return super().open(run, attach)


class HooksExceptions(Faulty):
    """It wants to see uncaught exceptions."""

    caught_by = ("test_process_is_left_as_it_was", "test_training_process_stays_untouched")

    def open(self, run, attach):
        before = sys.excepthook
        sys.excepthook = lambda *error: before(*error)
        return super().open(run, attach)


class HandlesSignals(Faulty):
    """It wants to see Ctrl-C."""

    caught_by = ("test_process_is_left_as_it_was",)

    def open(self, run, attach):
        if threading.current_thread() is threading.main_thread():
            before = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, lambda *args: before(*args))
        return super().open(run, attach)


class Seeds(Faulty):
    """It seeds the random numbers."""

    caught_by = ("test_process_is_left_as_it_was", "test_training_process_stays_untouched")

    def open(self, run, attach):
        random.seed(1337)
        return super().open(run, attach)


class Prints(Faulty):
    """It greets the user."""

    caught_by = ("test_training_process_stays_untouched",)

    def open(self, run, attach):
        print("View your run at https://tracker.example")
        return super().open(run, attach)


class ImportsItsSdk(Faulty):
    """The SDK is imported with the reporter's module, where training runs."""

    caught_by = ("test_training_process_stays_untouched",)
    registered = True
    requires = Requirement("runcast", "runcast.testing.memory", oldest="0.1", newest="9.0")


class ClosesOnce(Faulty):
    """A second close raises."""

    caught_by = ("test_closing_twice_is_fine",)

    def close(self, status):
        if self._closed:
            raise RuntimeError("the run has ended")
        super().close(status)


class CloseNeedsSuccess(Faulty):
    """After a call that failed, close raises."""

    caught_by = ("test_closing_after_a_failure_is_fine",)

    def log_artifact(self, artifact, step, time):
        self._broken = True
        super().log_artifact(artifact, step, time)
        self._broken = False

    def close(self, status):
        if getattr(self, "_broken", False):
            raise RuntimeError("an upload is still going on")
        super().close(status)


def replace_native(native: Any) -> Any:
    """The same run under another id."""
    return type(native)(f"{native.id}-again", native.url, native.data)


def _float32(value: float) -> float:
    with contextlib.suppress(OverflowError):
        return float(struct.unpack("f", struct.pack("f", value))[0])
    return math.inf


def _number(cell: Any) -> Any:
    try:
        return float(cell) if isinstance(cell, str) else cell
    except ValueError:
        return cell
