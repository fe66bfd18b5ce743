"""Which points of a journal a resume has taken back: those after the checkpoint that were logged before it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from runcast import events
from runcast.journal import Entry, Journal

POINTS = (events.Metrics, events.Text, events.Image, events.Table, events.Histogram)
"""The events that are of a step, and so can be superseded; config, summary, tags and artifacts stay."""


class _Resume(NamedTuple):
    offset: int
    step: int


class Superseded:
    """The resumes of a journal, as it was when it was read."""

    def __init__(self, resumes: tuple[_Resume, ...] = ()) -> None:
        self._resumes = resumes
        self.known = frozenset(resume.offset for resume in resumes)

    @classmethod
    def of(cls, journal: Journal) -> Superseded:
        """Those of this journal."""
        return cls(tuple(_resumes(journal)))

    def covers(self, entry: Entry) -> bool:
        """Whether a later resume took this event back."""
        if not self._resumes or not isinstance(entry.event, POINTS):
            return False
        return any(entry.start < resume.offset and entry.event.step > resume.step for resume in self._resumes)

    def first_step(self, cursor: int) -> int | None:
        """The earliest step that the run is resumed from at or behind `cursor`; None if it isn't."""
        return min((resume.step for resume in self._resumes if resume.offset >= cursor), default=None)


def _resumes(journal: Journal) -> Iterator[_Resume]:
    for entry in journal.read(only=events.RunResumed):
        assert isinstance(entry.event, events.RunResumed)
        if entry.event.step is not None:
            yield _Resume(entry.start, entry.event.step)
