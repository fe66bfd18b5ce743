"""Names for what a tracker tells apart by more than one name."""

from __future__ import annotations

import logging
from collections.abc import Hashable

logger = logging.getLogger("runcast")


class Distinct:
    """Names things so that no two have the same name."""

    def __init__(self) -> None:
        self._owners: dict[str, Hashable] = {}

    def name(self, thing: Hashable, wanted: str) -> str:
        """What the thing is called, each time: as wanted, unless another is called so already. That is said."""
        name = wanted
        while self._owners.get(name, thing) != thing:
            name += "_"
        if name not in self._owners and name != wanted:
            logger.warning("a second %r is called %r here", wanted[:80], name[:80])
        self._owners[name] = thing
        return name
