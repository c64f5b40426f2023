"""Drawings straight from zip archives that came from anywhere: nothing is extracted, everything is checked."""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import zips
from bench.errors import BenchError
from bench.storage import Pixels

SIDE = 105
"""Side in pixels of an Omniglot drawing."""
DRAWINGS = 20
"""Every character was drawn by as many people."""
RUNS = 20
"""Lake's one-shot runs, each of as many characters."""

_LIMITS = zips.Limits("a set of drawings", members=100_000, largest=1 << 20, total=1 << 30)
_DAMAGE = (*zips.DAMAGE, SyntaxError)
"""What zipfile and Pillow raise on damaged input."""


@dataclass(frozen=True)
class Layout:
    """What a set of drawings must hold: the characters in the archive of each stem, and the digest of it all."""

    characters: tuple[tuple[str, tuple[str, ...]], ...]
    digest: str


class LakeRuns(NamedTuple):
    """Lake's one-shot runs.

    support, query: [RUNS, 20, SIDE, SIDE]. labels: [RUNS, 20] int64, the place in the support of each query's
    character.
    """

    support: Pixels
    query: Pixels
    labels: NDArray[np.int64]


@contextmanager
def opened(path: Path) -> Iterator[zips.Members]:
    """The members of an archive.

    Raises:
        BenchError: truncated or otherwise damaged, here or while the members are read and decoded.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            yield zips.Members(archive, path, _LIMITS)
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


def read(folder: Path, layout: Layout) -> tuple[str, Pixels]:
    """Decode all drawings from the archives in a folder.

    Returns the digest of their content, and their ink as bits, row after row, in the order of the layout's
    characters and of the drawings' names: [characters, DRAWINGS, bytes] uint8.

    Raises:
        BenchError: damaged, or a character or a drawing is missing or not expected.
    """
    bits: dict[str, bytes] = {}
    for stem, characters in layout.characters:
        path = folder / f"{stem}.zip"
        with opened(path) as members:
            for name in _ordered(members, stem, characters, path):
                bits[name] = np.packbits(ink(members[name], name)).tobytes()
    count = sum(len(characters) for _, characters in layout.characters)
    return content_digest(bits), np.frombuffer(b"".join(bits.values()), np.uint8).reshape(count, DRAWINGS, -1)


def unpacked(packed: Pixels) -> Pixels:
    """Bits of drawings, [..., bytes], as images, [..., SIDE, SIDE]."""
    pixels = np.unpackbits(packed, axis=-1, count=SIDE * SIDE)
    return (pixels * np.uint8(255)).reshape(*packed.shape[:-1], SIDE, SIDE)


def _ordered(members: zips.Members, stem: str, characters: tuple[str, ...], path: Path) -> list[str]:
    """The drawings' names, by character and drawer; refuses what is missing or too many."""
    found: dict[str, list[str]] = {f"{stem}/{character}": [] for character in characters}
    for name in members:
        folder = name.rpartition("/")[0]
        if folder not in found or not name.endswith(".png"):
            raise BenchError(f"{path} holds '{name}', which is no drawing of Omniglot; get it anew")
        found[folder].append(name)
    missing = [folder for folder, names in found.items() if not names]
    for alphabet in dict.fromkeys(folder.rpartition("/")[0] for folder in missing):
        if not any(names for folder, names in found.items() if folder.startswith(f"{alphabet}/")):
            raise BenchError(f"{path} lacks the alphabet '{alphabet.rpartition('/')[2]}'; get it anew")
    for folder, names in found.items():
        if len(names) != DRAWINGS:
            raise BenchError(f"{path} holds {len(names)} drawings of '{folder}' instead of {DRAWINGS}; get it anew")
    return [name for names in found.values() for name in sorted(names)]


def read_runs(path: Path) -> tuple[str, LakeRuns]:
    """Decode Lake's runs from their archive; returns the digest of their content, and the runs.

    Raises:
        BenchError: damaged, or a file is missing.
    """
    content: dict[str, bytes] = {}
    items: dict[str, NDArray[np.bool_]] = {}
    labels = []
    with opened(path) as members:
        for run in (f"run{i:02d}" for i in range(1, RUNS + 1)):
            names = [f"{run}/training/class{i:02d}.png" for i in range(1, 21)]
            names += [f"{run}/test/item{i:02d}.png" for i in range(1, 21)]
            if missing := {*names, f"{run}/class_labels.txt"} - {*members}:
                raise BenchError(f"{path} lacks '{min(missing)}'; get it anew")
            items |= {name: ink(members[name], name) for name in names}
            content[f"{run}/class_labels.txt"] = members[f"{run}/class_labels.txt"]
            truth = dict(line.split() for line in content[f"{run}/class_labels.txt"].decode().splitlines())
            labels.append([names.index(truth.get(name, "")) for name in names[20:]])
    content |= {name: np.packbits(image).tobytes() for name, image in items.items()}
    images = np.stack([*items.values()]).reshape(RUNS, 2, 20, SIDE, SIDE).astype(np.uint8) * np.uint8(255)
    return content_digest(content), LakeRuns(images[:, 0], images[:, 1], np.array(labels))


def content_digest(content: Mapping[str, bytes]) -> str:
    """sha256 over names, sorted, and contents; hex."""
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(f"{name}\0{len(content[name])}\0".encode() + content[name])
    return digest.hexdigest()
