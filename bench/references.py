"""What scores mean without any memory, in percent and exactly: pure functions of a setting's fields."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

MOST_CLASSES = 100_000
MOST_ITEMS = 1000


def guessing(fields: Mapping[str, Any]) -> float | None:
    """Accuracy of guessing: one of `way` or `among` labels, 5^5 strings, or `values`; None where there are none."""
    if fields.get("labels") == "string":
        return 100 / 5**5
    classes = _labels(fields) or _whole(fields, "values", MOST_CLASSES)
    return 100 / classes if classes else None


def ceiling(fields: Mapping[str, Any]) -> float | None:
    """Best possible accuracy when a class is first shown, by ruling out labels already used: (1/N) Σ 1/k.

    k is what is left of N labels, or of those that they are drawn `among`. None for strings, nearly all of which are
    never used.
    """
    way = _whole(fields, "way", MOST_CLASSES)
    if not way or fields.get("labels") == "string":
        return None
    labels = _labels(fields)
    return 100 / way * sum(1 / k for k in range(labels - way + 1, labels + 1))


def elimination(fields: Mapping[str, Any]) -> tuple[float, dict[int, float]] | None:
    """Best accuracy in paired associates without any binding: guessing among the values shown and not asked for yet.

    Overall, and by group of ages (from 1). Of n items the j-th asked for is right in 1 of n - j + 1. If it was the i-th
    stored, its age is n + j - i, and every i is as likely: old items are asked for late, when fewer are left. None
    where the fields are not those of that task.
    """
    from bench.tasks.probe import AGES

    most, load = _whole(fields, "most", MOST_ITEMS), _whole(fields, "load", MOST_ITEMS)
    if not most or not _whole(fields, "values", MOST_CLASSES):
        return None
    overall, right, count = [], dict[int, float](), dict[int, float]()
    for n in [load] if load else range(1, most + 1):
        asked = range(1, min(n, _whole(fields, "asked", n) or n) + 1)
        overall.append(fmean(1 / (n - j + 1) for j in asked))
        for j in asked:
            for i in range(1, n + 1):
                group = 1 + sum(n + j - i > oldest for oldest in AGES)
                right[group] = right.get(group, 0.0) + 1 / n / (n - j + 1)
                count[group] = count.get(group, 0.0) + 1 / n
    return 100 * fmean(overall), {group: 100 * right[group] / count[group] for group in sorted(right)}


def _labels(fields: Mapping[str, Any]) -> int:
    """One-hot labels that an episode's classes take theirs from."""
    return max(_whole(fields, name, MOST_CLASSES) for name in ("way", "among"))


def _whole(fields: Mapping[str, Any], name: str, most: int) -> int:
    """A field's value, from 1 to most; 0 where the setting has none, or the field of that name is something else."""
    value = fields.get(name)
    return value if type(value) is int and 0 < value <= most else 0
