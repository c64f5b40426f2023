"""Configs: conversion from text, TOML and JSON, canonical JSON, identity."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from fakes import Toy, ToyNet
from hypothesis import given
from hypothesis import strategies as st

from bench import config
from bench.errors import BenchError
from bench.registry import option


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A field of every kind."""

    count: int = option(1, "a number")
    rate: float = option(0.5, "a rate")
    on: bool = option(False, "a switch")
    text: str = option("a", "a text")
    mode: Literal["slow", "fast", 3] = option("slow", "a choice")
    sizes: tuple[int, ...] = option((1, 2), "numbers")
    rates: tuple[float, ...] = option((), "rates")
    names: tuple[str, ...] = option((), "texts")
    new: int = option(7, "a later field", late=True)


plain_text = st.text(st.characters(codec="utf-8", exclude_characters="+\x00"), min_size=1)
finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.integers(-config.LARGEST, config.LARGEST)
samples = st.builds(
    Sample,
    count=whole,
    rate=finite,
    on=st.booleans(),
    text=st.text(),
    mode=st.sampled_from(["slow", "fast", 3]),
    sizes=st.lists(whole).map(tuple),
    rates=st.lists(finite).map(tuple),
    names=st.lists(plain_text).map(tuple),
    new=whole,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ("+" if value and isinstance(value[0], str) else ",").join(map(str, value))
    return str(value)


@given(samples)
def test_a_config_survives_json(sample: Sample) -> None:
    assert config.build(Sample, json.loads(config.canonical(config.as_dict(sample)))) == sample


@given(samples)
def test_a_config_survives_the_text_of_the_command_line(sample: Sample) -> None:
    names = ("count", "rate", "on", "text", "mode", "sizes", "rates", "names", "new")
    assert config.build(Sample, {name: as_text(getattr(sample, name)) for name in names}) == sample


@given(json_values)
def test_canonical_json_is_a_function_of_the_value(value: object) -> None:
    text = config.canonical(value)
    assert json.loads(text) == value
    assert config.canonical(json.loads(text)) == text
    assert config.canonical(json.loads(config.canonical(value, indent=1))) == text
    assert text.isascii()


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_the_digest_does_not_see_the_order_of_keys(value: dict[str, int]) -> None:
    assert config.digest(value) == config.digest(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, -float("inf")]])
def test_canonical_json_has_no_nan(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        config.canonical(value)


@given(samples, samples)
def test_two_configs_have_one_digest_only_if_equal(one: Sample, two: Sample) -> None:
    same = config.digest(config.as_dict(one)) == config.digest(config.as_dict(two))
    assert same == (config.canonical(config.as_dict(one)) == config.canonical(config.as_dict(two)))


def test_a_late_field_leaves_old_identities_alone() -> None:
    assert "new" not in config.as_dict(Sample())
    assert config.as_dict(Sample(new=8))["new"] == 8


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("count", "many", "a whole number"), ("count", "1.5", "a whole number"), ("count", 1.5, "a whole number"),
        ("count", True, "a whole number"), ("count", "", "a whole number"), ("count", None, "a whole number"),
        ("count", [1], "a whole number"), ("rate", "fast", "a finite number"), ("rate", "nan", "a finite number"),
        ("rate", "inf", "a finite number"), ("rate", True, "a finite number"), ("on", "perhaps", "true or false"),
        ("on", 2, "true or false"), ("text", 3, "text"), ("mode", "medium", "slow, fast, 3"),
        ("sizes", "1,x", "whole numbers"), ("sizes", 3, "whole numbers"), ("sizes", [1, "y"], "whole numbers"),
        ("rates", "nan", "finite numbers"), ("names", 3, "joined by +"),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_names_the_right_one(key: str, value: object, says: str) -> None:
    with pytest.raises(BenchError, match=f"sample.{key} must be .*") as caught:
        config.convert(Sample, key, value)
    assert says in str(caught.value)


def test_an_unknown_field_offers_the_nearest() -> None:
    with pytest.raises(BenchError, match="did you mean count"):
        config.build(Sample, {"cuont": 1})
    with pytest.raises(BenchError, match=r"field of toy 'zzz'; there are: .*way"):
        config.build(Toy, {"zzz": 1})


@pytest.mark.parametrize(("given_", "value"), [("yes", True), ("1", True), ("FALSE", False), (True, True), (0, False)])
def test_truth_is_written_in_several_ways(given_: object, value: bool) -> None:
    assert config.convert(Sample, "on", given_) is value


def test_whole_numbers_from_toml_and_json_keep_their_type() -> None:
    assert config.convert(Sample, "rate", 1) == 1.0
    assert isinstance(config.convert(Sample, "rate", 1), float)
    assert isinstance(config.convert(Sample, "count", 2.0), int)
    assert config.convert(Sample, "sizes", [1, 2.0]) == (1, 2)


def test_override_replaces_fields_named_in_a_text() -> None:
    assert config.override(Toy(), "way=2, shot=4") == Toy(way=2, shot=4)
    assert config.override(ToyNet(), "lr=1e-2") == replace(ToyNet(), lr=0.01)


@pytest.mark.parametrize("text", ["way", "=3", "way=2,", "", "way=2,,shot=1"])
def test_a_malformed_setting_is_refused(text: str) -> None:
    with pytest.raises(BenchError, match="is not a setting; write FIELD=VALUE"):
        config.override(Toy(), text)


def test_further_settings_are_joined_by_plus() -> None:
    toy = Toy(also=config.convert(Toy, "also", "way=2,shot=1+way=2,shot=3"))
    assert {name: (t.way, t.shot) for name, t in toy.evaluations().items()} == {
        "": (3, 1), "way=2,shot=1": (2, 1), "way=2,shot=3": (2, 3),
    }  # fmt: skip
    assert all(t.also == () for t in toy.evaluations().values())


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Fields of several types."""

    rate: float | None = option(1, "a rate, or none")
    size: float | str = option("auto", "a size, or a word")
    any: Literal[True, False, "auto"] = option("auto", "a switch, or a word")
    maybe: Literal[None, "a"] = option(None, "a word, or none")
    rates: tuple[float, ...] = option((1, 2), "rates")


@pytest.mark.parametrize(("key", "text", "value"), [
    ("rate", "none", None), ("rate", "0.5", 0.5), ("size", "auto", "auto"), ("size", "0.5", 0.5), ("any", "true", True),
    ("any", "False", False), ("any", "auto", "auto"), ("maybe", "none", None), ("maybe", "a", "a"),
])  # fmt: skip
def test_a_field_of_several_types_takes_each(key: str, text: str, value: object) -> None:
    assert config.convert(Mixed, key, text) == value
    assert config.convert(Mixed, key, value) == value


def test_whole_numbers_of_fractions_are_fractions_in_a_spec() -> None:
    """Whether they are written by a class, on the command line or in a spec."""
    found = config.as_dict(Mixed())
    assert json.dumps([found["rate"], found["rates"]]) == "[1.0, [1.0, 2.0]]"
    assert config.as_dict(config.build(Mixed, found)) == found
    assert config.as_dict(Mixed(rate=None))["rate"] is None
