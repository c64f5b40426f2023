"""Zip archives that came from anywhere: nothing is extracted, every member is checked before it is read."""

from __future__ import annotations

import reprlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.errors import BenchError

DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
"""What zipfile raises on damaged input."""
# Python reads the others without a limit, whatever a member says its size is.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LITTER = ("__MACOSX/", ".DS_Store")


class Limits(NamedTuple):
    """What an archive of a kind may hold at most; sizes in bytes, uncompressed."""

    kind: str
    """What it should be, as "a set of drawings"."""
    members: int
    largest: int
    total: int


class Members(Mapping[str, bytes]):
    """The files of an archive by name, read when asked for; without folders and the litter of file managers.

    Raises:
        BenchError: damaged, here or when a member is read; a name that is absolute or climbs with "..", a link, a name
            that is there twice, or more than the limits allow.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path, limits: Limits) -> None:
        self._archive, self._path = archive, path
        self._members: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in archive.infolist():
            name, shown = info.filename, f"its member {reprlib.repr(info.filename)}"
            if name.startswith(("/", "\\")) or ":" in name or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise BenchError(f"{path} is not safe: {shown} points outside the archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise BenchError(f"{path} is not safe: {shown} is a link")
            if info.is_dir() or name.startswith(_LITTER[0]) or name.endswith(_LITTER[1]):
                continue
            if info.compress_type not in _METHODS:
                raise BenchError(f"{path} is not {limits.kind}: {shown} is compressed in a way that is not read here")
            if info.file_size > limits.largest:
                raise BenchError(f"{path} is not {limits.kind}: {shown} has {info.file_size} bytes")
            if name in self._members:
                raise BenchError(f"{path} holds {reprlib.repr(name)} twice; get it anew")
            self._members[name] = info
            total += info.file_size
        if len(self._members) > limits.members or total > limits.total:
            raise BenchError(f"{path} is not {limits.kind}: it holds {len(self._members)} files of {total} bytes")

    def __getitem__(self, name: str) -> bytes:
        info = self._members[name]
        try:
            with self._archive.open(info) as file:
                # With a limit, for what is really there may be more than the archive says.
                return file.read(info.file_size + 1)
        except DAMAGE as error:
            raise BenchError(f"{self._path} is damaged ({error}); delete it and get it anew") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
