"""miniImageNet in any of the three forms in which people keep it, as one cached array of pixels.

The classes are those of Ravi and Larochelle 2017: 64 to train on, 16 to validate, 20 to test, 600 images each of
84 × 84. Copies differ in their pixels, since JPEGs were decoded and shrunk by one program or another; so the digest
that names the data in a cell's id is that of the lists of classes, and a record holds the digest of the copy's content
beside it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bench import files, storage
from bench.config import canonical
from bench.errors import BenchError, MissingData
from bench.photographs import CACHE, PARTS, Layout, Source, blocks, form, survey, unreadable
from bench.storage import Pixels

NAME = "miniimagenet"
LICENCE = "ImageNet's terms of access"
SOURCE = "https://www.image-net.org"
RECIPE = (
    "ImageNet's terms forbid to pass it on; put into {} what you have of it: "
    f"{', '.join(CACHE.format(p) for p in PARTS)}; or train.csv, val.csv and test.csv of Ravi and Larochelle and the "
    "images they list in images/; or the folders train/, val/ and test/ with a folder of images for each class"
)
RAVI = Layout(tuple((part, storage.split(NAME, part)) for part in PARTS))


@dataclass(frozen=True, eq=False)
class Photographs:
    """A copy, checked and in the cache. content: digest of classes and pixels, the same for all forms."""

    layout: Layout
    content: str

    def pixels(self, size: int) -> Pixels:
        """Images of all classes, a memory map: [classes, each, 3, size, size], red, green and blue.

        The classes are in the layout's order. Sizes below its side are the mean of the pixels beneath (BOX filter).
        """
        return _pixels(self, size, os.environ.get("BENCH_CACHE"))


def official() -> str:
    """The digest that names the data in the ids of cells."""
    return RAVI.digest


def locate() -> Path:
    """The folder that holds a copy, in whichever form.

    Raises:
        MissingData: there is none, or a file of its form is missing; the sentence says which, and what would do.
    """
    usual = storage.data_root() / NAME
    if form(usual):
        return usual
    if form(usual.parent) == "pickles":  # folders called train and the like may be of any data set
        return usual.parent
    raise MissingData(f"there is no {NAME} in {usual}; `bench data get {NAME}` says how to come by it")


def found() -> tuple[Path | None, str | None]:
    """Where a copy is, and the digest of its content, as far as they are known without reading it."""
    folder = None
    try:
        folder = locate()
        return folder, storage.known(_index(survey(folder, RAVI), RAVI))
    except MissingData:
        return None, None
    except BenchError:
        return folder, None


def load(folder: Path, layout: Layout = RAVI) -> Photographs:
    """The copy in a folder; from the cache where its files, by name, size and date, were read before.

    Raises:
        BenchError: damaged, or a class or an image is missing or not expected.
    """
    source = survey(folder, layout)
    content = storage.known(_index(source, layout))
    if content is None or storage.mapped(_whole(content), _shape(layout)) is None:
        content = _decode(source, layout)
    return Photographs(layout, content)


def check(folder: Path, layout: Layout = RAVI) -> str:
    """Read a copy anew, refresh its cache, and return the digest of its content.

    Raises:
        BenchError: damaged, or a class or an image is missing or not expected.
    """
    content = _decode(survey(folder, layout), layout)
    for shrunken in _whole(content).parent.glob("box*.npy"):
        shrunken.unlink(missing_ok=True)
    _pixels.cache_clear()
    return content


def _shape(layout: Layout, size: int = 0) -> tuple[int, ...]:
    return (len(layout.names), layout.each, 3, size or layout.side, size or layout.side)


def _whole(content: str) -> Path:
    return storage.cache_root() / NAME / content[:16] / "pixels.npy"


def _index(source: Source, layout: Layout) -> Path:
    """The file that remembers the content of a copy, by the names, sizes and dates of its files."""
    lists = source if isinstance(source, Mapping) else {path.name: [path] for path in source}
    try:
        stats = [(name, path.name, (s := path.stat()).st_size, s.st_mtime_ns) for name in lists for path in lists[name]]
    except OSError as error:
        raise unreadable(error) from error
    return storage.index(hashlib.sha256(canonical([layout.digest, stats]).encode()).hexdigest())


def _decode(source: Source, layout: Layout) -> str:
    """Read a copy class by class into the cache, and remember its content."""
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        _header(file, _shape(layout))
        for name, block in _shown(blocks(source, layout), len(layout.names)):
            content = block.tobytes()
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
            file.write(content)

    # Two machines or containers may share the cache, and both have a process of the same number.
    staged = storage.cache_root() / NAME / f".{uuid.uuid4().hex}.npy"
    files.replace(staged, write)
    try:
        content = digest.hexdigest()
        _whole(content).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staged, _whole(content))
    finally:
        staged.unlink(missing_ok=True)
    files.replace(_index(source, layout), canonical({"content": content}).encode())
    return content


def _shown(blocks: Iterator[tuple[str, Pixels]], count: int) -> Iterator[tuple[str, Pixels]]:
    """The same, with a progress bar where somebody looks on: thousands of photographs take minutes."""
    from rich.console import Console
    from rich.progress import track

    bar: dict[str, Any] = {"console": Console(stderr=True), "transient": True, "disable": not sys.stderr.isatty()}
    return iter(track(blocks, f"reading {NAME}", count, **bar))


@lru_cache
def _pixels(photographs: Photographs, size: int, cache: str | None) -> Pixels:
    whole, shape = _whole(photographs.content), _shape(photographs.layout)
    pixels = storage.mapped(whole, shape)
    if pixels is None:
        raise BenchError(f"the cache {whole} is gone or damaged; `bench data check {NAME}` makes it anew")
    if size == shape[-1]:
        return pixels
    path = whole.parent / f"box{size}.npy"
    if (small := storage.mapped(path, _shape(photographs.layout, size))) is not None:
        return small

    def write(file: BinaryIO) -> None:
        _header(file, _shape(photographs.layout, size))
        for block in pixels:
            file.write(storage.shrink(block, size).tobytes())

    files.replace(path, write)
    small = storage.mapped(path, _shape(photographs.layout, size))
    if small is None:
        raise BenchError(f"the cache {path} has just been removed; run the same command again")
    return small


def _header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """The start of a .npy file of bytes, which then follow."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
