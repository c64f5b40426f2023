"""The forms in which people keep a set of photographs by class, and reading them with everything checked.

Pickles as of Ren et al. 2018, lists of images as of Ravi and Larochelle 2017, or folders of images; all give the same
pixels in the same order. An image of another size is brought to the right one by Pillow's LANCZOS filter, as the script
of Finn et al. 2017 does. Photographs of ImageNet may be smaller than that; in a pickle no image is.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import reprlib
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import pickles
from bench.config import canonical
from bench.errors import BenchError, MissingData
from bench.storage import Pixels

PARTS = ("train", "val", "test")
CACHE = "mini-imagenet-cache-{}.pkl"
SUFFIXES = {".jpg", ".jpeg", ".png"}
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError,
           Image.DecompressionBombWarning)  # fmt: skip
"""What Pillow raises on a damaged image, or one that would fill the memory."""


@dataclass(frozen=True)
class Layout:
    """What a copy must hold: the classes of each part, so many images of each; and how large these are to be."""

    classes: tuple[tuple[str, tuple[str, ...]], ...]
    each: int = 600
    side: int = 84

    @property
    def names(self) -> list[str]:
        """All classes, part after part."""
        return [name for _, classes in self.classes for name in classes]

    @property
    def digest(self) -> str:
        """sha256 of all this, hex."""
        return hashlib.sha256(canonical([self.classes, self.each, self.side]).encode()).hexdigest()


Lists = Mapping[str, Sequence[Path]]
"""The image files of each class."""
Source = Lists | Sequence[Path]
"""Those, or the pickles, part after part."""


def form(folder: Path) -> str:
    """Which of the forms a folder holds, by what is there of it; empty for none.

    The first of several counts: the script of Finn et al. 2017 leaves the lists behind, and their images in folders.

    Raises:
        BenchError: nobody may look into the folder.
    """
    marks = {"pickles": [CACHE.format(p) for p in PARTS], "folders": PARTS, "lists": [f"{p}.csv" for p in PARTS]}
    try:
        return next((kind for kind, names in marks.items() if any((folder / name).exists() for name in names)), "")
    except OSError as error:
        raise unreadable(error) from error


def unreadable(error: OSError) -> BenchError:
    """What to say of a file or a folder that cannot be read."""
    remedy = "check its permissions" if isinstance(error, PermissionError) else "get it anew"
    return BenchError(f"cannot read {error.filename}: {error.strerror}; {remedy}")


def survey(folder: Path, layout: Layout) -> Source:
    """The images of each class, or the paths of the pickles, part after part.

    Raises:
        BenchError: a file, a class or an image is missing, or not expected.
    """
    kind = form(folder)
    if kind == "pickles":
        return [_there(folder / CACHE.format(part)) for part, _ in layout.classes]
    try:
        parts = [(_listed if kind == "lists" else _in_folders)(folder, part) for part, _ in layout.classes]
    except OSError as error:
        raise unreadable(error) from error
    _right_classes(folder, parts, layout)
    lists = {name: sorted(images, key=_natural) for part in parts for name, images in part.items()}
    _right_counts(folder, {name: lists[name] for name in layout.names}, layout.each)
    owners: dict[Path, str] = {}
    for name in layout.names:
        for image in lists[name]:
            if owners.setdefault(image, name) != name:
                raise BenchError(f"{folder} has {image.name} in class {owners[image]} and in {name} too; get it anew")
    return lists


def _there(path: Path) -> Path:
    if not path.is_file():
        raise MissingData(f"there is no {path.name} in {path.parent}, where others of miniImageNet's files are; get it")
    return path


def _listed(folder: Path, part: str) -> Lists:
    """A part by its list of Ravi and Larochelle, `filename,label`."""
    path, lists = _there(folder / f"{part}.csv"), dict[str, list[Path]]()
    present = {entry.name for entry in os.scandir(folder / "images")} if (folder / "images").is_dir() else set()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(str(row["label"]), str(row["filename"])) for row in csv.DictReader(file)]
    except (ValueError, KeyError, csv.Error) as error:
        raise BenchError(f"{path} is no list of images with the columns filename and label; get it anew") from error
    lost = [name for _, name in rows if name not in present]
    if lost:
        raise BenchError(f"{folder / 'images'} lacks {len(lost)} of the images that {path.name} lists, such as "
                         f"{reprlib.repr(min(lost))}; get them")  # fmt: skip
    for label, name in rows:
        lists.setdefault(label, []).append(folder / "images" / name)
    return lists


def _in_folders(folder: Path, part: str) -> Lists:
    """A part by its folder, which has a folder of images for each class."""
    if not (folder / part).is_dir():
        raise MissingData(f"there is no folder {part} in {folder}, where others of miniImageNet's are; get it")
    classes = [Path(entry.path) for entry in os.scandir(folder / part) if entry.is_dir() and entry.name[0] != "."]
    return {
        where.name: [where / e.name for e in os.scandir(where) if e.name[0] != "." and _suffix(e.name) in SUFFIXES]
        for where in classes
    }


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Names in order of the numbers in them, so that copies which pad them with zeros agree with others."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name)
    return [(int(text), "") if text.isdecimal() else (-1, text) for text in parts], path.name


def _right_classes(where: Path, parts: Sequence[Iterable[str]], layout: Layout) -> None:
    """Refuse missing classes, naming all, and such as are of another split."""
    found = [(part, {*classes}, {*names}) for (part, classes), names in zip(layout.classes, parts, strict=True)]
    missing = {part: sorted(classes - names) for part, classes, names in found if classes - names}
    if missing:
        named = "; ".join(f"{part}: {', '.join(names)}" for part, names in missing.items())
        count = sum(map(len, missing.values()))
        elsewhere = sorted({f"{name} is in {other}" for names in missing.values() for name in names
                            for other, _, theirs in found if name in theirs})  # fmt: skip
        remedy = f"{', '.join(elsewhere)}: this is another split" if elsewhere else "get them"
        raise BenchError(f"{where} lacks {count} of {len(layout.names)} classes ({named}); {remedy}")
    for part, classes, names in found:
        if names - classes:
            named = reprlib.repr(min(names - classes))
            raise BenchError(
                f"{where} has a class {named} in {part}, which is not in the split of Ravi and "
                "Larochelle; figures of another split cannot be compared with those published"
            )


def blocks(source: Source, layout: Layout) -> Iterator[tuple[str, Pixels]]:
    """Classes in the layout's order, and their images: [each, 3, side, side]."""
    if isinstance(source, Mapping):
        for name in layout.names:
            yield name, np.stack([_image(path, layout.side) for path in source[name]])
        return
    parts = [_unpacked(path, layout.side) for path in source]
    _right_classes(source[0].parent, [members for _, members in parts], layout)
    for path, (images, members), (_, classes) in zip(source, parts, layout.classes, strict=True):
        indices = {name: _indices(path, name, members[name], len(images)) for name in classes}
        _right_counts(path, indices, layout.each)
        taken = np.zeros(len(images), bool)
        for name, rows in indices.items():
            if taken[rows].any():
                raise BenchError(f"{path} has an image of class {name} in another class too; get it anew")
            taken[rows] = True
            block = images[rows]
            if block.shape[1:3] != (layout.side, layout.side):
                yield name, np.stack([_fitted(Image.fromarray(image), layout.side) for image in block])
            else:
                yield name, block.transpose(0, 3, 1, 2)


def _unpacked(path: Path, side: int) -> tuple[Pixels, dict[str, Any]]:
    """The images and the classes of a pickle, as the caches of Ren et al. 2018 have them."""
    held = pickles.load(path)
    images, members = map(held.get, ("image_data", "class_dict")) if isinstance(held, dict) else (None, None)
    if not isinstance(images, np.ndarray) or not isinstance(members, dict):
        raise BenchError(f"{path} is no cache of miniImageNet: it lacks an array image_data or a dict class_dict")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        shape = " × ".join(map(str, images.shape))
        raise BenchError(f"{path} holds {images.dtype} images of {shape} instead of bytes, [images, height, width, 3]")
    if min(images.shape[1:3]) < side:
        small = " × ".join(map(str, images.shape[1:3]))
        raise BenchError(f"{path} holds images of {small} pixels, smaller than {side} × {side}; get it anew")
    return images, members


def _indices(path: Path, name: str, rows: Any, count: int) -> list[int]:
    """Which of the images are of a class, as a pickle says."""
    rows = rows.tolist() if isinstance(rows, np.ndarray) else rows
    if not isinstance(rows, (list, tuple)) or not all(type(row) is int and 0 <= row < count for row in rows):
        raise BenchError(f"{path} does not say which of its {count} images are of class {name}; get it anew")
    return list(rows)


def _right_counts(where: Path, classes: Mapping[str, Sequence[Any]], each: int) -> None:
    """Refuse classes that have not so many images, each once; naming all."""
    once = {name: len({*images}) for name, images in classes.items()}
    wrong = [f"{n} images of class {name}" for name, n in once.items() if n != each]
    twice = [name for name, n in once.items() if n == each and len(classes[name]) > each]
    if wrong:
        raise BenchError(f"{where} holds {', '.join(wrong)} instead of {each}; get it anew")
    if twice:
        raise BenchError(f"{where} names an image of class {', '.join(twice)} twice; get it anew")


def _image(path: Path, side: int) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if not path.is_file():  # to open a pipe is to wait for ever
                raise ValueError("it is no regular file")
            with Image.open(path, formats=["JPEG", "PNG"]) as image:
                if image.format == "PNG" and _png_bits(path) > 8:
                    raise ValueError("its pixels are not of eight bits a channel, and Pillow would cut them off")
                return _fitted(image, side)
    except _DAMAGE as error:
        raise BenchError(f"{path} is no whole image ({error}); get it anew") from error


def _png_bits(path: Path) -> int:
    """Of a sample, as the header of a PNG says, whatever Pillow makes of it."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _fitted(image: Image.Image, side: int) -> Pixels:
    """An image of any size and kind, of eight bits a channel, as [3, side, side]."""
    if image.mode == "P":
        image = image.convert("RGBA")  # of a palette with transparency Pillow warns
    image = image.convert("RGB")
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image).transpose(2, 0, 1)
