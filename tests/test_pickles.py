"""Reading pickles without unpickling: what numpy writes comes back, and nothing else is done or made."""

from __future__ import annotations

import collections
import datetime
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import pickles
from bench.errors import BenchError

PROTOCOLS = range(6)
KINDS = [order + code for code in ("i2", "i8", "u4", "f4", "f8") for order in "<>"] + ["b1", "i1", "u1", "f2"]


def same(a: Any, b: Any) -> bool:
    """Equal in value and in type, arrays to the bit, whatever their byte order, which numpy does not always keep."""
    if isinstance(a, np.ndarray):
        natives = [x.astype(x.dtype.newbyteorder("=")) for x in (a, b)]
        return (
            a.shape == b.shape and natives[0].dtype == natives[1].dtype and natives[0].tobytes() == natives[1].tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def numpy_1(content: bytes) -> bytes:
    """A pickle as numpy 1 would write it: its modules had other names."""
    for name in (b"numpy._core.multiarray", b"numpy._core.numeric"):
        old = name.replace(b"._core", b".core")
        content = content.replace(b"\x8c" + bytes([len(name)]) + name, b"\x8c" + bytes([len(old)]) + old)
        content = content.replace(b"c" + name + b"\n", b"c" + old + b"\n")
    assert b"._core" not in content
    return content


def python_2(array: np.ndarray, rows: list[int], protocol: int) -> bytes:
    """What Python 2 wrote of {"image_data": array, "class_dict": {"n01": rows}}: text and numbers alike as `str`."""

    def text(content: bytes) -> bytes:
        if protocol == 0:
            return b"S" + repr(content)[1:].encode() + b"\np9\n"
        return b"U" + bytes([len(content)]) + content if len(content) < 256 else (
            b"T" + struct.pack("<i", len(content)) + content)  # fmt: skip

    def number(n: int) -> bytes:
        return b"I%d\n" % n if protocol == 0 else b"M" + struct.pack("<H", n)

    def pair(*parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"

    false = b"I00\n" if protocol < 2 else b"\x89"
    minus = b"I-1\n" if protocol == 0 else b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n" + pair(text(b"u1"), number(0), number(1)) + b"R"
    dtype += pair(number(3), text(b"|"), b"NNN", minus, minus, number(0)) + b"b"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n" + pair(b"cnumpy\nndarray\n", pair(number(0)), text(b"b")) + b"R"
    shape = pair(*map(number, array.shape))
    made = blank + b"p1\n" + pair(number(1), shape, dtype, false, text(array.tobytes())) + b"b"
    members = b"(d" + text(b"n01") + b"(l" + b"".join(number(r) + b"a" for r in rows) + b"s"
    start = b"\x80\x02" if protocol == 2 else b""
    return start + b"(d" + text(b"image_data") + made + b"s" + text(b"class_dict") + members + b"s."


# What is read


@st.composite
def arrays(draw: Any) -> np.ndarray:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    count = int(np.prod(shape, dtype=int))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    flat = np.frombuffer(raw, np.uint8) % 2 if dtype.kind == "b" else np.frombuffer(raw, np.uint8)
    made = flat.astype(np.uint8).view(dtype).reshape(shape) if count else np.zeros(shape, dtype)
    form = draw(st.sampled_from(["C", "F", "every second", "turned"]))
    if form == "turned":
        return made.transpose(draw(st.permutations(range(len(shape)))))
    return np.asfortranarray(made) if form == "F" else made[::2] if form == "every second" and shape else made


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), arrays(),
    st.integers(-5, 5).map(np.int64), st.floats(allow_nan=False).map(np.float64),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=4),
    ),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    """Numbers of numpy's come back as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
def test_what_python_3_writes_comes_back(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert same(plain(pickle.loads(content)), pickles.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", ["C", "F", "sliced", "turned"])
def test_numpy_1_and_2(protocol: int, form: str, tmp_path: Path) -> None:
    array = np.arange(96, dtype=np.uint8).reshape(8, 4, 3)
    array = {"C": array, "F": np.asfortranarray(array), "sliced": array[::2], "turned": array.transpose(0, 2, 1)}[form]
    value = {"image_data": array, "class_dict": {"n01": [0, 1], "n02": list(np.arange(2, 4))}}
    for content in (pickle.dumps(value, protocol), numpy_1(pickle.dumps(value, protocol))):
        (tmp_path / "a.pkl").write_bytes(content)
        read = pickles.load(tmp_path / "a.pkl")
        assert same(read, {"image_data": array, "class_dict": {"n01": [0, 1], "n02": [2, 3]}})
        assert not read["image_data"].flags.writeable


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_python_2(protocol: int) -> None:
    array = np.arange(300, dtype=np.uint8).reshape(4, 5, 5, 3)
    content = python_2(array, [3, 1], protocol)
    value = {"image_data": array, "class_dict": {"n01": [3, 1]}}
    assert same(pickles.loads(content), value)
    as_bytes = pickle.loads(content, encoding="bytes")
    assert np.array_equal(as_bytes[b"image_data"], array), "the pickle is one that Python itself understands"


def test_arrays_stay_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "large.pkl").write_bytes(pickle.dumps({"a": np.zeros(1 << 24, np.uint8)}, 4))
    tracemalloc.start()
    read = pickles.load(tmp_path / "large.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read["a"].shape == (1 << 24,)
    assert peak < 1 << 20


def test_one_array_in_two_places() -> None:
    array = np.arange(3)
    for protocol in PROTOCOLS:
        read = pickles.loads(pickle.dumps([array, array], protocol))
        assert same(read, [array, array])
        assert read[0] is read[1]


# What is refused


class Call:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = (function, arguments)

    def __reduce__(self) -> Any:
        return self.made

    def __call__(self) -> None:
        """Never called: pickle wants a function where a call's result is called."""


class Plain:
    """Pickles to a class and a dict of its inside."""

    def __init__(self) -> None:
        self.inside = 1


class Slotted(dict):  # type: ignore[type-arg]
    """Pickles to a class, items and a state."""


U8 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1I00\nI01\ntR"
BLANK = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
CLASSES: dict[str, Any] = {
    "object": Plain(), "dict of a class": Slotted(a=1), "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list), "date": datetime.date(2020, 1, 1), "complex": 1j, "range": range(3),
    "set": {1}, "frozen": frozenset({1}), "function": os.system, "class": dict, "path": Path("x"),
    "bytearray of old": bytearray(b"x"), "masked": np.ma.masked_array([1], [True]),
    "objects": np.array([{}, []], object), "text": np.array(["a"]), "dates": np.array(["2020"], "M8[D]"),
    "record": np.zeros(2, [("a", "u1")]), "complexes": np.zeros(2, complex), "dtype": np.dtype("u1"),
    "random": np.random.default_rng(0), "key": {1: 2}, "exception": ValueError("x"),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", CLASSES)
def test_other_objects_are_refused(name: str, protocol: int) -> None:
    for value in (CLASSES[name], {"a": [CLASSES[name]]}, (CLASSES[name], 1)):
        if name == "bytearray of old" and protocol == 5:
            return  # they are plain bytes there
        with pytest.raises(BenchError) as caught:
            pickles.loads(pickle.dumps(value, protocol))
        assert "refused, and nothing of it was run: it " in str(caught.value)
        assert "\n" not in str(caught.value)


def calls(mark: Path) -> list[Call]:
    """Each makes a file or a folder when Python unpickles it."""
    return [
        Call(os.system, f"touch {mark}"),
        Call(open, str(mark), "w"),
        Call(eval, f"open({str(mark)!r}, 'w').close()"),
        Call(Call(getattr, mark, "touch")),
        Call(Call(getattr, Call(__import__, "os"), "mkdir"), str(mark)),
        Call(np.save, str(mark.with_suffix("")), 1),
        Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(mark)))),
    ]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("number", range(7))
def test_calls_are_not_made(number: int, protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark.npy"
    content = pickle.dumps({"image_data": calls(mark)[number], "class_dict": {}}, protocol)
    with pytest.raises(BenchError, match="refused, and nothing of it was run: it asks for"):
        pickles.loads(content)
    assert not mark.exists()
    made = pickle.loads(content)["image_data"]
    getattr(made, "close", lambda: None)()
    assert mark.exists(), "it would have been made"


HOSTILE = {
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.fill\x93.",
    "through numpy": b"\x80\x04\x8c\x10numpy.core.multi\x8c\x0fos.system.x.y.z\x93.",
    "a number as a name": b"\x80\x04K\x01K\x02\x93.",
    "calls a list": b"(l(tR.",
    "calls a type": b"cnumpy\nndarray\n(K\x05tR.",
    "calls an array": BLANK + b"(K\x01(K\x01t" + U8 + b"I00\nC\x01xtb(tR.",
    "arguments no tuple": b"cnumpy\ndtype\n]R.",
    "another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x05\x00\x00\x00rot13tR.",
    "bytes of a size": b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.",
    "new object": b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
    "new object with words": b"\x80\x04cnumpy\nndarray\n)}\x92.",
    "persistent": b"Pid\n.",
    "persistent from the stack": b"K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "buffer from elsewhere": b"\x80\x05\x97.",
    "sets the inside of a dict": b"}}b.",
    "sets the inside of a list": b"](K\x01K\x02tb.",
    "sets the inside of an array again": BLANK + (b"(K\x01(K\x01t" + U8 + b"I00\nC\x01xtb") * 2 + b".",
    "sets a function": U8 + b"(K\x03cos\nsystem\nNNNK\x00K\x00K\x00tb.",
    "half an array": BLANK + b".",
    "half an array kept": b"(l" + BLANK + b"a.",
    "half an array kept twice": b"(l" + BLANK + b"2(K\x01(K\x01t" + U8 + b"I00\nC\x01xtba.",
    "a type kept": b"(l" + U8 + b"a.",
    "a name as a key": b"}cnumpy\nndarray\nK\x01s.",
    "metadata in a type": U8 + b"(K\x03X\x01\x00\x00\x00|}NNK\x00K\x00K\x00tb.",
    "array of a class": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tC\x01btR.",
    "objects in a list": BLANK + b"(K\x01(K\x01t" + U8 + b"I00\n(lK\x01atb.",
    "numbers that are none": BLANK + b"(K\x01(K\x01t" + U8 + b"I00\nK\x07tb.",
    "too few": BLANK + b"(K\x01(K\x09t" + U8 + b"I00\nC\x01xtb.",
    "too many": BLANK + b"(K\x01(K\x01t" + U8 + b"I00\nC\x02xxtb.",
    "less than nothing": BLANK + b"(K\x01(J\xff\xff\xff\xffJ\xff\xff\xff\xfft" + U8 + b"I00\nC\x01xtb.",
    "a shape that overflows": BLANK + b"(K\x01(" + b"I1099511627776\n" * 2 + b"t" + U8 + b"I00\nC\x00tb.",
    "a shape that overflows to nothing": BLANK
    + b"(K\x01("
    + b"I549755813888\n" * 4
    + b"K\x00t"
    + U8
    + b"I00\nC\x00tb.",
    "a shape of a huge number": BLANK + b"(K\x01(I" + b"9" * 4000 + b"\nt" + U8 + b"I00\nC\x00tb.",
    "a shape of truth": BLANK + b"(K\x01(I01\nt" + U8 + b"I00\nC\x01xtb.",
    "a hundred axes": BLANK + b"(K\x01(" + b"K\x01" * 100 + b"t" + U8 + b"I00\nC\x01xtb.",
    "a second set of numbers": BLANK + b"2" + (b"(K\x01(K\x01t" + U8 + b"I00\nC\x01xtb0") * 2 + b"l.",
    "axes that it has not": b"cnumpy.core.numeric\n_frombuffer\n(C\x01x" + U8 + b"(K\x01tX\x01\x00\x00\x00K(K\x01ttR.",
    "an order unknown": b"cnumpy.core.numeric\n_frombuffer\n(C\x01x" + U8 + b"(K\x01tX\x01\x00\x00\x00KtR.",
    "bytes declared": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes declared beyond": b"\x80\x04\x8e" + b"\xff" * 8 + b"x.",
    "bytes declared in a growing array": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"x.",
    "old bytes below nothing": b"T" + struct.pack("<i", -9) + b"xxxxxxxxx.",
    "text declared": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "text declared, larger": b"\x80\x04\x8d" + b"\xff" * 8 + b"x.",
    "a number declared": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.",
    "a number below nothing": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"x.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "nothing to remember": b"q\x00.",
    "nothing remembered": b"h\x00.",
    "no mark": b"t.",
    "nothing on the stack": b"0.",
    "nothing at the end": b".",
    "a list that is none": b"K\x01K\x02a.",
    "a dict that is none": b"]K\x01K\x02s.",
    "a key without its value": b"}(X\x01\x00\x00\x00au.",
    "text without quotes": b"Sabc\n.",
    "text not ended": b"S'abc",
    "no text": b"X\x01\x00\x00\x00\xff.",
    "no operation": b"\xff.",
    "empty": b"",
    "HTML": b"<!DOCTYPE html><html></html>",
    "zip": b"PK\x03\x04" + bytes(60),
}


def test_an_order_of_bytes_that_is_none() -> None:
    content = pickle.dumps(np.zeros(2, "<f4"), protocol=2)
    wrong = content.replace(b"X\x01\x00\x00\x00<", b"X\x02\x00\x00\x00<>")
    assert wrong != content
    with pytest.raises(BenchError):
        pickles.loads(wrong)


@pytest.mark.parametrize(
    "ask", [b"h\x00h\x01R", b"h\x00h\x02h\x03\x86R"], ids=["arguments kept", "arguments made anew"]
)
def test_text_encoded_often_is_encoded_once(ask: bytes) -> None:
    """A few bytes ask for the whole text again."""
    text = b"X" + struct.pack("<I", 1 << 16) + b"x" * (1 << 16) + b"q\x02"
    content = b"c_codecs\nencode\nq\x00" + text + b"X\x06\x00\x00\x00latin1q\x03\x86q\x01(" + ask * 1000 + b"l."
    tracemalloc.start()
    read = pickles.loads(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read == [b"x" * (1 << 16)] * 1000
    assert peak < 1 << 20


def test_an_array_is_looked_for_where_it_was_kept_once() -> None:
    n = 300
    kept = BLANK + b"".join(b"r" + struct.pack("<I", place) for place in range(n))
    numbers = b"(K\x01(K\x01t" + U8 + b"I00\nC\x01xtb0"
    with pytest.raises(BenchError, match="gives an array its numbers twice"):
        pickles.loads(kept + b"2" * n + numbers * n + b".")


def test_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pickles, "_array", full)
    with pytest.raises(BenchError, match="there is no room in memory for what the pickle holds"):
        pickles.loads(pickle.dumps(np.arange(3)))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    tracemalloc.start()
    with pytest.raises(BenchError) as caught:
        pickles.loads(HOSTILE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_bombs_of_memory_are_not_unfolded() -> None:
    content = b"(lp1\n0" + b"".join(b"(lp%d\ng%d\nag%d\na0" % (k + 1, k, k) for k in range(1, 200)) + b"g200\n."
    tracemalloc.start()
    value = pickles.loads(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(value) == 2
    assert peak < 1 << 20


def test_bytes_that_are_fetched_often_are_copied_once() -> None:
    size, times = 1 << 16, 200
    content = b"\x80\x03](B" + size.to_bytes(4, "little") + bytes(size) + b"q\x00" + b"h\x00" * times + b"e."
    tracemalloc.start()
    value = pickles.loads(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert value == [bytes(size)] * (times + 1)
    assert peak < 4 * size


def test_deep_and_circular_values_do_no_harm() -> None:
    depth = 200_000
    assert isinstance(pickles.loads(b"(" * depth + b"l" * depth + b"."), list)
    assert isinstance(pickles.loads(b"(" * depth + b"t" * depth + b"."), tuple)
    circular = pickles.loads(b"(lp0\ng0\na.")
    assert circular[0] is circular


COPY = {"image_data": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), "class_dict": {"n01": [0, 1]}}
WHOLE = [pickle.dumps(COPY, protocol) for protocol in PROTOCOLS]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_truncated_anywhere(protocol: int, tmp_path: Path) -> None:
    whole = WHOLE[protocol]
    for end in range(len(whole)):
        with pytest.raises(BenchError):
            pickles.loads(whole[:end])
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pkl").write_bytes(whole[:end])
        with pytest.raises(BenchError, match=r"cut\.pkl is (empty|damaged|refused)"):
            pickles.load(tmp_path / "cut.pkl")


def survives(content: bytes) -> None:
    """Whatever it is, it is refused in one sentence or is plain."""
    try:
        value = pickles.loads(content)
    except BenchError:
        return
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        assert type(each) in (dict, list, tuple, str, bytes, int, float, bool, type(None), np.ndarray)
        if isinstance(each, np.ndarray):
            assert each.dtype.kind in "biuf"
        elif isinstance(each, (dict, list, tuple)):
            waiting += each.values() if isinstance(each, dict) else each


@given(
    protocol=st.sampled_from(PROTOCOLS),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_flipped_bytes(protocol: int, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE[protocol])
    for place, byte in changes:
        content[place % len(content)] = byte
    survives(bytes(content))


PIECES = [
    U8, BLANK, b"(", b"t", b"l", b"d", b"]", b"}", b")", b"K\x01", b"K\x00", b"C\x01x", b"X\x01\x00\x00\x00a",
    b"a", b"e", b"s", b"u", b"b", b"R", b"0", b"1", b"2", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"\x85",
    b"\x86", b"\x87", b"N", b"\x88", b"I00\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n",
    b"\x94", b"\x93", b"(K\x01(K\x01t" + U8 + b"I00\nC\x01xtb",
]  # fmt: skip


@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_any_program(pieces: list[bytes]) -> None:
    survives(b"".join(pieces) + b".")


@given(content=st.binary(max_size=60))
def test_any_bytes(content: bytes) -> None:
    survives(content)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"cannot read .*gone\.pkl: No such file"):
        pickles.load(tmp_path / "gone.pkl")
    with pytest.raises(BenchError, match="cannot read"):
        pickles.load(tmp_path)
