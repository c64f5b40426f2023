"""Data sets: where they lie, what they must hold, and their pixels, read from the official zips and then cached.

Zips are looked for in `$BENCH_DATA` (or in its folder `omniglot`), else in the per-user cache folder, which
`$BENCH_CACHE` moves. Caches are keyed by the digest of the content: sha256 over sorted paths and decoded pixels, since
archives made anew differ in every byte. They hold plain arrays, opened as memory maps that all processes share.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import files
from bench.archives import SIDE, ink, opened
from bench.config import canonical
from bench.errors import BenchError, MissingData
from bench.registry import unknown

DRAWINGS = 20
"""Every character was drawn by as many people."""
RUNS = 20
"""Lake's one-shot runs, each of as many characters."""
HOME = "https://github.com/brendenlake/omniglot"
RAW = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"

Pixels = NDArray[np.uint8]
"""Grey images, ink 255 on paper 0."""


def split(name: str, part: str) -> tuple[str, ...]:
    """Characters ("Alphabet/character01") of a part of a shipped split, e.g. ("omniglot-vinyals", "train"), sorted."""
    return tuple((resources.files("bench") / "splits" / name / f"{part}.txt").read_text("utf-8").split())


@dataclass(frozen=True)
class Layout:
    """What a set of drawings must hold: the characters in the archive of each stem, and the digest of it all."""

    characters: tuple[tuple[str, tuple[str, ...]], ...]
    digest: str


OMNIGLOT = Layout(
    (("images_background", split("lake", "background")), ("images_evaluation", split("lake", "evaluation"))),
    digest="",
)
RUNS_DIGEST = ""
_BACKGROUND = ("images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718")
_EVALUATION = ("images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811")
_RUNS = (
    "one-shot-classification/all_runs.zip",
    "sha256:437c1eeab0af8484112e1b4cc0f3d541ec727f7c47b9b202da738af9dfd6c325",
)
ARCHIVES = {"omniglot": (_BACKGROUND, _EVALUATION), "lake": (_BACKGROUND, _EVALUATION, _RUNS)}
"""Data sets, and the official archives of each: path below `RAW`, and checksum."""


class Listing(NamedTuple):
    """A data set as `bench data list` shows it."""

    name: str
    found: Path | None
    """The folder of its archives; None where they are missing."""
    digest: str | None
    """None where it is missing, damaged, or was not read yet."""
    licence: str
    source: str


class LakeRuns(NamedTuple):
    """Lake's one-shot runs, [run, item, SIDE, SIDE] each; labels: [run, item] int64, the query's place in support."""

    support: Pixels
    query: Pixels
    labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Omniglot:
    """Verified drawings in a cache folder.

    characters: "Alphabet/character01" …, background then evaluation, each sorted.
    """

    characters: tuple[str, ...]
    folder: Path

    def pixels(self, size: int, turned: bool = False) -> Pixels:
        """Drawings shrunk to size × size, a shared memory map: [characters, DRAWINGS, size, size].

        turned: all characters turned by 0, then by 90, 180 and 270 degrees anticlockwise, hence four times the rows.
        """
        return _pixels(self, size, turned)


def cache_root() -> Path:
    """The per-user folder for caches and downloads: `$BENCH_CACHE`, or the system's usual place."""
    import pooch

    return Path(os.environ.get("BENCH_CACHE") or pooch.os_cache("mannbench"))


def data_root() -> Path:
    """Where data sets are looked for and downloaded to: `$BENCH_DATA`, or a folder of the cache."""
    return Path(os.environ.get("BENCH_DATA") or cache_root() / "data")


def locate(name: str) -> Path:
    """The folder that holds a data set's archives.

    Raises:
        MissingData: it is not there; the sentence names the path and the command that gets it.
    """
    wanted = [_file(path) for path, _ in _archives(name)]
    usual = data_root() / "omniglot"
    for folder in (usual, data_root()):
        if all((folder / file).is_file() for file in wanted):
            return folder
    missing = next((file for file in wanted if not (usual / file).is_file()))
    raise MissingData(f"there is no {missing} in {usual}; `bench data get {name}` downloads it, or set $BENCH_DATA")


def digest(name: str) -> str:
    """sha256 of a data set's content, 64 hex digits; pixels are decoded only the first time.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    folder = locate(name)
    content = _official(folder, _content(folder, OMNIGLOT), OMNIGLOT.digest)
    return _with_runs(folder, content) if name == "lake" else content


def check(name: str) -> str:
    """Decode a data set anew from its archives, refresh its cache, and return its digest.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    folder = locate(name)
    content, packed = read(folder, OMNIGLOT)
    _official(folder, content, OMNIGLOT.digest)
    for old in _cache(content).glob("*.npy"):
        old.unlink(missing_ok=True)
    _store(_cache(content) / "packed.npy", packed)
    return _with_runs(folder, content) if name == "lake" else content


def get(name: str, root: Path | None = None) -> Path:
    """Download the archives of a data set that are not there yet, with a progress bar; returns their folder.

    Raises:
        BenchError: no such set, no connection, a folder that cannot be written, or a file that is not the official one.
    """
    import pooch
    import requests

    folder = (root or data_root()) / "omniglot"
    for path, checksum in _archives(name):
        if (folder / _file(path)).is_file():
            continue
        downloader = pooch.HTTPDownloader(progressbar=_Bar(_file(path)))
        try:
            pooch.retrieve(f"{RAW}/{path}", checksum, _file(path), folder, downloader=downloader)
        except (requests.RequestException, ValueError, OSError) as error:
            raise BenchError(f"cannot get {RAW}/{path} into {folder}: {error}") from error
    return folder


def listing() -> list[Listing]:
    """All data sets; quick, so what was never read has no digest yet."""
    return [Listing(name, *_found(name), "MIT, Brenden Lake", HOME) for name in ARCHIVES]


def omniglot() -> Omniglot:
    """All of Omniglot; cheap after the first call.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    return _omniglot(os.environ.get("BENCH_DATA"), os.environ.get("BENCH_CACHE"))


def lake_runs() -> LakeRuns:
    """Lake's 20 within-alphabet 20-way one-shot runs.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    folder = locate("lake")
    content, runs = _read_runs(*_seen(folder / "all_runs.zip"))
    _official(folder / "all_runs.zip", content, RUNS_DIGEST)
    return runs


def shrink(pixels: Pixels, size: int) -> Pixels:
    """Images [..., side, side] as [..., size, size], by Pillow's BOX filter: each pixel the mean of those it covers."""
    if pixels.shape[-1] == size:
        return pixels
    images = pixels.reshape(-1, *pixels.shape[-2:])
    small = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(*pixels.shape[:-2], size, size)


def load(folder: Path, layout: Layout) -> Omniglot:
    """Drawings from the archives in a folder, or from the cache.

    Raises:
        BenchError: damaged, incomplete, or not of the layout's digest.
    """
    content = _official(folder, _content(folder, layout), layout.digest)
    names = tuple(name for _, characters in layout.characters for name in characters)
    packed = _cache(content) / "packed.npy"
    if _mapped(packed, (len(names), DRAWINGS)) is None:
        _store(packed, read(folder, layout)[1])
    return Omniglot(names, packed.parent)


def read(folder: Path, layout: Layout) -> tuple[str, Pixels]:
    """Decode all drawings from the archives in a folder.

    Returns their digest, and their ink as bits, row after row: [characters, DRAWINGS, bytes] uint8.

    Raises:
        BenchError: damaged, or a character or drawing is missing or too many.
    """
    bits: dict[str, bytes] = {}
    packed = []
    for stem, characters in layout.characters:
        with opened(folder / f"{stem}.zip") as members:
            grouped = _grouped(members, stem, characters)
            for paths in grouped:
                bits |= {path: np.packbits(ink(members[path], path)).tobytes() for path in paths}
            packed += grouped
    content = _digest({path: bits[path] for path in bits})
    flat = b"".join(bits[path] for paths in packed for path in paths)
    return content, np.frombuffer(flat, np.uint8).reshape(len(packed), DRAWINGS, -1)
