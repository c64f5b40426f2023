"""miniImageNet from made-up copies: three forms, one content; what is refused; its task, its suite, its tables."""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import contract
import numpy as np
import pytest
import torch
from photos import FEW, FORMS, SMALL, as_folders, as_lists, as_pickles, photos
from PIL import Image

from bench import cli, data, grid, miniimagenet, photographs, published, records, registry
from bench.api import BenchError, MissingData, Task
from bench.config import override
from bench.seeding import generator
from bench.tasks.miniimagenet import MiniImageNet
from bench.training import Context, run_cell


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, decoding is an error."""
    monkeypatch.setattr(miniimagenet, "blocks", lambda *_: pytest.fail("decoded again"))


# What is read


@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_the_photographs(form: str, tmp_path: Path) -> None:
    made = photos()
    read = miniimagenet.load(FORMS[form](tmp_path / "copy", made), SMALL).pixels(10)
    assert read.shape == (6, 12, 3, 10, 10)
    for row, name in enumerate(SMALL.names):
        assert np.array_equal(read[row], made[name].transpose(0, 3, 1, 2)), "in order of class and number"
    assert not read.flags.writeable


@pytest.mark.parametrize("side", [10, 23])
def test_all_forms_have_the_same_content(side: int, tmp_path: Path) -> None:
    """Of the right size, and where they have to be shrunk."""
    copies = [miniimagenet.load(write(tmp_path / form, photos(side=side)), SMALL) for form, write in FORMS.items()]
    assert len({copy.content for copy in copies}) == 1
    assert len({copy.pixels(10).tobytes() for copy in copies}) == 1


def test_other_sizes_are_shrunk_by_lanczos(tmp_path: Path) -> None:
    made = photos(side=23)
    read = miniimagenet.load(as_folders(tmp_path / "copy", made), SMALL).pixels(10)
    for k, image in enumerate(made["n05"]):
        expected = Image.fromarray(image).resize((10, 10), Image.Resampling.LANCZOS)
        assert np.array_equal(read[2, k].transpose(1, 2, 0), np.asarray(expected))


def test_grey_and_transparent_images_become_colour(tmp_path: Path) -> None:
    folder = as_folders(tmp_path / "copy", photos())
    grey, clear = (Image.fromarray(photos()["n01"][k]).convert(mode) for k, mode in enumerate(("L", "RGBA")))
    grey.save(folder / "train/n01/n01_0.png")
    clear.save(folder / "train/n01/n01_1.png")
    read = miniimagenet.load(folder, SMALL).pixels(10)
    assert np.array_equal(read[0, 0], np.stack([np.asarray(grey)] * 3))
    assert np.array_equal(read[0, 1], photos()["n01"][1].transpose(2, 0, 1))


def test_jpegs_in_capitals(tmp_path: Path) -> None:
    folder = as_folders(tmp_path / "copy", photos())
    (folder / "val/n03/n03_0.png").unlink()
    Image.fromarray(photos()["n03"][0]).save(folder / "val/n03/n03_0.JPEG", quality=95)
    read = miniimagenet.load(folder, SMALL).pixels(10)
    decoded = np.asarray(Image.open(folder / "val/n03/n03_0.JPEG")).transpose(2, 0, 1)
    assert np.array_equal(read[3, 0], decoded)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = miniimagenet.load(as_lists(tmp_path / "lists", photos()), SMALL).content
    dump = functools.partial(pickle.dumps, protocol=protocol)
    assert miniimagenet.load(as_pickles(tmp_path / "copy", photos(), dump=dump), SMALL).content == content


def test_what_the_script_of_finn_leaves_behind(tmp_path: Path) -> None:
    """It moves images from `images` to a folder a class, and leaves the lists."""
    folder = as_folders(as_lists(tmp_path / "copy", photos()), photos())
    shutil.rmtree(folder / "images")
    miniimagenet.load(folder, SMALL)


def test_a_list_that_a_spreadsheet_saved(tmp_path: Path) -> None:
    """It puts a mark of the encoding before the first column."""
    folder = as_lists(tmp_path / "copy", photos())
    for path in folder.glob("*.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    miniimagenet.load(folder, SMALL)


def test_content_tells_a_pixel(tmp_path: Path) -> None:
    made = {name: images.copy() for name, images in photos().items()}
    made["n06"][7, 3, 3, 1] ^= 1
    one, other = (miniimagenet.load(as_pickles(tmp_path / str(k), m), SMALL) for k, m in enumerate((photos(), made)))
    assert one.content != other.content


def test_sizes_below_are_means(tmp_path: Path) -> None:
    read = miniimagenet.load(as_pickles(tmp_path / "copy", photos()), SMALL)
    means = read.pixels(10).reshape(6, 12, 3, 5, 2, 5, 2).mean((4, 6))
    assert np.abs(read.pixels(5) - means).max() <= 1, "Pillow rounds along each side"
    assert not read.pixels(5).flags.writeable


# The cache


@pytest.mark.parametrize("form", FORMS)
def test_second_time_comes_from_the_cache(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FORMS[form](tmp_path / "copy", photos())
    first = miniimagenet.load(folder, SMALL)
    assert miniimagenet.found() == (None, None), "it is not where it is looked for"
    forget(monkeypatch)
    folder.rename(tmp_path / "moved")
    again = miniimagenet.load(tmp_path / "moved", SMALL)
    assert again.content == first.content
    assert np.array_equal(again.pixels(10), first.pixels(10))


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    folder = as_folders(tmp_path / "copy", photos())
    before = miniimagenet.load(folder, SMALL).content
    Image.new("RGB", (10, 10)).save(folder / "test/n04/n04_3.png")
    after = miniimagenet.load(folder, SMALL)
    assert after.content != before
    assert not after.pixels(10)[4, 3].any()


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50], lambda b: b"", lambda b: b"no array"])
def test_damaged_cache_is_made_anew(tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = as_pickles(tmp_path / "copy", photos())
    first = miniimagenet.load(folder, SMALL)
    expected, small = first.pixels(10).copy(), first.pixels(5).copy()
    for file in cache.rglob("*.*"):
        content = damage(file.read_bytes())
        file.unlink()
        file.write_bytes(content)
    again = miniimagenet.load(folder, SMALL)
    assert np.array_equal(again.pixels(10), expected)
    assert np.array_equal(again.pixels(5), small)
    assert not [p for p in cache.rglob("*") if p.name.startswith(".")], "nothing is left half done"


def test_check_reads_anew_and_mends_the_cache(tmp_path: Path, cache: Path) -> None:
    folder = as_pickles(tmp_path / "copy", photos())
    read = miniimagenet.load(folder, SMALL)
    read.pixels(5)
    (whole,) = cache.rglob("pixels.npy")
    good = whole.read_bytes()
    whole.write_bytes(good[:-1] + bytes([good[-1] ^ 255]))
    assert miniimagenet.check(folder, SMALL) == read.content
    assert whole.read_bytes() == good
    assert not list(cache.rglob("box*.npy"))


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BenchError, match="cannot write"):
        miniimagenet.load(as_pickles(tmp_path / "copy", photos()), SMALL)


# What is refused


def without(path: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / path) if (folder / path).is_dir() else (folder / path).unlink()

    return change


def having(path: str, content: bytes | None = b"x") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / path).mkdir() if content is None else (folder / path).write_bytes(content)

    return change


def listing(part: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / f"{part}.csv").read_text()
        assert old in text
        (folder / f"{part}.csv").write_text(text.replace(old, new))

    return change


def deep_png() -> bytes:
    """A picture of 9 × 9 in red, green and blue of sixteen bits each, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = (b"\0" + bytes(9 * 6)) * 9
    parts = (b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def holding(part: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / f"mini-imagenet-cache-{part}.pkl"
        held = pickle.loads(path.read_bytes())
        path.write_bytes(pickle.dumps({k: v for k, v in (held | changes).items() if v is not None}))

    return change


def grouping(**changes: Any) -> Callable[[Path], None]:
    """The validation pickle with its classes' indices changed; it has n03 alone."""

    def change(folder: Path) -> None:
        path = folder / "mini-imagenet-cache-val.pkl"
        held = pickle.loads(path.read_bytes())
        groups = {k: v for k, v in (held["class_dict"] | changes).items() if v is not None}
        path.write_bytes(pickle.dumps(held | {"class_dict": groups}))

    return change


class Call:
    def __reduce__(self) -> Any:
        return shutil.rmtree, ("/nowhere at all",)


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\x86\xa0\0\1\x86\xa0\x08\2\0\0\0"
BAD: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "class folder": ("folders", without("train/n02"), r"copy lacks 1 of 6 classes \(train: n02\)"),
    "class folders": ("folders", lambda f: [without(n)(f) for n in ("train/n05", "train/n01", "test/n06")],
                      r"lacks 3 of 6 classes \(train: n01, n05; test: n06\); get them"),
    "class of two parts": ("folders", lambda f: (f / "train/n02").rename(f / "val/n02"),
                           r"lacks 1 of 6 classes \(train: n02\); n02 is in val: this is another split"),
    "link to nothing": ("folders", lambda f: [(f / "val/n03").rename(f / "gone"), (f / "val/n03").symlink_to("lost")],
                        r"lacks 1 of 6 classes \(val: n03\); get them"),
    "image that is a link to nothing": (
        "folders", lambda f: ((f / "val/n03/n03_2.png").unlink(), (f / "val/n03/n03_2.png").symlink_to("lost")),
        r"n03_2\.png(: No such file or directory| is no whole image \(it is no regular file\)); get it anew"),
    "part": ("folders", without("val"), r"no folder val in .*copy"),
    "image in a folder": ("folders", without("test/n06/n06_4.png"), "copy holds 11 images of class n06 instead of 12"),
    "images in folders": ("folders", lambda f: [without(f"{n}.png")(f) for n in ("train/n02/n02_3", "test/n06/n06_1")],
                          "copy holds 11 images of class n02, 11 images of class n06 instead of 12"),
    "one too many": ("folders", having("test/n06/n06_12.png"), "holds 13 images of class n06 instead of 12"),
    "another class": ("folders", having("test/n07", None), "has a class 'n07' in test, which is not in the split of"),
    "class of another part": ("folders", having("test/n01", None), "has a class 'n01' in test"),
    "no image": ("folders", having("test/n06/n06_4.png"), r"n06_4\.png is no whole image"),
    "cut image": ("folders", lambda f: cut(f / "val/n03/n03_2.png"), r"n03_2\.png is no whole image"),
    "empty image": ("folders", having("val/n03/n03_2.png", b""), r"n03_2\.png is no whole image"),
    "bomb": ("folders", having("val/n03/n03_2.png", BOMB), r"n03_2\.png is no whole image"),
    "other format": ("folders", lambda f: Image.new("RGB", (9, 9)).save(f / "val/n03/n03_2.png", "GIF"), "no whole"),
    "pipe": ("folders", lambda f: ((f / "val/n03/n03_2.png").unlink(), os.mkfifo(f / "val/n03/n03_2.png")),
             "no regular file"),
    "sixteen bits": ("folders", lambda f: Image.new("I;16", (9, 9)).save(f / "val/n03/n03_2.png"), "not of eight bits"),
    "sixteen bits of colour": ("folders", lambda f: (f / "val/n03/n03_2.png").write_bytes(deep_png()),
                               "not of eight bits"),
    "smaller": ("pickles", lambda f: as_pickles(f, photos(side=9)), "holds images of 9 × 9 pixels, smaller than 10"),
    "list": ("lists", without("val.csv"), r"no val\.csv in .*copy"),
    "images": ("lists", without("images"), "images lacks 36 of the images that train.csv lists"),
    "listed image": ("lists", without("images/n0300000004.png"), r"lacks 1 of .* val\.csv lists, such as 'n03"),
    "unlisted class": ("lists", listing("train", ",n05", ",n02"), r"lacks 1 of 6 classes \(train: n05\)"),
    "listed twice": ("lists", listing("val", "n0300000004", "n0300000005"), "holds 11 images of class n03"),
    "listed once more": ("lists", listing("val", "n0300000004.png,n03\n", "n0300000004.png,n03\n" * 2),
                         "names an image of class n03 twice; get it anew"),
    "listed too few": ("lists", listing("val", "n0300000004.png,n03\n", ""), "11 images of class n03 instead of 12"),
    "listed in two parts": ("lists", listing("val", "n0300000004", "n0100000004"), "in class n01 and in n03 too"),
    "listed in two classes": ("lists", listing("train", "n0100000004", "n0200000004"), "in class n01 and in n02 too"),
    "stray quote": ("lists", listing("val", "n0300000004", '"n0300000004'), r"val\.csv lists, such as .{1,40}; get"),
    "listed elsewhere": ("lists", listing("val", "n0300000004", "../images/n0300000004"), "lacks 1 of the images"),
    "listed absolutely": ("lists", listing("val", "n0300000004", "/images/n0300000004"), "lacks 1 of the images"),
    "other columns": ("lists", listing("val", "filename,label", "a,b"), "no list of images with the columns"),
    "no label": ("lists", listing("val", "n0300000004.png,n03", "n0300000004.png"), "has a class 'None' in val"),
    "binary list": ("lists", having("val.csv", b"\xff\xfe\0"), "no list of images"),
    "empty list": ("lists", having("val.csv", b""), r"lacks 1 of 6 classes \(val: n03\)"),
    "pickle": ("pickles", without("mini-imagenet-cache-val.pkl"), r"no mini-imagenet-cache-val\.pkl in .*copy"),
    "cut pickle": ("pickles", lambda f: cut(f / "mini-imagenet-cache-val.pkl"), r"cache-val\.pkl is (damaged|refused)"),
    "hostile pickle": ("pickles", having("mini-imagenet-cache-val.pkl", pickle.dumps({"image_data": Call()})),
                       r"cache-val\.pkl is refused, and nothing of it was run: it asks for 'shutil.rmtree'"),
    "zipped pickle": ("pickles", having("mini-imagenet-cache-val.pkl", b"\x1f\x8b\x08\0\0"), "compressed by gzip"),
    "page for a pickle": ("pickles", having("mini-imagenet-cache-val.pkl", b"<!DOCTYPE html>"), "a page of the web"),
    "pointer to a pickle": ("pickles", having("mini-imagenet-cache-val.pkl", b"version https://git-lfs\n"), "Git LFS"),
    "pickle of something else": ("pickles", having("mini-imagenet-cache-val.pkl", pickle.dumps([1])), "is no cache of"),
    "no pixels": ("pickles", holding("val", image_data=None), "lacks an array image_data"),
    "no classes": ("pickles", holding("val", class_dict=None), "lacks .* class_dict"),
    "floats": ("pickles", holding("val", image_data=np.zeros((12, 9, 9, 3))), "holds float64 images of 12 × 9 × 9 × 3"),
    "channels first": ("pickles", holding("val", image_data=np.zeros((12, 3, 9, 9), np.uint8)), "12 × 3 × 9 × 9"),
    "flat": ("pickles", holding("val", image_data=np.zeros((12, 300), np.uint8)), "uint8 images of 12 × 300 instead"),
    "objects": ("pickles", holding("val", image_data=np.array([{}], object)), "array of objects"),
    "class in a pickle": ("pickles", grouping(n03=None), r"copy lacks 1 of 6 classes \(val: n03\)"),
    "strange class": ("pickles", grouping(n09=[0]), "has a class 'n09' in val"),
    "too few": ("pickles", grouping(n03=list(range(11))), "holds 11 images of class n03 instead of 12"),
    "one twice": ("pickles", grouping(n03=[0, *range(11)]), "holds 11 images of class n03 instead of 12"),
    "one once more": ("pickles", grouping(n03=[0, *range(12)]), "names an image of class n03 twice"),
    "beyond the end": ("pickles", grouping(n03=list(range(1, 13))), "does not say which of its 12 images are of"),
    "before the start": ("pickles", grouping(n03=list(range(-1, 11))), "does not say which"),
    "fractions": ("pickles", grouping(n03=[float(k) for k in range(12)]), "does not say which"),
    "no list of rows": ("pickles", grouping(n03={"a": 1}), "does not say which"),
    "rows of rows": ("pickles", grouping(n03=[[1], [2]]), "does not say which"),
}  # fmt: skip


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


@pytest.mark.parametrize("name", BAD)
def test_bad_copy(name: str, tmp_path: Path, cache: Path) -> None:
    form, change, sentence = BAD[name]
    folder = FORMS[form](tmp_path / "copy", photos())
    change(folder)
    for ask in (miniimagenet.load, miniimagenet.check):
        with pytest.raises(BenchError, match=sentence) as caught:
            ask(folder, SMALL)
        assert "\n" not in str(caught.value)
    assert not [p for p in cache.rglob("*") if p.is_file()], "nothing is cached"


def test_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    folder = as_folders(tmp_path / "copy", photos())
    monkeypatch.setattr("bench.photographs.os.scandir", scan)
    with pytest.raises(BenchError, match=r"cannot read .*train: Permission denied; check"):
        miniimagenet.load(folder, SMALL)


def test_folder_that_nobody_may_look_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(Path, "exists", look)
    with pytest.raises(BenchError, match=r"cannot read .*: Permission denied; check its permissions"):
        miniimagenet.locate()
    assert miniimagenet.found() == (None, None), "other data sets are listed all the same"


def test_processes_of_one_number_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """As containers have them; here one has written its pixels when the other begins."""
    folder, others = as_folders(tmp_path / "copy", photos()), iter([lambda: miniimagenet.check(folder, SMALL)])
    real = miniimagenet.files.replace

    def and_another(path: Path, content: Any) -> None:
        real(path, content)
        next(others, lambda: "")()

    monkeypatch.setattr(miniimagenet.files, "replace", and_another)
    assert miniimagenet.check(folder, SMALL) == miniimagenet.load(folder, SMALL).content
    assert not list(cache.rglob(".*.npy*")), "nothing stays behind"


def test_a_palette_with_transparency_is_an_image(tmp_path: Path) -> None:
    found = {}
    for name, alpha in (("plain", {}), ("transparent", {"transparency": bytes(range(256))})):
        folder = as_folders(tmp_path / name, photos())
        with Image.open(folder / "val/n03/n03_2.png") as image:
            image.quantize(16).save(folder / "val/n03/n03_2.png", **alpha)
        found[name] = miniimagenet.check(folder, SMALL)
    assert found["plain"] == found["transparent"]


def test_one_image_in_two_classes(tmp_path: Path) -> None:
    folder = as_pickles(tmp_path / "copy", photos())
    path = folder / "mini-imagenet-cache-test.pkl"
    held = pickle.loads(path.read_bytes())
    held["class_dict"]["n06"] = held["class_dict"]["n04"][:1] + held["class_dict"]["n06"][1:]
    path.write_bytes(pickle.dumps(held))
    with pytest.raises(BenchError, match="has an image of class n06 in another class too"):
        miniimagenet.load(folder, SMALL)


# The real classes, from the command line


def said(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    code = cli.call(command)
    return code, *capsys.readouterr()


@pytest.fixture
def empty_classes(tmp_path: Path) -> Path:
    """Folders of all classes, with files of the right names and nothing in them."""
    for part, names in miniimagenet.RAVI.classes:
        for name in names:
            (tmp_path / "data" / "miniimagenet" / part / name).mkdir(parents=True)
    for name in ("n01532829", "n01558993"):
        for k in range(600):
            (tmp_path / "data" / "miniimagenet" / "train" / name / f"{name}_{k}.JPEG").touch()
    return tmp_path / "data" / "miniimagenet"


def test_check_names_missing_classes(empty_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train/n01532829", "train/n13133613", "val/n02981792"):
        shutil.rmtree(empty_classes / name)
    code, out, err = said(capsys, "data", "check", "miniimagenet")
    assert (code, out) == (2, "")
    assert "lacks 3 of 100 classes (train: n01532829, n13133613; val: n02981792); get them" in err
    assert "Traceback" not in err


def test_check_names_a_class_of_599(empty_classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_classes / "train" / "n01532829" / "n01532829_17.JPEG").unlink()
    code, out, err = said(capsys, "data", "check", "miniimagenet")
    assert (code, out) == (2, "")
    found = f"{empty_classes} holds 599 images of class n01532829, 0 images of class n01704323, "
    assert err.startswith(f"error: {found}")
    assert err.endswith("instead of 600; get it anew\n")
    assert err.count(" images of class ") == 99
    assert "n01558993" not in err


def test_commands_where_it_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, "data", "check", "miniimagenet")
    assert code == 2
    assert f"there is no miniimagenet in {tmp_path}/data/miniimagenet; `bench data get miniimagenet` says how" in err
    code, _, err = said(capsys, "data", "get", "miniimagenet")
    assert code == 2
    for words in ("cannot be downloaded", "mini-imagenet-cache-val.pkl", "train.csv", "a folder of images for each"):
        assert words in err
    code, out, _ = said(capsys, "data", "list")
    assert "says how to come by it" in " ".join(out.split())
    for ask in (data.locate, data.digest, data.check):
        with pytest.raises(MissingData):
            ask("miniimagenet")
    code, _, err = said(capsys, "run", "miniimagenet", "--results", str(tmp_path / "out"))
    assert code == 2
    assert "no miniimagenet in" in err


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all classes with few images, where the commands look for it."""
    for name in ("load", "check"):
        monkeypatch.setattr(miniimagenet, name, functools.partial(getattr(miniimagenet, name), layout=FEW))
    monkeypatch.setattr(MiniImageNet, "each", FEW.each)
    return as_pickles(tmp_path / "data" / "miniimagenet", photos(FEW), FEW)


@pytest.mark.parametrize("inside", [True, False])
def test_check_of_a_whole_copy(copy: Path, inside: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if not inside:
        for path in copy.iterdir():
            path.rename(copy.parent / path.name)
        copy.rmdir()
    code, out, _ = said(capsys, "data", "check", "miniimagenet")
    assert (code, out) == (0, f"miniimagenet is whole: sha256 {data.digest('miniimagenet')}\n")


def test_folders_of_another_data_set_are_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    with pytest.raises(MissingData, match="there is no miniimagenet in"):
        data.locate("miniimagenet")


# The task


def test_the_lists_are_64_16_and_20_classes() -> None:
    assert [len(classes) for _, classes in miniimagenet.RAVI.classes] == [64, 16, 20]
    assert len({*miniimagenet.RAVI.names}) == 100
    assert all(name[0] == "n" and name[1:].isdecimal() and len(name) == 9 for name in miniimagenet.RAVI.names)
    assert (miniimagenet.RAVI.each, miniimagenet.RAVI.side) == (600, 84)


def test_the_lists_are_those_of_ravi(omniglot_root: Path) -> None:
    folder = omniglot_root / "splits" / "miniimagenet_ravi"
    if not folder.is_dir():
        pytest.skip("the lists of Ravi and Larochelle are not here")
    for part, classes in miniimagenet.RAVI.classes:
        lines = (folder / f"{part}.csv").read_text().split()[1:]
        assert {line.split(",")[1] for line in lines} == {*classes}


@pytest.mark.usefixtures("copy")
def test_splits_share_no_class_and_no_image() -> None:
    task = MiniImageNet(way=16, shot=1, query=4, size=8)
    images: dict[bytes, set[str]] = {}
    for split in task.splits:
        rows = set()
        for draw in task.draw(split, 60, generator("rows", split)):
            rows |= {*np.unique(draw.row)}
        names = {miniimagenet.RAVI.names[row] for row in rows}
        assert names == {*dict(miniimagenet.RAVI.classes)[split]}, "all of its classes and no other"
        for part in task.sample(split, 20, generator("pictures", split)):
            for image in part.x.flatten(0, 1):
                images.setdefault(image.numpy().tobytes(), set()).add(split)
    assert max(map(len, images.values())) == 1


@pytest.mark.usefixtures("copy")
def test_episodes_show_photographs_of_their_classes() -> None:
    task = MiniImageNet(way=5, shot=2, query=3)
    made = photos(FEW)
    support, query = task.sample("val", 3, generator("episode"))
    assert support.x.shape == (3, 10, 3, 84, 84)
    assert query.x.shape == (3, 15, 3, 84, 84)
    assert support.x.dtype == torch.float32
    place = {image.tobytes(): (name, k) for name in dict(FEW.classes)["val"] for k, image in enumerate(made[name])}
    for b in range(3):
        seen: dict[int, set[str]] = {}
        shown = []
        for x, y in ((support.x[b], support.y[b]), (query.x[b], query.y[b])):
            pixels = (x * 255).round().byte().permute(0, 2, 3, 1).numpy()
            for image, label in zip(pixels, y.tolist(), strict=True):
                name, k = place[image.tobytes()]
                seen.setdefault(label, set()).add(name)
                shown.append((name, k))
        assert sorted(seen) == list(range(5))
        assert len({name for names in seen.values() for name in names}) == 5
        assert len({*shown}) == 25, "no image twice"


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("check", contract.TASK_CHECKS.values())
def test_contract(check: Any) -> None:
    check(MiniImageNet(way=3, shot=1, query=2, size=20))


@pytest.mark.usefixtures("copy")
def test_pixels_are_loaded_once_and_not_copied() -> None:
    task = MiniImageNet()
    pixels = {id(task.images(split).pixels) for split in task.splits}
    assert len(pixels) == 1
    array = task.images("train").pixels
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert isinstance(array, np.memmap)
    assert array.dtype == np.uint8


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("size=85", "size 85 is more than the 84 pixels"),
        ("way=17", "way 17 is more than the 16 classes of its val split"),
        ("train_way=65", "way 65 is more than the 64 classes of its train split"),
        ("query=600", r"shot 1 \+ query 600 is 601, but a class has 600 images"),
    ],
)
def test_refused(change: str, sentence: str) -> None:
    MiniImageNet().check()
    with pytest.raises(BenchError, match=sentence):
        override(MiniImageNet(), change).check()


# Methods


METHODS = {
    "protonet": {},
    "maml": {"batch": 1, "inner_lr": 0.01, "train_steps": 2, "eval_steps": 2, "batch_norm": "transductive"},
    "maml, pooled": {"batch": 1, "backbone": "conv4-32", "inner_lr": 0.01, "train_steps": 2, "eval_steps": 2},
    "pixel-knn": {"polarity": "ink"},
    "chance": {},
}


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize("name", METHODS)
def test_methods_take_a_step_on_84_by_84(name: str, tmp_path: Path) -> None:
    method = registry.get(registry.METHODS, name.partition(",")[0])(**METHODS[name])
    task: Task = MiniImageNet(query=2)
    trains = name.startswith(("protonet", "maml"))
    budget = grid.Budget(steps=1, validations=1, val_episodes=2, test_episodes=4) if trains else (
        grid.Budget(steps=0, validations=0, val_episodes=0, test_episodes=4, select="last"))  # fmt: skip
    cell = grid.Cell(method, task, 0, budget)
    record = run_cell(cell, Context(tmp_path / "out"))
    assert record.outcome == "ok"
    assert np.isfinite(record.result["evaluations"][""]["mean"])
    if trains:
        assert np.isfinite(record.result["curve"][0]["loss"])
    assert record.spec["task"]["data"] == miniimagenet.official()
    assert record.data == {"name": "miniimagenet", "sha256": data.digest("miniimagenet")}
    assert records.read(records.path_of(tmp_path / "out", cell.spec)).data == record.data


# The suite


def test_suite_is_planned_where_the_data_are_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = said(capsys, "run", "miniimagenet", "--dry-run", "--results", str(tmp_path / "out"))
    assert code == 0
    assert "0 recorded" in out
    assert "there is no miniimagenet in" in err
    cells = grid.plan("miniimagenet", offline=True).cells
    known = {
        "protonet",
        "maml",
        "cavia",
        "reptile",
        "r2d2",
        "relation",
        "matching",
        "finetune",
        "simpleshot",
        "deep-knn",
    }
    assert {cell.method.name for cell in cells} == known | {"pixel-knn", "chance"}
    assert {cell.task.shot for cell in cells if cell.method.name == "maml"} == {1, 5}


@pytest.mark.usefixtures("copy")
def test_suite_runs_where_the_data_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert said(capsys, "run", "miniimagenet", "--dry-run", "--results", out)[2] == ""
    command = ("run", "miniimagenet", "-m", "chance", "--seeds", "0-1", "--set", "budget.test_episodes=5")
    assert said(capsys, *command, "--results", out, "--no-picture")[0] == 0


def test_tables_say_that_nobody_has_run_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert said(capsys, "tables", "miniimagenet", "--results", str(tmp_path / "out"))[0] == 0
    text = (tmp_path / "out" / "tables" / "miniimagenet.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| 5-way")]
    assert rows
    assert all("not run here" in row for row in rows)
    snell = next(row for row in rows if "protonet" in row and "1-shot" in row)
    assert "49.42 ± 0.78" in snell
    assert "Nothing is recorded yet." in text
    assert said(capsys, "tables", "miniimagenet", "--results", str(tmp_path / "out"), "--check")[0] == 0


def test_only_the_committed_tables_say_so_unasked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder in ("results", "committed"):
        committed = folder == "committed"
        (tmp_path / folder).mkdir()
        if committed:
            (tmp_path / folder / published.FILE).touch()
        assert said(capsys, "tables", "--results", str(tmp_path / folder))[0] == (0 if committed else 2)
        assert (tmp_path / folder / "tables" / "miniimagenet.md").exists() == committed


def test_layout_is_part_of_what_is_remembered(tmp_path: Path) -> None:
    """A copy that was read as one layout is not taken for another without looking."""
    folder = as_folders(tmp_path / "copy", photos())
    miniimagenet.load(folder, SMALL)
    with pytest.raises(BenchError, match="instead of 11"):
        miniimagenet.load(folder, replace(SMALL, each=11))
    assert miniimagenet.load(folder, replace(SMALL, side=6)).pixels(6).shape == (6, 12, 3, 6, 6)
    assert photographs.form(folder) == "folders"
