"""Makes the exports that the tests read, with neptune-exporter's own code: everything of it but its calls to the server.

The service is gone, so its answers are made here: for Neptune 3.x by the functions with which neptune-query makes data
frames of them, for Neptune 2.x in the form in which `neptune` returns them. The conversion, the batches of runs, the
names of files and the writing are neptune-exporter's (github.com/neptune-ai/neptune-exporter at 8d3f44a, no package):

    pip install neptune neptune-query pyarrow pandas pillow rich
    PYTHONPATH=CHECKOUT/src python integrations/neptune/make_exports.py integrations/neptune/exports
"""

from __future__ import annotations

import io
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
from neptune_exporter.export_manager import ExportManager
from neptune_exporter.exporters.error_reporter import ErrorReporter
from neptune_exporter.exporters.neptune2 import Neptune2Exporter
from neptune_exporter.exporters.neptune3 import Neptune3Exporter
from neptune_exporter.progress.listeners import NoopProgressListenerFactory
from neptune_exporter.storage.parquet_reader import ParquetReader
from neptune_exporter.storage.parquet_writer import ParquetWriter
from neptune_query import types
from neptune_query.internal import output_format
from neptune_query.internal.identifiers import AttributeDefinition, RunAttributeDefinition, RunIdentifier
from neptune_query.internal.retrieval.attribute_types import File, Histogram
from neptune_query.internal.retrieval.attribute_values import AttributeValue
from neptune_query.internal.retrieval.files import create_target_path
from neptune_query.internal.retrieval.search import ContainerType
from neptune_query.internal.retrieval.series import SeriesValue
from PIL import Image

PROJECT = "team/demo"
START = 1_735_689_600_000  # milliseconds: the beginning of 2025
CREATED = pd.Timestamp(START, unit="ms", tz="UTC")


def png(shade: int) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 255 - shade)).save(out, format="PNG")
    return out.getvalue()


class Three(Neptune3Exporter):
    """Neptune 3.x: two runs in one batch, of which one has attributes that the other hasn't."""

    runs = {"whole": "DEMO-1", "fractions": "DEMO-2"}  # noqa: RUF012 -- a script's
    parameters = {  # noqa: RUF012
        "whole": {
            "sys/id:string": "DEMO-1",
            "sys/name:string": "experiment one",
            "sys/custom_run_id:string": "whole",
            "sys/creation_time:datetime": CREATED,
            "sys/owner:string": "somebody",
            "sys/failed:bool": False,
            "sys/tags:string_set": {"good", "första"},
            "sys/group_tags:string_set": {"ablation"},
            "params/lr:float": 3e-5,
            "params/epochs:int": 3,
            "params/optimizer/name:string": "adam",
            "params/shuffle:bool": True,
            "params/when:datetime": CREATED,
        },
        "fractions": {
            "sys/id:string": "DEMO-2",
            "sys/name:string": "experiment two",
            "sys/custom_run_id:string": "fractions",
            "sys/creation_time:datetime": CREATED,
            "sys/failed:bool": True,
        },
    }
    metrics = {  # noqa: RUF012
        ("whole", "train/loss"): [(float(step), 1 / (step + 1)) for step in range(50)],
        ("whole", "train/lr"): [(0.0, 0.1 + 0.2), (2.0**31, 1e-300)],
        ("fractions", "train/loss"): [(0.5 * step, float(step)) for step in range(4)],
    }
    texts = {("whole", "notes"): [(0.0, "first\nline"), (3.0, "naïve 🚀")]}  # noqa: RUF012
    histograms = {  # noqa: RUF012
        ("whole", "weights"): [(1.0, Histogram("COUNTING", [0.0, 0.5, 1.0], [3.0, 4.0]))]
    }
    files = {  # noqa: RUF012
        ("whole", "config/file.txt", None): b"text of a file",
        ("whole", "plots", 1.0): png(1),
        ("whole", "plots", 2.0): png(2),
        ("whole", "dumps", 1.0): b"no picture",
    }

    def _initialize_client(self, api_token, show_client_logs):
        pass

    def list_runs(self, project_id, runs=None, query=None):
        return list(self.runs)

    def _attribute(self, run, name, kind):
        return RunAttributeDefinition(RunIdentifier(PROJECT, self.runs[run]), AttributeDefinition(name, kind))

    def download_parameters(self, project_id, run_ids, attributes, progress=None):
        rows = []
        for run in run_ids:
            values = []
            for column, value in self.parameters[run].items():
                attribute = self._attribute(run, *column.rsplit(":", 1))
                values.append(AttributeValue(attribute.attribute_definition, value, attribute.run_identifier))
            rows.append(output_format.TableRow(values, run))
        frame = output_format.create_runs_table(
            rows, type_suffix_in_column_names=True, container_type=ContainerType.RUN
        )
        yield self._record_batch_from_pandas(self._convert_parameters_to_schema(frame, project_id))

    def download_metrics(self, project_id, run_ids, attributes, progress=None):
        data = {
            self._attribute(run, name, "float_series"): [
                (START + 1000 * index, step, value, False, 1.0) for index, (step, value) in enumerate(points)
            ]
            for (run, name), points in self.metrics.items()
        }
        frame = output_format.create_metrics_dataframe(
            data,
            {system: run for run, system in self.runs.items()},
            type_suffix_in_column_names=False,
            include_point_previews=False,
            index_column_name="run",
            timestamp_column_name="absolute_time",
        )
        yield self._record_batch_from_pandas(self._convert_metrics_to_schema(frame, project_id))

    def download_series(self, project_id, run_ids, attributes, progress=None):
        for kind, series in (("string_series", self.texts), ("histogram_series", self.histograms)):
            frame = self._series(kind, series)
            names = [(name, kind) for _, name in series]
            yield self._record_batch_from_pandas(self._convert_series_to_schema(frame, project_id, names))

    def download_files(self, project_id, run_ids, attributes, destination, progress=None):
        destination = destination.resolve()
        for kind, single in (("file", True), ("file_series", False)):
            chosen = {key: data for key, data in self.files.items() if (key[2] is None) == single}
            paths = {}
            series = {}
            for (run, name, step), data in chosen.items():
                stored = File(f"bucket/{name}", len(data), "image/png" if name == "plots" else "text/plain")
                file = types.File(PROJECT, None, run, name, step, stored.path, stored.size_bytes, stored.mime_type)
                paths[file] = create_target_path(destination, file)
                paths[file].parent.mkdir(parents=True, exist_ok=True)
                paths[file].write_bytes(data)
                series.setdefault((run, name), []).append((step, stored))
            frame = output_format.create_files_dataframe(paths, ContainerType.RUN)
            points = None if single else self._series(kind, series)
            converted = self._convert_files_to_schema(frame, project_id, kind, points, destination)
            yield self._record_batch_from_pandas(converted)

    def _series(self, kind, series):
        data = {
            self._attribute(run, name, kind): [
                SeriesValue(step, value, START + 1000 * index) for index, (step, value) in enumerate(points)
            ]
            for (run, name), points in series.items()
        }
        labels = {system: run for run, system in self.runs.items()}
        return output_format.create_series_dataframe(data, PROJECT, labels, "run", "absolute_time")


class Two(Neptune2Exporter):
    """Neptune 2.x: one run, with file sets and an artifact, which 3.x hasn't, and file series without times."""

    def list_runs(self, project_id, runs=None, query=None):
        return ["OLD-7"]

    def download_parameters(self, project_id, run_ids, attributes, progress=None):
        values = [
            ("sys/id", "string", "OLD-7"),
            ("sys/name", "string", "Untitled"),
            ("sys/creation_time", "datetime", CREATED),
            ("sys/tags", "string_set", {"old"}),
            ("parameters/lr", "float", 0.5),
        ]
        rows = [
            {"run_id": "OLD-7", "attribute_path": path, "attribute_type": kind, "value": value}
            for path, kind, value in values
        ]
        yield self._record_batch_from_pandas(self._convert_parameters_to_schema(rows, project_id))

    def download_metrics(self, project_id, run_ids, attributes, progress=None):
        frame = self._frame("metrics/acc", "float_series", [0.25, 0.5])
        yield self._record_batch_from_pandas(self._convert_metrics_to_schema([frame], project_id))

    def download_series(self, project_id, run_ids, attributes, progress=None):
        frame = self._frame("monitoring/stdout", "string_series", ["one", "two"])
        yield self._record_batch_from_pandas(self._convert_series_to_schema([frame], project_id))

    def download_files(self, project_id, run_ids, attributes, destination, progress=None):
        base = destination.resolve() / project_id / "OLD-7"
        contents = {
            "model/weights": b"\x00\x01",
            "source_code/files/files.zip": b"PK not really",
            "data/train/files_list.json": b"[]",
            "images/0.png": png(7),
        }
        for name, data in contents.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
        rows = [
            ("model/weights", "file", None, "model/weights"),
            ("source_code/files", "file_set", None, "source_code/files"),
            ("data/train", "artifact", None, "data/train/files_list.json"),
            ("images", "file_series", Decimal("0.000000"), "images/0.png"),
        ]
        data = [
            {
                "run_id": "OLD-7",
                "step": step,
                "attribute_path": path,
                "attribute_type": kind,
                "file_value": {"path": str((base / stored).relative_to(destination.resolve()))},
            }
            for path, kind, step, stored in rows
        ]
        yield self._record_batch_from_pandas(self._convert_files_to_schema(data, project_id))

    @staticmethod
    def _frame(path, kind, values):
        times = [CREATED + pd.Timedelta(seconds=index) for index in range(len(values))]
        frame = pd.DataFrame({"step": [float(i) for i in range(len(values))], "value": values, "timestamp": times})
        return frame.assign(run_id="OLD-7", attribute_path=path, attribute_type=kind)


def main(target: Path) -> None:
    errors = ErrorReporter(target / "errors.jsonl")
    for name, exporter in (("three", Three(errors)), ("two", Two(errors))):
        data = target / name / "data"
        manager = ExportManager(
            exporter,
            ParquetReader(data),
            ParquetWriter(data),
            errors,
            target / name / "files",
            NoopProgressListenerFactory(),
        )
        manager.run([PROJECT])
        exporter.close()
    if errors.get_summary().exception_count:
        raise SystemExit(f"{errors.path}: see there")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
