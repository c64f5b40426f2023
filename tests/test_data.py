"""Reading archives, refusing bad ones, caching; most of it on a small Omniglot made here."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import multiprocessing
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import archives, data, downloads
from bench.archives import DRAWINGS, SIDE, Layout
from bench.errors import BenchError, MissingData
from bench.seeding import generator

CHARACTERS = (
    ("images_background", ("Aaa/character01", "Aaa/character02", "Bbb/character01")),
    ("images_evaluation", ("Ccc/character01", "Ccc/character02")),
)
Contents = dict[str, bytes]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@functools.cache
def drawings() -> np.ndarray:
    """[5, DRAWINGS, SIDE, SIDE] bool, true where there is ink."""
    blocks = generator("fake omniglot").random((5, DRAWINGS, SIDE // 7, SIDE // 7)) < 0.2
    return blocks.repeat(7, 2).repeat(7, 3)


@functools.cache
def contents() -> dict[str, Contents]:
    """The members of both archives of the small Omniglot."""
    made: dict[str, Contents] = {}
    images = iter(drawings())
    for stem, characters in CHARACTERS:
        made[stem] = {
            f"{stem}/{character}/{place:04d}_{drawer:02d}.png": png(Image.fromarray(~drawn))
            for place, character in enumerate(characters)
            for drawer, drawn in enumerate(next(images), 1)
        }
    return made


def write(folder: Path, changed: dict[str, Contents] | None = None, method: int = zipfile.ZIP_STORED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, members in (contents() | (changed or {})).items():
        with zipfile.ZipFile(folder / f"{stem}.zip", "w", method) as archive:
            for name, content in members.items():
                # Without the clock: two zips of the same members are the same bytes.
                archive.writestr(zipfile.ZipInfo(name), content, method)
    return folder


@functools.cache
def digest() -> str:
    return archives.content_digest(
        {
            name: np.packbits(drawn).tobytes()
            for members, images in zip(contents().values(), (drawings()[:3], drawings()[3:]), strict=True)
            for name, drawn in zip(members, images.reshape(-1, SIDE, SIDE), strict=True)
        }
    )


def layout() -> Layout:
    return Layout(CHARACTERS, digest())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, decoding is an error."""
    monkeypatch.setattr(data, "read", lambda *_: pytest.fail("decoded again"))


# What is read


def test_pixels_are_the_drawings(tmp_path: Path) -> None:
    loaded = data.load(write(tmp_path / "zips"), layout())
    assert loaded.characters == tuple(name for _, names in CHARACTERS for name in names)
    assert np.array_equal(loaded.pixels(SIDE), drawings() * 255)
    small = drawings().reshape(5, DRAWINGS, 35, 3, 35, 3).mean((3, 5)) * 255
    assert np.abs(loaded.pixels(35) - small).max() <= 0.5


def test_turned_rows_are_turned(tmp_path: Path) -> None:
    loaded = data.load(write(tmp_path / "zips"), layout())
    upright, turned = loaded.pixels(28), loaded.pixels(28, turned=True)
    for k in range(4):
        assert np.array_equal(turned[5 * k : 5 * k + 5], np.rot90(upright, k, (2, 3)))


def test_digest_is_of_content_not_of_bytes(tmp_path: Path) -> None:
    grey = {
        name: png(Image.open(io.BytesIO(old)).convert("L")) for name, old in contents()["images_background"].items()
    }
    back_to_front = dict(reversed(grey.items()))
    litter = {"__MACOSX/x.png": b"", "images_background/": b"", "images_background/.DS_Store": b""}
    changed = {"images_background": litter | back_to_front}
    content, packed = archives.read(write(tmp_path, changed, zipfile.ZIP_DEFLATED), layout())
    assert content == digest()
    assert np.array_equal(archives.unpacked(packed), drawings() * 255)


def test_digest_tells_a_pixel_and_a_path(tmp_path: Path) -> None:
    members = contents()["images_background"]
    first = next(iter(members))
    image = Image.open(io.BytesIO(members[first]))
    image.putpixel((50, 50), 255 - image.getpixel((50, 50)))
    pixel = members | {first: png(image)}
    path = {name.replace("0000_01", "0009_01"): content for name, content in members.items()}
    for number, changed in enumerate((pixel, path)):
        content, _ = archives.read(write(tmp_path / str(number), {"images_background": changed}), layout())
        assert content != digest()


# The cache


def test_second_time_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "zips")
    first = data.load(folder, layout()).pixels(28)
    forget(monkeypatch)
    elsewhere = write(tmp_path / "copy")
    assert np.array_equal(data.load(elsewhere, layout()).pixels(28), first)
    assert not first.flags.writeable


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:50], lambda b: b"", lambda b: b"no array"])
def test_damaged_cache_is_made_anew(tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = write(tmp_path / "zips")
    data.load(folder, layout()).pixels(28)
    for file in cache.rglob("*.*"):
        file.write_bytes(damage(file.read_bytes()))
    again = data.load(folder, layout())
    assert np.array_equal(again.pixels(SIDE), drawings() * 255)
    assert np.array_equal(again.pixels(28), data.shrink((drawings() * 255).astype(np.uint8), 28))


def test_index_that_lies_is_found_out(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "zips")
    with pytest.raises(BenchError, match="not the official"):
        data.load(folder, replace(layout(), digest="0" * 64))
    (index,) = cache.rglob("*.json")
    index.write_text('{"content": "' + "0" * 64 + '"}')
    with pytest.raises(BenchError, match="not the official"):
        data.load(folder, replace(layout(), digest="0" * 64))


def test_pickle_in_the_cache_is_refused(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "zips")
    data.load(folder, layout())
    (packed,) = cache.rglob("packed.npy")
    np.save(packed, np.array([{"a": 1}], object), allow_pickle=True)
    assert np.array_equal(data.load(folder, layout()).pixels(SIDE), drawings() * 255)


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BenchError, match="cannot write"):
        data.load(write(tmp_path / "zips"), layout())


def fingerprint(folder: Path) -> str:
    return hashlib.sha256(data.load(folder, layout()).pixels(28, turned=True).tobytes()).hexdigest()


def test_racing_processes_agree(tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "zips")
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        seen = set(pool.map(fingerprint, [folder] * 8))
    expected = data.shrink((drawings() * 255).astype(np.uint8), 28)
    turned = np.concatenate([np.rot90(expected, k, (2, 3)) for k in range(4)])
    assert seen == {hashlib.sha256(turned.tobytes()).hexdigest()}
    assert {file.name for file in cache.rglob("*.npy")} == {"packed.npy", "box28-turned.npy"}
    assert not list(cache.rglob("*.tmp"))


# What is refused


def header(width: int, height: int) -> bytes:
    """A small PNG that says it is large."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


A = "images_background/Aaa/character01/0000_01.png"
WHITE = Image.new("1", (SIDE, SIDE), 1)


def without(prefix: str) -> Callable[[Contents], Contents]:
    return lambda members: {name: content for name, content in members.items() if not name.startswith(prefix)}


def having(name: str, content: bytes = b"x") -> Callable[[Contents], Contents]:
    return lambda members: members | {name: content}


BAD: dict[str, tuple[Callable[[Contents], Contents], str]] = {
    "climbing": (having("../evil.png"), "not safe.*evil"),
    "climbing inside": (having("images_background/../../evil.png"), "not safe"),
    "absolute": (having("/tmp/evil.png"), "not safe"),
    "backslash": (having("..\\evil.png"), "not safe"),
    "drive": (having("C:\\evil.png"), "not safe"),
    "small": (having(A, png(WHITE.resize((28, 28)))), "28 × 28 pixels instead of 105 × 105"),
    "bomb": (having(A, header(100_000, 100_000)), "100000 × 100000 pixels"),
    "grey": (having(A, png(Image.new("L", (SIDE, SIDE), 9))), "grey"),
    "not an image": (having(A, b"no image at all, but long enough"), "pixels instead|damaged"),
    "short": (having(A, b"GIF"), "damaged"),
    "cut image": (having(A, png(Image.fromarray(drawings()[0, 0]))[:60]), "damaged"),
    "broken image": (having(A, header(SIDE, SIDE) + b"\0" * 40), "damaged"),
    "large member": (having(A, bytes(2 << 20)), "2097152 bytes"),
    "alphabet": (without("images_background/Bbb/"), "lacks the alphabet 'Bbb'"),
    "character": (without("images_background/Aaa/character02/"), "0 drawings of 'images_background/Aaa/character02'"),
    "missing drawing": (without(A), "19 drawings of 'images_background/Aaa/character01' instead of 20"),
    "extra drawing": (having(A.replace("_01.png", "_21.png")), "21 drawings"),
    "extra character": (having("images_background/Ddd/character01/0001_01.png"), "no drawing of Omniglot"),
    "extra file": (having("images_background/readme.txt"), "no drawing of Omniglot"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_archive(change: Callable[[Contents], Contents], sentence: str, tmp_path: Path, cache: Path) -> None:
    folder = write(tmp_path / "in" / "zips", {"images_background": change(contents()["images_background"])})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BenchError, match=sentence) as caught:
        data.load(folder, layout())
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is extracted, nothing cached"


def test_member_twice(tmp_path: Path) -> None:
    folder = write(tmp_path)
    with (
        zipfile.ZipFile(folder / "images_background.zip", "a") as archive,
        pytest.warns(UserWarning, match="Duplicate"),
    ):
        archive.writestr(A, b"x")
    with pytest.raises(BenchError, match="twice"):
        data.load(folder, layout())


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_truncated_archive(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path) / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BenchError, match=r"images_evaluation\.zip is damaged"):
        data.load(tmp_path, layout())


def test_flipped_bytes_are_never_taken_for_data(tmp_path: Path) -> None:
    path = write(tmp_path) / "images_background.zip"
    whole = path.read_bytes()
    rng = generator("flips")
    for _ in range(40):
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        try:
            content, _ = archives.read(tmp_path, layout())
        except BenchError:
            continue
        assert content == digest(), "a flip that is not noticed must be outside all content, as in a time stamp"


def test_wrong_digest_is_refused_each_time(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "zips")
    other = replace(layout(), digest="0" * 64)
    for _ in range(2):
        with pytest.raises(BenchError, match=f"not the official ones: their digest is {digest()[:12]}"):
            data.load(folder, other)
        forget(monkeypatch)
    assert not list(cache.rglob("*.npy"))


@pytest.mark.parametrize("name", ["omniglot", "lake"])
def test_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "nowhere"))
    for ask in (data.locate, data.digest, data.check):
        with pytest.raises(MissingData, match=f"nowhere/omniglot.*bench data get {name}"):
            ask(name)
    assert all(each.found is None and each.digest is None for each in data.listing())


def test_unknown_data_set() -> None:
    with pytest.raises(BenchError, match="did you mean omniglot"):
        data.locate("omniglott")


# The small Omniglot in place of the official one


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(data, "OMNIGLOT", layout())
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("inside", ["omniglot", "."])
def test_found_in_both_places(official: Path, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(official / inside)
    assert data.locate("omniglot") == folder
    assert data.listing()[0].digest is None
    assert data.digest("omniglot") == digest()
    forget(monkeypatch)
    assert data.listing()[0].digest == data.digest("omniglot") == digest()


def test_check_reads_anew_and_mends_the_cache(official: Path, cache: Path) -> None:
    write(official / "omniglot")
    data.omniglot().pixels(28)
    (packed,) = cache.rglob("packed.npy")
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-1] + bytes([whole[-1] ^ 255]))
    assert data.check("omniglot") == digest()
    assert packed.read_bytes() == whole
    assert not list(cache.rglob("box*.npy"))


def test_check_of_other_content(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(official / "omniglot")
    monkeypatch.setattr(data, "OMNIGLOT", replace(layout(), digest="1" * 64))
    with pytest.raises(BenchError, match="not the official ones"):
        data.check("omniglot")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served in place of the official repository."""
    folder = write(tmp_path / "served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        monkeypatch.setattr(downloads, "RAW", f"http://127.0.0.1:{web.server_port}")
        sums = {
            path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(folder.iterdir())
        }
        monkeypatch.setitem(downloads.ARCHIVES, "omniglot", sums)
        yield folder
        web.shutdown()
        thread.join()


def test_get(official: Path, server: Path) -> None:
    assert data.get("omniglot") == official / "omniglot"
    assert data.digest("omniglot") == digest()
    assert data.get("omniglot", official / "other") == official / "other" / "omniglot"


def test_get_leaves_what_is_there(official: Path, server: Path) -> None:
    write(official / "omniglot")
    for file in server.iterdir():
        file.unlink()
    data.get("omniglot")


def test_get_refuses_another_file(official: Path, server: Path) -> None:
    (server / "images_background.zip").write_bytes(b"other")
    with pytest.raises(BenchError, match=r"cannot get .*images_background.zip"):
        data.get("omniglot")
    assert not (official / "omniglot" / "images_background.zip").exists()


def test_get_what_is_not_served(official: Path, server: Path) -> None:
    (server / "images_background.zip").unlink()
    with pytest.raises(BenchError, match="404"):
        data.get("omniglot")


def test_get_when_nobody_answers(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "RAW", "http://127.0.0.1:9")
    with pytest.raises(BenchError, match="no connection; put the file into"):
        data.get("omniglot")


# The shipped lists


@pytest.mark.parametrize(("name", "sizes"), [("omniglot-vinyals", (1028, 172)), ("omniglot-random1200", (1080, 120))])
def test_split_lists_share_the_characters_out(name: str, sizes: tuple[int, int]) -> None:
    parts = [data.split(name, part) for part in ("train", "val", "test")]
    assert tuple(map(len, parts)) == (*sizes, 423)
    together = [character for part in parts for character in part]
    assert sorted(together) == sorted(character for _, names in data.OMNIGLOT.characters for character in names)


def test_random_list_is_made_from_its_seed() -> None:
    names = sorted(character for _, characters in data.OMNIGLOT.characters for character in characters)
    order = generator("splits", "omniglot-random1200").permutation(len(names))
    for part, chosen in zip(("train", "val", "test"), np.split(order, (1080, 1200)), strict=True):
        assert data.split("omniglot-random1200", part) == tuple(sorted(names[i] for i in chosen))


def test_test_characters_of_vinyals_are_in_the_evaluation_set() -> None:
    assert {*data.split("omniglot-vinyals", "test")} < {*data.split("lake", "evaluation")}


# Real Omniglot


def test_real_data(omniglot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(omniglot_root))
    assert data.digest("omniglot") == data.OMNIGLOT.digest
    assert data.digest("lake") not in {data.OMNIGLOT.digest, data.RUNS_DIGEST}
    digests = {each.name: each.digest for each in data.listing()}
    assert {name: digests[name] for name in ("omniglot", "lake")} == {n: data.digest(n) for n in ("omniglot", "lake")}
    forget(monkeypatch)
    full = data.omniglot()
    assert full.pixels(20).shape == (1623, DRAWINGS, 20, 20)
    runs = data.lake_runs()
    packed = np.load(full.folder / "packed.npy")
    of = {image.tobytes(): row for row, character in enumerate(packed) for image in character}
    for support, query, labels in zip(*runs, strict=True):
        rows = [of[np.packbits(image > 0).tobytes()] for image in support]
        assert [of[np.packbits(image > 0).tobytes()] for image in query] == [rows[i] for i in labels]
        assert len({full.characters[row].split("/")[0] for row in rows}) == 1, "within an alphabet"
        assert min(rows) >= 964, "from the evaluation set"


def test_runs_with_a_file_missing(omniglot_root: Path, tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(omniglot_root / "omniglot" / "all_runs.zip") as whole,
        zipfile.ZipFile(tmp_path / "all_runs.zip", "w") as part,
    ):
        for name in whole.namelist():
            if name != "run07/test/item03.png":
                part.writestr(name, whole.read(name))
    with pytest.raises(BenchError, match=r"lacks .run07/test/item03\.png."):
        archives.read_runs(tmp_path / "all_runs.zip")


def test_permission(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / "images_background.zip").chmod(0)
    if os.access(folder / "images_background.zip", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(BenchError, match="cannot read"):
        data.load(folder, layout())
