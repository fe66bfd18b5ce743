"""Azure ML: the run of the job that the training is, through its MLflow plugin, with everything where `mlflow.py` puts it.

Azure ML takes fewer params and tags, and shorter ones, than MLflow: the rest of the tags is in files in ``tags/``. It never
lets a file be written over, so each has a name of its own. A job's first run is logged to the job's own run, which stays
Azure's to name and to end; further ones, trials say, are made below it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Mapping
from typing import Any, ClassVar

from runcast.reporter import Availability, NativeRun, Reporter, Requirement, RunInfo, online
from runcast.reporters._mlflow_names import CLAIM, MORE
from runcast.reporters._mlflow_record import Stored
from runcast.reporters._mlflow_store import in_azure_job
from runcast.reporters._versions import requirement
from runcast.reporters.mlflow import Limits, MlflowReporter


class AzureMLReporter(MlflowReporter):
    """Writes to the run of the Azure ML job that this process is in, and takes all its settings from there."""

    name: ClassVar[str] = "azureml"
    requires: ClassVar[Requirement] = requirement("azureml")
    # https://aka.ms/azure-machine-learning-limits; of its 200 params one is the claim, of its 50 tags some are the job's own.
    limits: ClassVar[Limits] = Limits(metrics=200, params=199, param=500, tag=1000)
    most_tags: ClassVar[int] = 40
    longest_tag_name: ClassVar[int] = 100
    replace = Reporter.replace  # a job has one run, and Azure ML takes no point back

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def availability(cls) -> Availability:
        found = super(MlflowReporter, cls).availability()
        if found.status == "ready" and not in_azure_job():
            reason = "not in an Azure ML job, which sets MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN and MLFLOW_RUN_ID"
            return dataclasses.replace(found, status="inactive", reason=reason)
        return online(found)

    def _default(self, run: RunInfo) -> str:
        raise ValueError("not in an Azure ML job")

    def _find_or_create(self, client: Any, run: RunInfo, experiment: str | None = None, besides: str = "") -> str:
        job = os.environ["MLFLOW_RUN_ID"]
        try:
            client.log_param(job, CLAIM, run.run_id)
        except Exception:  # what it says differs; what counts is whose it is
            found = client.get_run(job)
            if found.data.params.get(CLAIM) in (None, run.run_id):
                raise
            return self._own_run(client, run, found.info.experiment_id, parent=job)
        return job

    def _begin(self, run: RunInfo, client: Any, run_id: str, *, again: bool = False, joined: bool = False) -> NativeRun:
        jobs = run_id == os.environ.get("MLFLOW_RUN_ID")
        native = super()._begin(run, client, run_id, again=again, joined=joined or jobs)
        self.idempotent = False  # a file that comes again has another name
        return native

    def _load(self) -> Stored:
        stored = super()._load()
        self._native, self._in_files = set(stored.native_tags), set(stored.tags_in_files)
        self._next_file = stored.tag_files
        return stored

    def _fresh(self) -> str:
        return f"-{uuid.uuid4().hex[:8]}"

    def _send_tags(self, tags: Mapping[str, str]) -> None:
        """Those that fit; the rest as a file, which counts where a name is in both.

        Config that params can't hold goes to the file too: what few tags there are, are for what people look for.
        """
        few: dict[str, str] = {}
        for key, value in tags.items():
            short = len(key) <= self.longest_tag_name and len(value) <= self.limits.tag
            room = len(self._native | few.keys()) < self.most_tags and not key.startswith("config.")
            if short and (room or key in self._native) and key not in self._in_files:
                few[key] = value
        rest = {key: value for key, value in tags.items() if key not in few and self._tags.get(key) != value}
        if rest:
            self._store("tags", {f"{self._next_file:08d}{self._fresh()}.json": json.dumps(rest).encode()})
            self._next_file += 1
            self._in_files |= rest.keys()
        if self._in_files and MORE not in self._native:
            few[MORE] = "true"
        super()._send_tags(few)
        self._native |= few.keys()
        self._tags |= rest
