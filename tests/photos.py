"""Made-up copies of miniImageNet in each of its forms, much smaller."""

from __future__ import annotations

import csv
import functools
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from bench.miniimagenet import RAVI
from bench.photographs import Layout
from bench.seeding import generator

SMALL = Layout((("train", ("n01", "n02", "n05")), ("val", ("n03",)), ("test", ("n04", "n06"))), each=12, side=10)
"""As RAVI, with six classes of twelve images; more than ten, since people number them with and without zeros."""
FEW = replace(RAVI, each=21)
"""All classes, but few images of each."""
Photos = Mapping[str, np.ndarray]


@functools.cache
def photos(layout: Layout = SMALL, side: int = 0) -> Photos:
    """Different images of each class: [each, side, side, 3]."""
    rng = generator("photos", layout.digest, side)
    shape = (layout.each, side or layout.side, side or layout.side, 3)
    return {name: rng.integers(256, size=shape, dtype=np.uint8) for name in layout.names}


def as_pickles(folder: Path, made: Photos, layout: Layout = SMALL, dump: Callable[..., bytes] = pickle.dumps) -> Path:
    """Caches of pixels, classes mixed as a shuffled list leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, classes in layout.classes:
        order = generator("mixed", part).permutation(len(classes) * layout.each)
        images = np.empty((len(order), *made[classes[0]].shape[1:]), np.uint8)
        images[order] = np.concatenate([made[name] for name in classes])
        members = {name: order[k * layout.each : (k + 1) * layout.each].tolist() for k, name in enumerate(classes)}
        content = dump({"image_data": images, "class_dict": members})
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(content)
    return folder


def as_lists(folder: Path, made: Photos, layout: Layout = SMALL) -> Path:
    """Lists beside one folder of images, numbered with zeros."""
    (folder / "images").mkdir(parents=True)
    for part, classes in layout.classes:
        with (folder / f"{part}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["filename", "label"])
            for name in reversed(classes):
                for k, image in enumerate(made[name]):
                    writer.writerow([f"{name}{k:08d}.png", name])
                    Image.fromarray(image).save(folder / "images" / f"{name}{k:08d}.png")
    return folder


def as_folders(folder: Path, made: Photos, layout: Layout = SMALL) -> Path:
    """A folder for each class, images numbered without zeros, with the litter that file managers leave."""
    for part, classes in layout.classes:
        for name in classes:
            (folder / part / name).mkdir(parents=True)
            (folder / part / name / "Thumbs.db").write_bytes(b"litter")
            (folder / part / name / "._1.png").write_bytes(b"litter")
            for k, image in enumerate(made[name]):
                Image.fromarray(image).save(folder / part / name / f"{name}_{k}.png")
        (folder / part / ".DS_Store").write_bytes(b"litter")
    return folder


FORMS: dict[str, Callable[..., Path]] = {"pickles": as_pickles, "lists": as_lists, "folders": as_folders}
