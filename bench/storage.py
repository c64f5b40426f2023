"""Where data lie: shipped lists of classes, folders of this user, and pixels in caches, which all processes share."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def split(name: str, part: str) -> tuple[str, ...]:
    """Classes of a part of a shipped split, e.g. ("omniglot-vinyals", "train"): "Alphabet/character01" …, sorted."""
    return tuple((resources.files("bench") / "splits" / name / f"{part}.txt").read_text("utf-8").split())


def cache_root() -> Path:
    """The per-user folder for caches and downloads: `$BENCH_CACHE`, or the system's usual place."""
    import pooch

    return Path(os.environ.get("BENCH_CACHE") or pooch.os_cache("mannbench"))


def data_root() -> Path:
    """Where data sets are looked for and downloaded to: `$BENCH_DATA`, or a folder of the cache."""
    return Path(os.environ.get("BENCH_DATA") or cache_root() / "data")


def index(key: str) -> Path:
    """The file that remembers the digest of content, by a digest of where it came from."""
    return cache_root() / "digests" / f"{key[:32]}.json"


def known(index: Path) -> str | None:
    """The digest that such a file remembers; None where it is missing or damaged."""
    try:
        content = json.loads(index.read_bytes())["content"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if isinstance(content, str) else None


def mapped(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    """A cached array as a read-only memory map; None where it is missing, cut short or another."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return np.asarray(array) if array.dtype == np.uint8 and array.shape == shape else None


def shrink(pixels: Pixels, size: int) -> Pixels:
    """Images [..., side, side] as [..., size, size], by Pillow's BOX filter: the mean of the pixels beneath."""
    if pixels.shape[-1] == size:
        return pixels
    images = pixels.reshape(-1, *pixels.shape[-2:])
    small = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BOX)) for image in images]
    return np.stack(small).reshape(*pixels.shape[:-2], size, size)
