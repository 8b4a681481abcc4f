"""What the records ask of the operating system: locks, leftovers, and its errors in one sentence.

Leftovers. Whatever is unfinished has a name `.part-<pid>-<machine>-...`. One of this machine is
left behind when its process is dead, whatever any clock says: a clock that jumps never takes the
file of a living writer here. One of another machine, whose processes nobody here can ask for, is
left behind when it is a day old by the clock of the file system that holds it, not by ours. A
clock that goes back only lets such a leftover lie longer. Should a machine stand still for a day in
the middle of a cell, its write fails with a sentence and the cell is made again.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from interp.errors import DiskError
from interp.results.manifest import fsync_folder, machine, part_name

if sys.platform != "win32":
    import fcntl

PART = re.compile(r"\.part-(\d{1,9})-([0-9a-f]{8})-[0-9a-f]+")
"""The name of something unfinished: process, machine, and chance."""

PART_SECONDS = 24 * 60 * 60
"""After a day something unfinished of another machine counts as left behind."""

_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


def names(folder: Path) -> list[str]:
    """Return the names in a folder in any order; none where there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and wait until the disk has their names."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    try:
        folder.mkdir()
    except FileExistsError:  # another process was first, or it is a file
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
    fsync_folder(folder.parent)


def require_writable(folder: Path) -> None:
    """Make a file in a folder and remove it, so that no work is done in vain. Raises OSError."""
    probe = folder / part_name()
    probe.touch()
    probe.unlink()


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Remove what dead processes left unfinished in these folders; needs no right to do so."""
    for folder in folders:
        parts = [name for name in names(folder) if PART.fullmatch(name)]
        now = _clock_of(folder) if parts else 0.0
        for path in (folder / name for name in parts):
            if is_leftover(path, now):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink()


def is_leftover(path: Path, now: float) -> bool:
    """Tell whether something unfinished has no writer any more; the rule stands in the module.

    `now` is the time of the file system that holds it, in seconds since 1970.
    """
    match = PART.fullmatch(path.name)
    if not match:
        return False
    pid, where = match.groups()
    if where == machine():
        return not _lives(int(pid))
    try:
        return now - path.stat().st_mtime > PART_SECONDS
    except OSError:
        return False


def _clock_of(folder: Path) -> float:
    """Return the time that the folder's file system gives a file now; 0, long ago, without rights.

    0 makes every part young: who may not write may not remove either.
    """
    probe = folder / part_name()
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        with suppress(OSError):
            probe.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the operating system frees it when the process ends, in any way.

    A file system without locks only loses what the lock adds: cells are whole without it.
    """
    with (folder / ".lock").open("ab") as file:
        if sys.platform != "win32":
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn what the operating system, or a bucket, refuses into one sentence.

    Raises:
        DiskError: `what`, and the reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DiskError(f"{what}: {reason}. Check the path, its rights and the disk.") from error


def cannot_write(error: BaseException | None) -> bool:
    """Tell whether an error only says that this process may not write here, or has no room to."""
    if not isinstance(error, OSError):
        return False
    denied = error.errno is None and "ACCESS_DENIED" in str(error)  # how pyarrow tells it of S3
    return denied or error.errno in _NO_RIGHT | _NO_ROOM


@contextmanager
def reader_may_skip() -> Iterator[None]:
    """Let a reader without the right or the room to write go on; what it wanted to do is left."""
    try:
        yield
    except OSError as error:
        if not cannot_write(error):
            raise
