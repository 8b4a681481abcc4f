"""Small whole files beside the cells, in the same folder or bucket: plans, failures, an index.

A file is replaced whole or not at all. In a folder it is written under an unfinished name, flushed
to the disk and renamed, and the folder's names are flushed after it; in a bucket an upload of a
small object is whole by itself. So a reader finds the old file or the new one, whenever a writer
is killed. A full disk or a read-only store ends in one sentence, and the old file stays.
"""

from __future__ import annotations

import re
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import final

from interp.errors import StoreError
from interp.results.disk import PART, disk_errors, make_folder
from interp.results.manifest import fsync_folder, part_name, replace_file

_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@ -]*")


class Files(ABC):
    """Small whole files below one address. `Files.open` is the way in."""

    def __init__(self, address: str) -> None:
        self.address = address

    @classmethod
    def open(cls, address: str | Path) -> Files:
        """Open the files of a folder, which need not be there yet, or of `s3://bucket/prefix`.

        Raises:
            StoreError: there is no such bucket, or it cannot be reached.
        """
        from interp.results.objects import BucketFiles, is_bucket

        return BucketFiles(address) if is_bucket(address) else FolderFiles(Path(address))

    def put(self, path: str, data: bytes) -> None:
        """Write a file, new or in place of an old one, whole or not at all.

        Raises:
            StoreError: `path` leaves the address, or the disk refuses.
        """
        require_inside(path)
        with disk_errors(f"{path} cannot be written to {self.address}"):
            self._put(path, data)

    def get(self, path: str) -> bytes | None:
        """Return a file's bytes; None where there is none.

        Raises:
            StoreError: `path` leaves the address, or the disk refuses.
        """
        require_inside(path)
        with disk_errors(f"{path} of {self.address} cannot be read"):
            return self._get(path)

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted, without those in folders below it.

        What is unfinished is left out; a folder that is not there has no file.

        Raises:
            StoreError: `folder` leaves the address, or the disk refuses.
        """
        require_inside(folder)
        with disk_errors(f"{folder} of {self.address} cannot be listed"):
            return sorted(self._names(folder))

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder, sorted.

        Raises:
            StoreError: `folder` leaves the address, or the disk refuses.
        """
        require_inside(folder)
        with disk_errors(f"{folder} of {self.address} cannot be listed"):
            return sorted(name for name in self._folders(folder) if _STEP.fullmatch(name))

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and all that is below it; nothing happens where there is none.

        Raises:
            StoreError: `folder` leaves the address, or the disk refuses.
        """
        require_inside(folder)
        with disk_errors(f"{folder} of {self.address} cannot be removed"):
            self._delete_folder(folder)

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens where there is none.

        Raises:
            StoreError: `path` leaves the address, or the disk refuses.
        """
        require_inside(path)
        with disk_errors(f"{path} of {self.address} cannot be removed"):
            self._delete(path)

    @abstractmethod
    def _put(self, path: str, data: bytes) -> None: ...

    @abstractmethod
    def _get(self, path: str) -> bytes | None: ...

    @abstractmethod
    def _names(self, folder: str) -> list[str]: ...

    @abstractmethod
    def _delete(self, path: str) -> None: ...

    @abstractmethod
    def _folders(self, folder: str) -> list[str]: ...

    @abstractmethod
    def _delete_folder(self, folder: str) -> None: ...


@final
class FolderFiles(Files):
    """Small whole files below a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def _put(self, path: str, data: bytes) -> None:
        target = self.folder / path
        make_folder(target.parent)
        replace_file(target, data)

    def _get(self, path: str) -> bytes | None:
        try:
            return (self.folder / path).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _names(self, folder: str) -> list[str]:
        try:
            there = list((self.folder / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path.name for path in there if not PART.fullmatch(path.name) and path.is_file()]

    def _delete(self, path: str) -> None:
        target = self.folder / path
        try:
            target.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        fsync_folder(target.parent)

    def _folders(self, folder: str) -> list[str]:
        try:
            there = list((self.folder / folder).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path.name for path in there if not PART.fullmatch(path.name) and path.is_dir()]

    def _delete_folder(self, folder: str) -> None:
        target = self.folder / folder
        aside = target.with_name(part_name())  # gone at once for every reader, then for good
        try:
            target.rename(aside)
        except (FileNotFoundError, NotADirectoryError):
            return
        shutil.rmtree(aside)
        fsync_folder(target.parent)


def require_inside(path: str) -> None:
    """Refuse a path that could leave the address, or be taken for something unfinished.

    Raises:
        StoreError: it is empty, starts or ends with a slash, or has a step that starts with a dot.
    """
    if not all(_STEP.fullmatch(step) for step in path.split("/")):
        raise StoreError(
            f"{path!r} is no path of a file in a store: use names of letters, digits, '_', '-' "
            "and '.', joined by '/'; none starts with a dot."
        )
