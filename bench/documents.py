"""JSON files that others may have written: read strictly, checked against a shape, refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.config import misfit
from bench.errors import BenchError

DIGITS = 300
"""Whole numbers that are longer are refused: no float is as large."""


def read(path: Path, kind: str, schema: int, shape: Any) -> dict[str, Any]:
    """The content of a file of a kind ("record"), of at most this schema and of a shape as `config.misfit` takes it.

    Raises:
        BenchError: not JSON, a newer schema, a NaN, or not of that shape.
    """
    return decode(contents(path), str(path), kind, schema, shape)


def decode(data: bytes, name: str, kind: str, schema: int, shape: Any) -> dict[str, Any]:
    """The same for bytes that are in memory; name is what messages call them."""
    content = parse(data, name, kind)
    told = content.get("schema") if isinstance(content, dict) else None
    if type(told) is not int:
        raise BenchError(f"{name} is not a {kind}: it has no schema number")
    if told > schema:
        raise BenchError(f"{name} has schema {told}, newer than this version's {schema}; upgrade mannbench to read it")
    wrong = misfit(content, shape).removeprefix(".")
    if wrong:
        raise BenchError(f"{name} is not a whole {kind}: {wrong}")
    return content


def contents(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # to open a pipe is to wait for ever
            raise BenchError(f"{path} cannot be read: it is no regular file")
        return path.read_bytes()
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from None


def parse(data: bytes, name: str, kind: str) -> Any:
    """JSON without NaN, infinities, endless numbers and halves of characters.

    Raises:
        BenchError: anything else.
    """
    try:
        text = data.decode()
        content = _PARSER.decode(text)
        if "\\u" in text:
            json.dumps(content, ensure_ascii=False).encode()  # refuses half a character, which nothing could print
    except (ValueError, RecursionError) as error:
        raise BenchError(f"{name} is not a {kind}: {error}") from None
    return content


def _refuse(text: str) -> Any:
    raise ValueError(f"it holds {text[:30]}")


def _whole(text: str) -> int:
    return int(text) if len(text) <= DIGITS else _refuse(text)


_PARSER = json.JSONDecoder(parse_int=_whole, parse_constant=_refuse)
