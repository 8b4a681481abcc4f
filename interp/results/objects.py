"""Cells and files in a bucket: `s3://bucket/prefix`, through pyarrow's own client.

A bucket has no rename. So the tables of a cell go first, under names that hold their checksum, and
`cell.json`, which names them, goes last in one upload:

- A cell that is half written has no `cell.json`: it is not there, and its tables are taken over by
  whoever makes the cell again, for equal tables have equal names.
- Two writers of one cell never write over each other's tables with others. The later `cell.json`
  stands, and names tables that are there. There is no way to be told who was first, so both may
  be told that they were.
- A damaged cell is copied to `damaged/<key>.<checksum of the damage>/` once, and stays in its place
  until it is made again: to remove it could remove what another process has just made. It counts as
  not there, and is not read.

The endpoint comes from AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, the region from AWS_REGION or
AWS_DEFAULT_REGION, the rights from where the AWS tools find them. pyarrow's client does not
survive a fork: open an address in the process that uses it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from interp.errors import StoreError
from interp.results.cells import Cell, Cells, Damage, checked, keys_aside, sealed, table_file
from interp.results.disk import disk_errors, reader_may_skip
from interp.results.files import Files

_ADDRESS = re.compile(r"s3:/{1,2}([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/+(.*?))?/*")
_CELL = re.compile(r"([0-9a-f]{32})/cell\.json")


def is_bucket(address: str | Path) -> bool:
    """Tell whether an address names a bucket; `pathlib` leaves one slash of two.

    >>> is_bucket("s3://records/run"), is_bucket(Path("s3://records/run")), is_bucket("runs/s3")
    (True, True, False)
    """
    return str(address).startswith("s3:/")


def parse_address(address: str | Path) -> tuple[str, str]:
    """Return the bucket of an address and the prefix in it, which may be empty.

    >>> parse_address("s3://records/sweeps/a/")
    ('records', 'sweeps/a')

    Raises:
        StoreError: the address names no bucket, or a step of the prefix is empty, `.` or `..`.
    """
    match = _ADDRESS.fullmatch(str(address))
    prefix = (match[2] or "") if match else ""
    if not match or (prefix and {"", ".", ".."} & set(prefix.split("/"))):
        raise StoreError(f"{str(address)!r} is no address of a bucket: write s3://bucket/prefix.")
    return match[1], prefix


class Bucket:
    """Objects below a prefix of a bucket, each written and read whole."""

    def __init__(self, address: str | Path) -> None:
        bucket, prefix = parse_address(address)
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._root = f"{bucket}/{prefix}".rstrip("/")
        with disk_errors(f"{self.address} cannot be reached"):
            self._s3 = _client()
            self._require(bucket)

    def _require(self, bucket: str) -> None:
        from pyarrow.fs import FileType

        if self._s3.get_file_info(bucket).type == FileType.NotFound:
            raise StoreError(
                f"There is no bucket {bucket!r} at {_endpoint() or 'AWS'}: make it, or check the "
                "address and AWS_ENDPOINT_URL."
            )

    def get(self, path: str) -> bytes:
        """Return an object. Raises FileNotFoundError."""
        with self._s3.open_input_stream(f"{self._root}/{path}") as stream:
            return stream.read()

    def put(self, path: str, data: bytes) -> None:
        """Write an object whole; a reader finds the old one or the new one."""
        with self._s3.open_output_stream(f"{self._root}/{path}") as stream:
            stream.write(data)

    def delete(self, path: str) -> None:
        """Remove an object. Raises FileNotFoundError."""
        self._s3.delete_file(f"{self._root}/{path}")

    def below(self, folder: str, *, recursive: bool = True) -> list[str]:
        """Return the paths of the objects below a folder, from that folder on."""
        from pyarrow.fs import FileSelector, FileType

        root = f"{self._root}/{folder}"
        found = self._s3.get_file_info(
            FileSelector(root, recursive=recursive, allow_not_found=True)
        )
        return [info.path[len(root) + 1 :] for info in found if info.type == FileType.File]

    def folders(self, folder: str) -> list[str]:
        """Return the names of the folders in a folder."""
        from pyarrow.fs import FileSelector, FileType

        found = self._s3.get_file_info(FileSelector(f"{self._root}/{folder}", allow_not_found=True))
        return [info.base_name for info in found if info.type == FileType.Directory]


@final
class BucketFiles(Files):
    """Small whole files below a prefix of a bucket."""

    def __init__(self, address: str | Path) -> None:
        self._bucket = Bucket(address)
        super().__init__(self._bucket.address)

    def _put(self, path: str, data: bytes) -> None:
        self._bucket.put(path, data)

    def _get(self, path: str) -> bytes | None:
        try:
            return self._bucket.get(path)
        except FileNotFoundError:
            return None

    def _names(self, folder: str) -> list[str]:
        return self._bucket.below(folder, recursive=False)

    def _delete(self, path: str) -> None:
        try:
            self._bucket.delete(path)
        except FileNotFoundError:
            return

    def _folders(self, folder: str) -> list[str]:
        return self._bucket.folders(folder)

    def _delete_folder(self, folder: str) -> None:
        for name in sorted(self._bucket.below(folder)):  # cell.json goes before its tables
            self._delete(f"{folder}/{name}")


@final
class BucketCells(Cells):
    """The cells below a prefix of a bucket."""

    def __init__(self, address: str | Path) -> None:
        self._bucket = Bucket(address)
        super().__init__(self._bucket.address)

    def prepare(self) -> None:
        """Write an empty object, so that no work is done in vain where nothing can be written.

        Raises:
            StoreError: the bucket refuses.
        """
        with disk_errors(f"{self.address} cannot be written to"):
            self._bucket.put("cells/.writable", b"")

    def require(self) -> None:
        """Do nothing: that there is such a bucket was found out when this was made."""

    def keys(self) -> list[str]:
        """Return the keys of the cells that have a `cell.json`, sorted; none of them is opened."""
        with disk_errors(f"The cells of {self.address} cannot be listed"):
            found = map(_CELL.fullmatch, self._bucket.below("cells"))
            return sorted(match[1] for match in found if match)

    def set_aside(self) -> set[str]:
        """Return the keys that were ever copied aside as damaged; they may be good again."""
        with disk_errors(f"The cells of {self.address} cannot be listed"):
            return keys_aside(self._bucket.folders("damaged"))

    def _load(self, key: str) -> Cell | None:
        where = f"{self.address}/cells/{key}"
        try:
            text = self._bucket.get(f"cells/{key}/cell.json")
        except FileNotFoundError:
            return None

        def get(name: str) -> bytes:
            return text if name == "cell.json" else self._bucket.get(f"cells/{key}/{name}")

        return checked(key, get, where, self.address)

    def _set_aside(self, key: str) -> Cell | None:
        try:
            cell = self._load(key)  # another process may have made it again meanwhile
        except Damage:
            with reader_may_skip():
                self._copy_aside(key)
            return None
        self._aside.discard(key)
        return cell

    def _copy_aside(self, key: str) -> None:
        there = self._bucket.below(f"cells/{key}")
        objects = {name: self._bucket.get(f"cells/{key}/{name}") for name in there}
        sums = [f"{name} {hashlib.sha256(data).hexdigest()}" for name, data in objects.items()]
        mark = hashlib.sha256("\n".join(sorted(sums)).encode()).hexdigest()[:8]
        for name, data in objects.items():
            self._bucket.put(f"damaged/{key}.{mark}/{name}", data)

    def _publish(self, key: str, about: dict, content: Mapping[str, bytes]) -> bool:
        if self.has(key):  # copies a damaged one aside, before its tables are written over
            return False
        again = key in self._aside
        entries = {name: entry | {"named": "sha256"} for name, entry in about["tables"].items()}
        for name, data in content.items():
            self._bucket.put(f"cells/{key}/{table_file(name, entries[name])}", data)
        if not again and self.has(key):
            return False
        self._bucket.put(f"cells/{key}/cell.json", sealed(about | {"tables": entries}))
        self._aside.discard(key)
        return True


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def _client() -> Any:
    """Return pyarrow's client; one upload a small object, written when the stream is closed."""
    from pyarrow.fs import S3FileSystem

    endpoint = _endpoint()
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(
        endpoint_override=endpoint,
        region=region or ("us-east-1" if endpoint else None),
        scheme="http" if endpoint and endpoint.startswith("http:") else "https",
        allow_delayed_open=True,
        background_writes=False,
    )
