"""The config: nested, whole, and of the same types."""

from __future__ import annotations

from typing import Any

from runcast.record import merge
from runcast.testing import canonical
from runcast.testing.contract.base import ContractBase, Delivered, feature
from runcast.verify import same

_MISSING = "<not there>"


class ConfigContract(ContractBase):
    """What becomes of settings."""

    @feature("config")
    def test_config_is_nested(self, delivered: Delivered) -> None:
        """Dicts in dicts come back as such, with the lists and values in them."""
        self.assert_setting(delivered, "learning_rate", "epochs", "lists", why="a plain setting is lost or changed")
        found = self.setting(delivered, "model")
        assert isinstance(found, dict), f"config['model'] is no longer nested: {found!r}. See runcast.flatten.unflatten"
        assert found.get("deep") == {"er": {"bias": True, "dropout": None}}, (
            f"config['model']['deep'] is {found.get('deep')!r}"
        )

    @feature("config")
    def test_config_updates_are_merged(self, delivered: Delivered) -> None:
        """A later value replaces an earlier one, a new key is added, and the others stay."""
        assert self.setting(delivered, "learnt_later") == 7, "a setting that came later is lost"
        found = self.setting(delivered, "model")
        assert found.get("layers") == [4], f"after its update, model/layers is {found.get('layers')!r}: expected [4]"
        assert found.get("name") == "tiny", "an update of a part replaced the whole: log_config gets updates to merge"

    @feature("config")
    def test_settings_may_change_their_type(self, extreme: Delivered) -> None:
        """A dict that becomes a number, a number that becomes a dict: the later value takes the place of the earlier."""
        for key, wanted in extreme.journal.config.items():
            found = self.setting(extreme, key)
            assert same(wanted, found), (
                f"config[{key!r}]: expected {wanted}, found {found}: do parts of the earlier value stay, or does one of its type?"
            )

    @feature("config")
    def test_deep_config_is_whole(self, delivered: Delivered) -> None:
        """Twenty levels come back as twenty."""
        self.assert_setting(
            delivered, "abyss", why="nesting ends somewhere: a limit of the tracker's, or of a key's length?"
        )

    @feature("config")
    def test_long_config_is_not_cut(self, delivered: Delivered) -> None:
        """A text of 20,000 characters and a key of 300 come back whole."""
        found = self.setting(delivered, "long")
        assert len(found) == 20_000, (
            f"a text of 20,000 characters comes back with {len(found)}: store it in pieces, or as a file"
        )
        self.assert_setting(delivered, "long", "k" * 300, why="a long key or text is cut or changed")

    @feature("config")
    def test_many_settings_all_arrive(self, delivered: Delivered) -> None:
        """A hundred and fifty settings are more than some trackers take in one call."""
        found = self.setting(delivered, "many")
        lost = [key for key in canonical.CONFIG["many"] if key not in found]
        assert not lost, f"{len(lost)} of 150 settings are lost, the first {lost[0]!r}"
        assert found == canonical.CONFIG["many"]

    @feature("config")
    def test_empty_settings_are_settings(self, delivered: Delivered) -> None:
        """An empty text, list or dict, and None, are there, each as what it is."""
        self.assert_setting(delivered, "empty", why="an empty text, list or dict is lost, or became another")

    @feature("config")
    def test_unicode_config_survives(self, delivered: Delivered) -> None:
        """Keys and values beyond ASCII, and more than one line, come back as they were."""
        self.assert_setting(
            delivered, "unicode", "multi", "schlüssel 鍵", why="is something encoded twice, or stripped?"
        )

    @feature("config")
    def test_settings_keep_their_types(self, delivered: Delivered) -> None:
        """0, False, None and the texts "0", "False", "None" are six different things."""
        wanted, found = canonical.CONFIG["types"], self.setting(delivered, "types")
        assert isinstance(found, dict), f"config['types'] is {found!r}"
        wrong = [f"{key}: expected {value!r}, found {found.get(key, _MISSING)!r}" for key, value in wanted.items()]
        wrong = [
            line for line, key in zip(wrong, wanted, strict=True) if not same(wanted[key], found.get(key, _MISSING))
        ]
        assert not wrong, "values change type; see runcast.flatten.to_text and from_text:\n" + "\n".join(wrong)
        self.assert_setting(delivered, "looks like a number", why="a text became a number")

    @feature("config")
    def test_nan_in_config_survives(self, delivered: Delivered) -> None:
        """NaN and the infinities are settings too."""
        self.assert_setting(delivered, "nan", "infinities", why="JSON has no NaN; see runcast.events.pack and unpack")

    @feature("config")
    def test_keys_stay_distinct(self, delivered: Delivered) -> None:
        """``a/b``, ``a.b`` and ``b`` in ``a`` are three settings."""
        self.assert_setting(delivered, "a/b", "a.b", "a", why="two keys became one; see runcast.flatten.flatten")

    @feature("config")
    def test_nothing_else_is_in_the_config(self, delivered: Delivered) -> None:
        """What the tracker or the reporter keeps there for itself is left out by the reader."""
        added = sorted(delivered.found.config.keys() - delivered.journal.config.keys()) if self._has(delivered) else []
        assert not added, f"nobody set these: {added[:10]}"

    # -- verbs -----------------------------------------------------------------------------------------------------

    def _has(self, delivered: Delivered) -> bool:
        self.needs(delivered.reporter, "log_config")
        return True

    def setting(self, delivered: Delivered, key: str) -> Any:
        """A setting as the tracker has it."""
        self.needs(delivered.reporter, "log_config")
        found = delivered.found.config.get(key, _MISSING)
        assert found is not _MISSING, (
            f"config[{key[:40]!r}] is lost; there are {sorted(key[:40] for key in delivered.found.config)}"
        )
        return found

    def assert_setting(self, delivered: Delivered, *keys: str, why: str) -> None:
        """Fails if a setting isn't what it was logged as."""
        expected = merge(canonical.CONFIG, {})
        for key in keys:
            found = self.setting(delivered, key)
            short = f"config[{key[:40]!r}]: expected {str(expected[key])[:200]}, found {str(found)[:200]}"
            assert same(expected[key], found), f"{why}\n{short}"
