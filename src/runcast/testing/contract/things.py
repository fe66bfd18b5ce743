"""Artifacts, tags, results, and what the run is called."""

from __future__ import annotations

import pytest

from runcast.record import ArtifactRecord
from runcast.testing import canonical
from runcast.testing.contract.base import ContractBase, Delivered, assert_same, feature
from runcast.verify import TIME_TOLERANCE, same


class ThingsContract(ContractBase):
    """What becomes of files, labels and results."""

    # -- artifacts -------------------------------------------------------------------------------------------------

    @feature("artifacts")
    def test_file_is_the_same_byte_by_byte(self, delivered: Delivered) -> None:
        """A file of bytes that are no text comes back whole."""
        self.assert_files(delivered, "notes.txt")

    @feature("artifacts")
    def test_empty_file_is_a_file(self, delivered: Delivered) -> None:
        """A file without bytes is there, under a name with a slash."""
        self.assert_files(delivered, "models/none")

    @feature("artifacts")
    def test_folder_is_the_same_file_by_file(self, delivered: Delivered) -> None:
        """A folder comes back with its subfolders, hidden files, names beyond ASCII and two files of one base name."""
        self.assert_files(delivered, "best-model")

    @feature("artifacts")
    def test_later_version_of_an_artifact_counts(self, delivered: Delivered) -> None:
        """A name that is logged again stands for the later files."""
        found = self.artifact(delivered, "versioned")
        assert [content.read() for content in found.files.values()] == [b"second"], (
            "the earlier version is read back, or a mixture of both"
        )

    @feature("artifacts")
    def test_artifacts_keep_kind_and_metadata(self, delivered: Delivered) -> None:
        """File, model, checkpoint and dataset are told apart, and free-form metadata comes back nested."""
        for name, wanted in delivered.journal.artifacts.items():
            found = self.artifact(delivered, name)
            assert found.kind == wanted.kind, f"artifact {name} was a {wanted.kind} and is a {found.kind}"
            assert same(wanted.metadata, found.metadata), (
                f"artifact {name}: expected the metadata {wanted.metadata}, found {found.metadata}"
            )

    @feature("artifacts")
    def test_artifacts_keep_their_step(self, delivered: Delivered) -> None:
        """An artifact is of a step, or of none."""
        for name, wanted in delivered.journal.artifacts.items():
            found = self.artifact(delivered, name)
            assert found.step == wanted.step, f"artifact {name} was of step {wanted.step} and is of step {found.step}"

    @feature("artifacts")
    def test_no_artifact_is_added(self, delivered: Delivered) -> None:
        """Files that the reporter or the tracker keeps for itself are left out by the reader."""
        self.needs(delivered.reporter, "log_artifact")
        added = sorted(delivered.found.artifacts.keys() - delivered.journal.artifacts.keys())
        assert not added, f"nobody logged these: {added[:10]}"

    # -- tags and results ------------------------------------------------------------------------------------------

    @feature("tags")
    def test_tags_are_kept(self, delivered: Delivered) -> None:
        """Those from the start and those added later, with spaces, commas and Unicode, each once."""
        self.needs(delivered.reporter, "add_tags")
        wanted, found = delivered.journal.tags, delivered.found.tags
        assert set(wanted) <= set(found), f"tags are lost or cut up: {sorted(set(wanted) - set(found))}"
        assert list(found) == sorted(wanted), (
            f"expected {sorted(wanted)}, found {list(found)}: sorted, each once, and no other"
        )

    @feature("extremes")
    def test_long_tag_is_not_cut(self, extreme: Delivered) -> None:
        """A tag of three hundred characters comes back whole."""
        self.needs(extreme.reporter, "add_tags")
        assert list(extreme.found.tags) == list(extreme.journal.tags), "a long tag is cut, lost or in pieces"

    @feature("summary")
    def test_results_keep_value_and_type(self, delivered: Delivered) -> None:
        """Numbers, texts, booleans, None, NaN and nested values come back as they were."""
        self.needs(delivered.reporter, "set_summary")
        for key in canonical.SUMMARY.keys() - {"best_step"}:
            assert key in delivered.found.summary, f"the result {key!r} is lost"
            wanted, found = canonical.SUMMARY[key], delivered.found.summary[key]
            assert same(wanted, found), f"the result {key!r} was {str(wanted)[:100]!r} and is {str(found)[:100]!r}"

    @feature("extremes")
    def test_long_result_is_not_cut(self, extreme: Delivered) -> None:
        """A result of 120,000 characters comes back whole."""
        self.needs(extreme.reporter, "set_summary")
        wanted, found = extreme.journal.summary["report/very-long"], extreme.found.summary.get("report/very-long", "")
        assert len(found) == len(wanted), f"a result of {len(wanted)} characters comes back with {len(found)}"
        assert found == wanted

    @feature("summary")
    def test_last_result_of_a_name_counts(self, delivered: Delivered) -> None:
        """A result that is set again is replaced."""
        self.needs(delivered.reporter, "set_summary")
        assert delivered.found.summary.get("best_step") == 8, "set_summary was called with 7 and then with 8"

    @feature("summary")
    def test_no_result_is_added(self, delivered: Delivered) -> None:
        """What the tracker computes by itself, last or highest values of metrics say, is left out by the reader."""
        self.needs(delivered.reporter, "set_summary")
        why = "results are lost, added or changed:"
        assert_same(delivered.reporter, delivered.journal, delivered.found, why, ["summary"])

    # -- the run itself --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("what", ["run_id", "name", "project", "group", "started"])
    def test_run_is_called_what_it_is_called(self, what: str, delivered: Delivered) -> None:
        """Id, name, project, group and start are those of the run, where the reader says them."""
        wanted, found = getattr(delivered.journal, what), getattr(delivered.found, what)
        if found in (None, ""):
            pytest.skip(f"the reader of {delivered.reporter.name} doesn't say the run's {what.replace('_', ' ')}")
        if isinstance(wanted, float):
            assert abs(found - wanted) <= TIME_TOLERANCE, f"{what}: expected {wanted}, found {found} (Unix seconds)"
        else:
            assert found == wanted, f"{what}: expected {wanted!r}, found {found!r}"

    # -- verbs -----------------------------------------------------------------------------------------------------

    def artifact(self, delivered: Delivered, name: str) -> ArtifactRecord:
        """An artifact as the tracker has it."""
        self.needs(delivered.reporter, "log_artifact")
        found = delivered.found.artifacts.get(name)
        assert found is not None, f"artifact {name!r} is lost; there are {sorted(delivered.found.artifacts)}"
        return found

    def assert_files(self, delivered: Delivered, name: str) -> None:
        """Fails if a file of an artifact isn't what was logged."""
        found = self.artifact(delivered, name).files
        wanted = delivered.journal.artifacts[name].files
        assert sorted(found) == sorted(wanted), (
            f"artifact {name!r}: expected the files {sorted(wanted)}, found {sorted(found)}"
        )
        for path, content in wanted.items():
            assert found[path].size == content.size, f"{name}: {path!r} has {found[path].size} bytes of {content.size}"
            assert found[path].read() == content.read(), (
                f"{name}: {path!r} has other bytes: is it read as text somewhere?"
            )
