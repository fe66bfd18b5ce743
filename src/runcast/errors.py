"""What can go wrong, named for what the caller can do about it.

RuncastError
├── UnknownTrackerError (also ValueError)        no tracker of that name: fix the name
├── MissingDependencyError (also ImportError)    known, not installed: run the `pip install` line
├── TrackerStartError                            a tracker that was named can't start: fix its settings
├── RunFolderError (also OSError)                the run folder can't be written or read: choose another
├── JournalError (also ValueError)               the file is no journal
├── SessionLostError (also ConnectionError)      raised by reporters: attach again, and find out what arrived
└── DeliveryError                                `strict=True` and something was not delivered: `runcast sync`
"""

from __future__ import annotations


class RuncastError(Exception):
    """The base of all errors that runcast raises on purpose."""


class UnknownTrackerError(RuncastError, ValueError):
    """`report_to` names a tracker that nobody registered."""


class MissingDependencyError(RuncastError, ImportError):
    """Something known is not installed, or not in a supported version."""


class TrackerStartError(RuncastError):
    """A tracker that was asked for by name can't start."""


class RunFolderError(RuncastError, OSError):
    """A run folder can't be created, written, or found."""


class JournalError(RuncastError, ValueError):
    """A file is not a journal that this version can read."""


class SessionLostError(RuncastError, ConnectionError):
    """Raised by a reporter whose session with its tracker ended: its courier attaches again and goes on."""


class DeliveryError(RuncastError):
    """Something was not delivered to every tracker."""


def missing_extra(what: str, extra: str, *, found: str | None = None) -> MissingDependencyError:
    """The one sentence for everything that isn't installed.

    Args:
        what: What was asked for, in words.
        extra: The extra of runcast that installs it.
        found: The unsupported version that is installed, if any.
    """
    state = f"needs another version than the installed {found}" if found else "is not installed"
    return MissingDependencyError(f'{what} {state}. Install it with: pip install "runcast[{extra}]"')
