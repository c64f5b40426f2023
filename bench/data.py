"""Data sets: where they lie, that they are the official ones, and their pixels from a cache.

Zips are looked for in `$BENCH_DATA` (or in its folder `omniglot`), else in the per-user cache folder, which
`$BENCH_CACHE` moves; what may not be passed on has a module of its own (`BY_HAND`). Caches are keyed by the digest of
the content: sha256 over sorted paths and decoded pixels, since archives made anew differ in every byte. They hold plain
arrays, opened as memory maps that all processes share.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from bench import files, miniimagenet, storage
from bench.archives import DRAWINGS, SIDE, LakeRuns, Layout, Pixels, content_digest, read, read_runs, unpacked
from bench.config import canonical
from bench.downloads import ARCHIVES, HOME, download
from bench.errors import BenchError, MissingData
from bench.registry import unknown
from bench.storage import cache_root, data_root, shrink, split

OMNIGLOT = Layout(
    (("images_background", split("lake", "background")), ("images_evaluation", split("lake", "evaluation"))),
    digest="cb55aaf43e7652158a0d348ae33cec7c899c9568f227abdcfd4ff6be928801ed",
)
RUNS_DIGEST = "63417b94ab0a6045b6c27f561ed92c06fc84c3aa2fdbf73067ef4f22c30ead79"
BY_HAND = {miniimagenet.NAME: miniimagenet}
"""Data sets that may not be passed on, so that `get` can only say how to come by them, and their modules."""


class Listing(NamedTuple):
    """A data set as `bench data list` shows it."""

    name: str
    found: Path | None
    """The folder of its files; None where they are missing."""
    digest: str | None
    """None where it is missing, damaged, or was never read."""
    licence: str
    source: str

    @property
    def remedy(self) -> str:
        """What to do where it is missing."""
        return f"`bench data get {self.name}` {'says how to come by it' if self.name in BY_HAND else 'gets it'}"


@dataclass(frozen=True, eq=False)
class Omniglot:
    """Verified drawings in a cache folder.

    characters: "Alphabet/character01" …, background then evaluation, each sorted.
    """

    characters: tuple[str, ...]
    folder: Path

    def pixels(self, size: int, turned: bool = False) -> Pixels:
        """Drawings shrunk to size × size, a memory map: [characters, DRAWINGS, size, size].

        turned: all characters turned by 0, then all by 90, 180 and 270 degrees anticlockwise: four times the rows.
        """
        return _pixels(self, size, turned)


def locate(name: str) -> Path:
    """The folder that holds a data set's files.

    Raises:
        MissingData: it is not there; the sentence names the path and the command that gets it.
    """
    if name in BY_HAND:
        return BY_HAND[name].locate()
    wanted = [PurePosixPath(path).name for path in _archives(name)]
    usual = data_root() / "omniglot"
    for folder in (usual, data_root()):
        if all((folder / file).is_file() for file in wanted):
            return folder
    missing = next(file for file in wanted if not (usual / file).is_file())
    raise MissingData(
        f"there is no {missing} in {usual}; `bench data get {name}` downloads it, "
        "or set $BENCH_DATA to a folder that has omniglot/ in it"
    )


def digest(name: str) -> str:
    """sha256 of a data set's content, 64 hex digits; pixels are decoded only the first time.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    folder = locate(name)
    if name in BY_HAND:
        return BY_HAND[name].load(folder).content
    return _with_runs(name, folder, _verified(folder, OMNIGLOT))


def official(name: str) -> str:
    """The digest that names a data set in the ids of cells. Reads nothing.

    It is what `digest` must find; of one that people keep in copies of their own, it is that of the lists of classes.

    Raises:
        BenchError: no such data set.
    """
    if name in BY_HAND:
        return BY_HAND[name].official()
    _archives(name)
    if name == "omniglot":
        return OMNIGLOT.digest
    return content_digest({"omniglot": OMNIGLOT.digest.encode(), "runs": RUNS_DIGEST.encode()})


def check(name: str) -> str:
    """Decode a data set anew from its archives, refresh its cache, and return its digest.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    folder = locate(name)
    if name in BY_HAND:
        return BY_HAND[name].check(folder)
    content = _decode(folder, OMNIGLOT)
    _refuse_other(folder, content, OMNIGLOT.digest)
    for shrunken in _cache(content).glob("box*.npy"):
        shrunken.unlink(missing_ok=True)
    return _with_runs(name, folder, content)


def get(name: str, root: Path | None = None) -> Path:
    """Download the archives of a data set that are not there yet, with a progress bar; returns their folder.

    Raises:
        BenchError: no such set, no connection, a folder that cannot be written, or a file that is not the official one;
            or one that has to be got by hand.
    """
    if name in BY_HAND:
        raise BenchError(f"{name} cannot be downloaded: {BY_HAND[name].RECIPE.format((root or data_root()) / name)}")
    folder = (root or data_root()) / "omniglot"
    for path, checksum in _archives(name).items():
        if not (folder / PurePosixPath(path).name).is_file():
            download(path, checksum, folder)
    return folder


def listing() -> list[Listing]:
    """All data sets; quick, so what was never read has no digest yet."""
    made = [Listing(name, *_found(name), "MIT, Brenden Lake", HOME) for name in ARCHIVES]
    return made + [Listing(name, *_found(name), each.LICENCE, each.SOURCE) for name, each in BY_HAND.items()]


def omniglot() -> Omniglot:
    """All of Omniglot; cheap after the first call.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    return _omniglot(os.environ.get("BENCH_DATA"), os.environ.get("BENCH_CACHE"))


def mini_imagenet() -> miniimagenet.Photographs:
    """All of miniImageNet; cheap after the first call.

    Raises:
        BenchError: missing, damaged, or incomplete.
    """
    return _mini_imagenet(os.environ.get("BENCH_DATA"), os.environ.get("BENCH_CACHE"))


def lake_runs() -> LakeRuns:
    """Lake's 20 within-alphabet 20-way one-shot runs.

    Raises:
        BenchError: missing, damaged, incomplete, or not the official content.
    """
    path = locate("lake") / "all_runs.zip"
    content, runs = _runs(path, *_stat(path))
    _refuse_other(path, content, RUNS_DIGEST)
    return runs


def load(folder: Path, layout: Layout) -> Omniglot:
    """Drawings of a layout from the archives in a folder; from the cache where they were read before.

    Raises:
        BenchError: damaged, incomplete, or not of the layout's digest.
    """
    cache = _cache(_verified(folder, layout))
    names = tuple(name for _, characters in layout.characters for name in characters)
    if storage.mapped(cache / "packed.npy", (len(names), DRAWINGS, -(-SIDE * SIDE // 8))) is None:
        _refuse_other(folder, _decode(folder, layout), layout.digest)
    return Omniglot(names, cache)


def _archives(name: str) -> dict[str, str]:
    if name not in ARCHIVES:
        raise BenchError(unknown("data set", name, [*ARCHIVES, *BY_HAND], "bench data list"))
    return ARCHIVES[name]


def _found(name: str) -> tuple[Path | None, str | None]:
    if name in BY_HAND:
        return BY_HAND[name].found()
    try:
        folder = locate(name)
    except MissingData:
        return None, None
    try:
        known = storage.known(_index(folder, OMNIGLOT))
        return folder, known and _with_runs(name, folder, known)
    except BenchError:
        return folder, None


@lru_cache
def _omniglot(data: str | None, cache: str | None) -> Omniglot:
    return load(locate("omniglot"), OMNIGLOT)


@lru_cache
def _mini_imagenet(data: str | None, cache: str | None) -> miniimagenet.Photographs:
    return miniimagenet.load(miniimagenet.locate())


def _verified(folder: Path, layout: Layout) -> str:
    """The content digest of the archives in a folder, which is the layout's."""
    content = storage.known(_index(folder, layout)) or _decode(folder, layout)
    _refuse_other(folder, content, layout.digest)
    return content


def _decode(folder: Path, layout: Layout) -> str:
    """Read the archives, remember their content digest, and cache the drawings if they are the layout's."""
    content, packed = read(folder, layout)
    if content == layout.digest:
        _store(_cache(content) / "packed.npy", packed)
    files.replace(_index(folder, layout), canonical({"content": content}).encode())
    return content


def _refuse_other(where: Path, content: str, official: str) -> None:
    if content != official:
        raise BenchError(
            f"the drawings in {where} are not the official ones: their digest is {content[:12]}…, "
            f"not {official[:12]}…; delete the zips and get them anew"
        )


def _with_runs(name: str, folder: Path, content: str) -> str:
    if name != "lake":
        return content
    path = folder / "all_runs.zip"
    runs, _ = _runs(path, *_stat(path))
    _refuse_other(path, runs, RUNS_DIGEST)
    return content_digest({"omniglot": content.encode(), "runs": runs.encode()})


def _cache(content: str) -> Path:
    return cache_root() / "omniglot" / content[:16]


def _index(folder: Path, layout: Layout) -> Path:
    """The file that remembers the content digest of archives, by the bytes of these archives."""
    paths = [folder / f"{stem}.zip" for stem, _ in layout.characters]
    try:
        key = canonical([_sha256(path, *_stat(path)) for path in paths])
    except OSError as error:
        raise BenchError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from error
    return storage.index(hashlib.sha256(key.encode()).hexdigest())


def _stat(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


@lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _runs(path: Path, size: int, mtime_ns: int) -> tuple[str, LakeRuns]:
    return read_runs(path)


@lru_cache
def _pixels(omniglot: Omniglot, size: int, turned: bool) -> Pixels:
    path = omniglot.folder / f"box{size}{'-turned' if turned else ''}.npy"
    shape = ((4 if turned else 1) * len(omniglot.characters), DRAWINGS, size, size)
    mapped = storage.mapped(path, shape)
    if mapped is not None:
        return mapped
    packed = np.load(omniglot.folder / "packed.npy", mmap_mode="r", allow_pickle=False)
    pixels = np.stack([shrink(unpacked(character), size) for character in packed])
    if turned:
        pixels = np.concatenate([np.rot90(pixels, k, (2, 3)) for k in range(4)])
    _store(path, pixels)
    mapped = storage.mapped(path, shape)
    return pixels if mapped is None else mapped  # None: `check` in another process has just removed it


def _store(path: Path, array: Pixels) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    files.replace(path, buffer.getvalue())
