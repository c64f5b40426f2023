"""Drawings straight from zip archives that came from anywhere: nothing is extracted, everything is checked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.errors import BenchError

SIDE = 105
"""Side in pixels of an Omniglot drawing."""
_LARGEST = 1 << 20
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, SyntaxError, ValueError, RuntimeError,
)  # fmt: skip
"""What zipfile and Pillow raise on damaged input."""


class Members(Mapping[str, bytes]):
    """The files of an archive by name, read when asked for; without folders and the litter of file managers.

    Raises:
        BenchError: a name that is absolute or climbs with "..", one that is there twice, or a file too large to be a
            drawing.
    """

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._names: dict[str, None] = {}
        for info in archive.infolist():
            name = info.filename
            if name.startswith(("/", "\\")) or ":" in name or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                raise BenchError(f"{path} is not safe: its member '{name}' points outside the archive")
            if info.is_dir() or name.startswith("__MACOSX/") or name.endswith(".DS_Store"):
                continue
            if info.file_size > _LARGEST:
                raise BenchError(f"{path} is not a set of drawings: its member '{name}' has {info.file_size} bytes")
            if name in self._names:
                raise BenchError(f"{path} holds '{name}' twice; get it anew")
            self._names[name] = None

    def __getitem__(self, name: str) -> bytes:
        return self._archive.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@contextmanager
def opened(path: Path) -> Iterator[Members]:
    """The members of an archive.

    Raises:
        BenchError: truncated or otherwise damaged, here or while the members are read and decoded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield Members(archive, path)
    except _DAMAGE as error:
        raise BenchError(f"{path} is damaged ({error}); delete it and get it anew") from error


def ink(png: bytes, name: str) -> NDArray[np.bool_]:
    """Where a drawing has ink (black): [SIDE, SIDE].

    Raises:
        BenchError: an image of another size, or with grey in it.
        OSError, SyntaxError, ValueError, struct.error: not a whole PNG; `opened` turns them into a BenchError.
    """
    # The size is read before Pillow sees the file: a small file may declare an image that fills the memory.
    width, height = struct.unpack(">II", png[16:24])
    if (width, height) != (SIDE, SIDE):
        raise BenchError(f"'{name}' has {width} × {height} pixels instead of {SIDE} × {SIDE}; get its archive anew")
    image = Image.open(io.BytesIO(png), formats=["PNG"])
    if image.mode == "1":
        return ~np.asarray(image)
    grey = np.asarray(image.convert("L"))
    if not np.isin(grey, (0, 255)).all():
        raise BenchError(f"'{name}' has grey pixels, where Omniglot is black on white; get its archive anew")
    return grey == 0
