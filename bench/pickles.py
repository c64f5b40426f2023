"""Pickles read without unpickling: nothing that a file names is imported, called or made.

A pickle is a program for a stack machine. The one here knows dicts with text as keys, lists, tuples, text, bytes,
numbers, and arrays of numbers as numpy 1 and 2 write them, in protocols 0 to 5, from Python 2 and 3; all else is
refused. Memory stays in proportion to the file, whatever sizes it declares, and arrays stay where they are: in the
file's memory map.
"""

from __future__ import annotations

import codecs
import io
import math
import mmap
import pickletools
import reprlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError

LONGEST_NAME = 1000
MOST_AXES, LONGEST_AXIS = 32, 1 << 40
CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}
"""Types of numbers in an array."""
ORDERS = ("<", ">", "=", "|")
"""Of the bytes of a number."""
_LENGTHS = {"SHORT_BINSTRING": "<B", "BINSTRING": "<i", "SHORT_BINBYTES": "<B", "BINBYTES": "<I", "BINBYTES8": "<Q",
            "BYTEARRAY8": "<Q"}  # fmt: skip
"""How the length of these bytes is written; they are never copied off the file."""
_OPERATIONS = {operation.code: operation for operation in pickletools.opcodes}
_OTHERS = {b"\x1f\x8b": "compressed by gzip: unpack it", b"version ": "a pointer of Git LFS: pull the file itself",
           b"<": "a page of the web: the download asked for something"}  # fmt: skip
"""What such files often are instead, by how they begin."""
_DAMAGE = (ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError, struct.error)
"""What a pickle raises that is cut short or no pickle at all."""


def load(path: Path) -> Any:
    """The value that a pickle file holds; its arrays are read-only and lie in the file's memory map.

    Text of Python 2 comes as bytes, but as text where it is the key of a dict.

    Raises:
        BenchError: it cannot be read, is damaged, or holds anything but plain values and arrays of numbers.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except ValueError:  # an empty file cannot be mapped
        raise BenchError(f"{path} is empty; get it anew") from None
    return _read(mapped, memoryview(mapped), str(path))  # type: ignore[arg-type]  # it reads and seeks like a file


def loads(content: bytes) -> Any:
    """The same, of a pickle in memory."""
    return _read(io.BytesIO(content), memoryview(content), "the pickle")


def _read(file: BinaryIO, whole: memoryview, where: str) -> Any:
    try:
        return _Machine(file, whole).run()
    except _Refusal as why:
        raise BenchError(f"{where} is refused, and nothing of it was run: {why}") from None
    except _DAMAGE as error:
        other = next((f", but {kind}" for start, kind in _OTHERS.items() if bytes(whole[:8]).startswith(start)), "")
        raise BenchError(f"{where} is damaged or no pickle{other} ({error}); get it anew") from None
    except MemoryError:
        raise BenchError(f"there is no room in memory for what {where} holds") from None


class _Refusal(Exception):
    """Why a pickle is not read on."""


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names; here it is its name and no more."""

    name: str


@dataclass
class _Kind:
    """The type of an array's numbers; its byte order comes later."""

    code: str
    order: str = "="


class _Blank:
    """An array that has not got its numbers yet."""

    def __init__(self) -> None:
        self.memo: list[int] | None = []
        """Where it was remembered; None once it was given its numbers."""


class _Arguments(tuple[Any, ...]):
    """A tuple that holds what no result may hold: names, types, or other such tuples."""


_INTERNAL = (_Name, _Kind, _Blank, _Arguments)


class _Machine:
    """Runs a pickle's operations, as `pickletools` names them, on plain values alone."""

    def __init__(self, file: BinaryIO, whole: memoryview) -> None:
        self.file, self.whole = file, whole
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """Stacks that wait beneath a mark."""
        self.memo: dict[int, Any] = {}
        self.copies: dict[int, tuple[memoryview | str, bytes]] = {}
        """By `id` of a piece of the file, or of text to encode, itself and its bytes: what is fetched often is copied
        once."""

    def run(self) -> Any:
        """The value at the end."""
        while True:
            code = self.file.read(1)
            if not code:
                raise _Refusal("it ends in the middle; get it anew")
            operation = _OPERATIONS.get(code.decode("latin-1"))
            if operation is None:
                raise ValueError(f"no operation has the code {code!r}")
            if operation.name == "STOP":
                return self.plain(self.stack.pop())
            self.step(operation)

    def step(self, operation: pickletools.OpcodeInfo) -> None:
        """One operation."""
        name, stack = operation.name, self.stack
        if name in _LENGTHS:
            stack.append(self.take(_LENGTHS[name]))
            return
        if name == "STRING":
            stack.append(_unescaped(self.file.readline()))
            return
        argument: Any = operation.arg.reader(self.file) if operation.arg else None
        match name:
            case ("INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT"
                  | "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8"):  # fmt: skip
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.below.append(stack)
                self.stack = []
            case "POP" if not stack:
                self.since_mark()
            case "POP":
                stack.pop()
            case "POP_MARK":
                self.since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.remember(len(self.memo) if argument is None else argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(self.tuple_of([stack.pop() for _ in range(int(name[-1]))][::-1]))
            case "TUPLE":
                items = self.since_mark()
                self.stack.append(self.tuple_of(items))
            case "LIST":
                items = self.since_mark()
                self.stack.append([self.plain(item) for item in items])
            case "DICT":
                items = self.since_mark()
                self.stack.append({})
                self.fill(items)
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if name == "APPEND" else self.since_mark()
                self.top(list).extend(map(self.plain, items))
            case "SETITEM" | "SETITEMS":
                self.fill([stack.pop(), stack.pop()][::-1] if name == "SETITEM" else self.since_mark())
            case "GLOBAL":
                stack.append(_named(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                last, first = stack.pop(), stack.pop()
                stack.append(_named(f"{_text(first)}.{_text(last)}"))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.called(function, arguments))
            case "BUILD":
                self.build(stack.pop())
            case _:
                raise _Refusal(f"it makes an object of a class, or the like ({name}); only plain values are read")

    def tuple_of(self, items: list[Any]) -> tuple[Any, ...]:
        """A tuple of what was on the stack."""
        if any(isinstance(item, _INTERNAL) for item in items):
            return _Arguments(items)
        # These may be arguments as well: bytes are copied only if they do not belong to an array.
        return tuple(map(self.plain, items))

    def plain(self, value: Any) -> Any:
        """A value as it may stand in the result."""
        if isinstance(value, _INTERNAL):
            raise _Refusal("it keeps a function, a class or half an array among its values")
        if isinstance(value, memoryview):
            if id(value) not in self.copies:
                self.copies[id(value)] = value, bytes(value)
            return self.copies[id(value)][1]
        return value

    def called(self, function: Any, arguments: Any) -> Any:
        """What a function would give, if it is one of `_NAMES`."""
        made = _NAMES.get(function.name) if isinstance(function, _Name) else None
        if made is None or not isinstance(arguments, tuple):
            raise _Refusal("it calls what is no function of numpy's arrays")
        if made is not _encoded:
            return made(arguments)
        text = arguments[0] if arguments else None
        if id(text) not in self.copies:
            self.copies[id(text)] = text, _encoded(arguments)  # type: ignore[assignment]  # it refuses all but text
        return self.copies[id(text)][1]

    def take(self, form: str) -> memoryview:
        """The bytes that come next, after their length."""
        (length,) = struct.unpack(form, self.file.read(struct.calcsize(form)))
        start = self.file.tell()
        if not 0 <= length <= len(self.whole) - start:
            raise _Refusal(f"it declares {length} bytes where {len(self.whole) - start} are left; get it anew")
        self.file.seek(start + length)
        return self.whole[start : start + length]

    def since_mark(self) -> list[Any]:
        """All above the last mark, which goes."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """The value on top, of this kind."""
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {kind.__name__} is to grow, and there is none")
        return self.stack[-1]

    def fill(self, items: list[Any]) -> None:
        """Keys and values, in turn, go into the dict on top."""
        into = self.top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            into[_text(key)] = self.plain(value)

    def remember(self, place: int) -> None:
        """What is on top can be had again."""
        self.memo[place] = self.stack[-1]
        match self.stack[-1]:
            case _Blank(memo=list() as places):
                places.append(place)

    def build(self, state: Any) -> None:
        """Give an array its numbers, or a type its byte order."""
        match self.stack[-1], state:
            case _Kind() as kind, (int(), order, None, None, None, int(), int(), int()) if _text(order) in ORDERS:
                kind.order = _text(order)
            case _Blank(memo=None), _:
                raise _Refusal("it gives an array its numbers twice")
            case _Blank(), (1, tuple(), _Kind(), int(), list()):
                raise _Refusal("it holds an array of objects; only arrays of numbers are read")
            case _Blank() as blank, (1, tuple() as shape, _Kind() as kind, int() as fortran, raw):
                made = _array(raw, kind, shape, bool(fortran))
                self.stack[-1] = made
                self.memo.update(dict.fromkeys(blank.memo or (), made))
                blank.memo = None
            case _:
                raise _Refusal("it sets the inside of something that is no array of numbers")


def _text(value: Any) -> str:
    if isinstance(value, (bytes, memoryview)) and len(value) <= LONGEST_NAME:
        return bytes(value).decode("latin-1")
    if not isinstance(value, str):
        raise _Refusal(f"it has {_article(value)} where text belongs: as the key of a dict, or a name")
    return value


def _article(value: Any) -> str:
    return f"a value of type {type(value).__name__.strip('_').lower()}"


def _unescaped(line: bytes) -> bytes:
    """Text of Python 2 in protocol 0: quoted, on a line of its own."""
    text = line.rstrip(b"\n")
    if not line.endswith(b"\n") or len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"'\"":
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(text[1:-1])[0]


def _named(name: str) -> _Name:
    if name not in _NAMES:
        raise _Refusal(f"it asks for {reprlib.repr(name)}; dicts, lists, texts and arrays of numbers alone are read")
    return _Name(name)


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    """Bytes as Python 3 writes them for Python 2."""
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            return text.encode("latin-1")
    raise _Refusal("it encodes text in another way than arrays need")


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise _Refusal("it makes bytes in another way than arrays need")
    return b""


def _kind(arguments: tuple[Any, ...]) -> _Kind:
    match arguments:
        case (code, int(), int()) if _text(code) in CODES:
            return _Kind(_text(code))
        case (code, *_):
            what = "objects" if _text(code)[:1] == "O" else reprlib.repr(_text(code))
            raise _Refusal(f"it holds an array of {what}; only arrays of numbers are read")
    raise _Refusal("it has an array of nothing")


def _blank(arguments: tuple[Any, ...]) -> _Blank:
    match arguments:
        case (_Name("numpy.ndarray"), tuple(), _):
            return _Blank()
    raise _Refusal("it makes an array of another class than numpy's own")


def _from_buffer(arguments: tuple[Any, ...]) -> NDArray[Any]:
    match arguments:
        case (raw, _Kind() as kind, tuple() as shape, "K", tuple() as axes):
            if sorted(axes) != [*range(len(shape))]:
                raise _Refusal("it turns an array to axes that it has not")
            return _array(raw, kind, shape, False).transpose(axes)
        case (raw, _Kind() as kind, tuple() as shape, order, *rest) if rest in ([], [None]):
            return _array(raw, kind, shape, {"C": False, "F": True}[_text(order)])
    raise _Refusal("it makes an array in another way than numpy does")


def _scalar(arguments: tuple[Any, ...]) -> Any:
    match arguments:
        case (_Kind() as kind, raw):
            return _array(raw, kind, (), False).item()
    raise _Refusal("it makes a number in another way than numpy does")


def _array(raw: Any, kind: _Kind, shape: tuple[Any, ...], fortran: bool) -> NDArray[Any]:
    if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < LONGEST_AXIS for n in shape):
        raise _Refusal("it declares an array of an impossible shape")
    dtype, count = np.dtype(kind.order + kind.code), math.prod(shape)
    if not isinstance(raw, (bytes, memoryview)) or len(raw) != count * dtype.itemsize:
        held = f"{len(raw)} bytes" if isinstance(raw, (bytes, memoryview)) else _article(raw)
        raise _Refusal(f"it declares an array of {count} numbers and holds {held} for it")
    flat = np.frombuffer(raw, dtype) if count else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


_NAMES: dict[str, Callable[[tuple[Any, ...]], Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": _kind,
    "_codecs.encode": _encoded,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
}
"""All that a pickle may name, and what is done instead of calling it."""
for _core in ("numpy.core", "numpy._core"):
    _NAMES |= {
        f"{_core}.multiarray._reconstruct": _blank,
        f"{_core}.multiarray.scalar": _scalar,
        f"{_core}.numeric._frombuffer": _from_buffer,
    }
