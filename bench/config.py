"""Configs are frozen dataclasses: typed conversion from text, checked replacement, canonical JSON, shapes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, Literal, TypeVar

from bench.errors import BenchError

C = TypeVar("C")
WHOLE, NUMBER, TEXT, TRUTH, NONE, MISSING = (int,), (int, float), (str,), (bool,), (type(None),), (type(...),)
PLAIN = NUMBER + TEXT + TRUTH + NONE
"""Shapes of values without parts; see `misfit`."""
UNIONS = (typing.Union, types.UnionType)
_ORDER: dict[Any, int] = {int: 1, float: 2, bool: 3, str: 4}
"""Types of single values, in the order in which text is tried as one of several."""
INFINITE = frozenset({math.inf, -math.inf})
LARGEST = 10**9
"""Largest whole number that a field may have: what is larger is a slip of the hand, and no machine could do it."""
_BOOLEANS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


class TooLarge(ValueError):
    """A whole number above `LARGEST`."""


def canonical(value: Any, indent: int | None = None) -> str:
    """JSON with sorted keys and no NaN: equal values give equal bytes.

    Raises:
        ValueError: a NaN or an infinity.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=True, indent=indent, separators=separators)


def digest(value: Any, length: int = 12) -> str:
    """First hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def as_dict(config: Any) -> dict[str, Any]:
    """A config's fields as they enter a spec: late fields only where they differ from their default."""
    values, kinds = {}, types_of(type(config))
    for f in dataclasses.fields(config):
        value = _floating(kinds.get(f.name), getattr(config, f.name))
        if not (f.metadata.get("late") and value == f.default):
            values[f.name] = list(value) if isinstance(value, tuple) else value
    return values


def _floating(kind: Any, value: Any) -> Any:
    """A whole number of a field that holds fractions as one: 0 and 0.0 are the same setting."""
    if isinstance(value, tuple):
        return tuple(_floating(typing.get_args(kind)[0], v) for v in value) if typing.get_args(kind) else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    kinds = typing.get_args(kind) if typing.get_origin(kind) in UNIONS else (kind,)
    return float(value) if whole and float in kinds and int not in kinds else value


def late_defaults(cls: type[Any]) -> dict[str, Any]:
    """Of a config's class, what `as_dict` leaves out of a spec: the late fields, at their defaults."""
    return {f.name: f.default for f in dataclasses.fields(cls) if f.metadata.get("late")}


def misfit(value: Any, shape: Any) -> str:
    """Where a JSON or TOML value is not of a shape, and what is there, as ".cost.train_s is 'soon'"; "" where it is.

    A shape is a list with the shape of every item, a dict with the shape of every key (... for those that are not
    named), or a tuple of types and such shapes, one of which must fit; a key that is not there has the type of MISSING.
    No number may be infinite.
    """
    if type(value) in shape:
        return "" if value not in INFINITE else f" is {value}"
    for part in shape if isinstance(shape, tuple) else (shape,):
        if type(part) is type(value):
            return _misfit_of_parts(value, part)
    if value is ...:
        return " is missing"
    return " is unknown" if shape is MISSING else f" is {reprlib.repr(value)}"


def _misfit_of_parts(value: Any, shape: Any) -> str:
    if isinstance(value, list):
        each = shape[0]
        if all(kind in each for kind in set(map(type, value))) and INFINITE.isdisjoint(value):
            return ""  # long lists of numbers need no Python loop
        return next((f"[{i}]{wrong}" for i, item in enumerate(value) if (wrong := misfit(item, each))), "")
    others = shape.get(..., MISSING)
    for key, item in (dict.fromkeys(shape, ...) | value).items():
        if key is not ... and (wrong := misfit(item, shape.get(key, others))):
            return (f".{key}" if key.isidentifier() else f"[{reprlib.repr(key)}]") + wrong
    return ""


def convert(cls: type, key: str, value: Any) -> Any:
    """A value, from text, TOML or JSON, as the type of the field `key` of a config class.

    Raises:
        BenchError: no such field, or a value of a wrong type; the message lists the valid ones.
    """
    from bench.registry import unknown

    owner = getattr(cls, "name", cls.__name__.lower().removesuffix("options"))
    hints = types_of(cls)
    names = {f.name for f in dataclasses.fields(cls)}
    if key not in names:
        raise BenchError(unknown(f"field of {owner}", key, names))
    try:
        return _convert(hints[key], value)
    except TooLarge:
        raise BenchError(f"{owner}.{key} must be at most {LARGEST:,}") from None
    except (ValueError, TypeError, KeyError, OverflowError):
        raise BenchError(f"{owner}.{key} must be {describe(hints[key])}, not {reprlib.repr(value)}") from None


def types_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields by name; none where they cannot be told."""
    return _hints(cls)


@cache
def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError:
        return {}


def holds(kind: Any) -> bool:
    """Whether configs may have fields of a type: whatever `convert` takes and records hold."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return all(type(choice) in PLAIN for choice in args)
    if origin in UNIONS:
        return all(each is type(None) or holds(each) for each in args)
    if origin is tuple:
        return bool(args) and typing.get_origin(args[0]) is not tuple and holds(args[0])
    return kind in _ORDER


def _convert(kind: Any, value: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        for choice in args:
            plain = choice is None or isinstance(choice, bool)
            text = ("none" if choice is None else str(choice).lower()) if plain else str(choice)
            if value == choice or (str(value).lower() if plain else str(value)) == text:
                return choice
        raise ValueError
    if origin in UNIONS:
        if type(None) in args and (value is None or value in ("none", "")):
            return None
        arms = sorted((a for a in args if a is not type(None)), key=lambda a: _ORDER.get(a, 0))
        for arm in arms[:-1]:  # what is text as well is text last
            with suppress(ValueError, TypeError, KeyError):
                return _convert(arm, value)
        return _convert(arms[-1], value)
    if origin is tuple:
        if isinstance(value, str):
            # "+" joins settings that themselves hold commas: also=way=20,shot=1+way=20,shot=5
            value = [v for v in value.split("+" if args[0] is str else ",") if v]
        if not isinstance(value, (list, tuple)):
            raise TypeError
        return tuple(_convert(args[0], v) for v in value)
    if kind is bool:
        return _BOOLEANS[str(value).lower()]
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        whole = int(value)
        if abs(whole) > LARGEST:
            raise TooLarge
        return whole
    if kind is float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
        return number
    if kind is str:
        if not isinstance(value, str):
            raise TypeError
        return value
    raise TypeError(f"fields of type {kind} are not supported")


def describe(kind: Any) -> str:
    """A field's type in words."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin in UNIONS:
        return " or ".join("none" if a is type(None) else describe(a) for a in args)
    if origin is tuple:
        return f"a list of {'settings joined by +' if args[0] is str else describe(args[0]) + 's joined by commas'}"
    return {
        int: "a whole number", float: "a finite number", bool: "true or false", str: "text",
    }.get(kind, str(kind))  # fmt: skip


def build(cls: type[C], values: Mapping[str, Any]) -> C:
    """A config from values by field name, each converted and checked."""
    return cls(**{key: convert(cls, key, value) for key, value in values.items()})


def override(config: C, text: str) -> C:
    """A config with fields replaced as "way=20,shot=1" says.

    Raises:
        BenchError: malformed text, unknown field or wrong type.
    """
    changes = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise BenchError(f"'{text}' is not a setting; write FIELD=VALUE, several joined by commas")
        changes[key.strip()] = convert(type(config), key.strip(), value.strip())
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]
