"""A run folder is private to the user, and may come from a stranger.

What we make in it is its owner's alone, whatever the umask. Nothing is written through a link, and nothing read that is no
regular file: a pipe would keep its reader for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from runcast.errors import RunFolderError


def private(name: str, flags: int) -> int:
    """An opener (`open`) for writing: the file is its owner's alone.

    Raises:
        RunFolderError: It is a link, or no regular file.
    """
    return _regular(name, flags | os.O_CLOEXEC, "written")


def regular(name: str, flags: int) -> int:
    """An opener (`open`) for reading.

    Raises:
        RunFolderError: It is a link, or no regular file.
    """
    return _regular(name, flags | os.O_CLOEXEC, "read")


def _regular(name: str, flags: int, what: str) -> int:
    try:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RunFolderError(error.errno, f"not {what}, for it is a link", name) from None
        if error.errno == errno.ENXIO:
            raise RunFolderError(error.errno, f"not {what}, for it is not a regular file", name) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RunFolderError(errno.EINVAL, f"not {what}, for it is not a regular file", name)
    return descriptor


def own_folder(run_dir: Path, *parts: str) -> Path:
    """``<run_dir>/<parts>``, made if need be, for its owner alone.

    Raises:
        RunFolderError: It is none, or a link leads out of the run folder.
    """
    folder = run_dir
    for part in parts:
        folder /= part
        if folder.is_symlink():
            raise RunFolderError(errno.ELOOP, "not written, for it is a link", str(folder))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise RunFolderError(error.errno, "not written, for it is no folder", str(folder)) from error
    return folder


def check_regular(*paths: Path) -> None:
    """Makes sure that these are files, as far as they are there.

    Raises:
        RunFolderError: One is a link, a pipe, a folder, ...
    """
    for path in paths:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(mode):
            what = "it is a link" if stat.S_ISLNK(mode) else "it is not a regular file"
            raise RunFolderError(errno.EINVAL, f"not written, for {what}", str(path))


def check_links(run_dir: Path) -> None:
    """Makes sure that who makes files below the run folder makes them there.

    Links to files are another matter: SDKs leave some that lead to where the folder was before it was moved, and nothing of
    ours is written through one.

    Raises:
        RunFolderError: A link leads to a folder outside.
    """
    root = run_dir.resolve()
    for path, folders, _ in os.walk(run_dir):
        for entry in (Path(path, name) for name in folders):
            if entry.is_symlink() and not entry.resolve().is_relative_to(root):
                raise RunFolderError(errno.ELOOP, "it is a link that leads out of the run folder", str(entry))


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file of its owner's alone, in one piece, in the place of whatever is there."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(temporary, "xb", opener=private) as file:
        file.write(content)
    temporary.replace(path)
