"""The method card: how the numbers of a page were made and judged, and from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import significance, verdicts
from bench.config import digest
from bench.intervals import FEWEST
from bench.report.blocks import Suite


@dataclass(frozen=True)
class Card:
    """Facts of the records behind a page, each as words and how many records it holds for."""

    digest: str
    """sha256 of all records, sorted by id."""
    machines: Sequence[tuple[str, int]]
    versions: Sequence[tuple[str, int]]
    commits: Sequence[tuple[str, int]]
    data: Sequence[tuple[str, int]]
    commands: Sequence[str]
    left_out: Sequence[str]


def rules() -> dict[str, str]:
    """The numbers that verdicts rest on, from where they are decided."""
    margins = [f"{points:g} points on {where}" for where, points in verdicts.POINTS.items()]
    margins += [f"{verdicts.POINT:g} point of accuracy elsewhere", f"{verdicts.RELATIVE:g} % of a squared error"]
    return {
        "fewest": str(FEWEST),
        "alpha": f"{verdicts.ALPHA:g}",
        "margins": ", ".join(margins),
        "power": f"{100 * significance.POWER:g}",
    }


def card(suites: Sequence[Suite]) -> Card:
    """The facts of the records of some suites."""
    records = {r["id"]: r for suite in suites for r in suite.records}
    found = [records[i] for i in sorted(records)]
    envs = [r.get("env") or {} for r in found]
    whose = {i: name for suite in suites for i, name in suite.whose.items()}
    machines = [_machine(env) + (f", from {whose[r['id']]}" if r["id"] in whose else "")
                for r, env in zip(found, envs, strict=True)]  # fmt: skip
    return Card(
        digest(found, 64),
        _counted(machines),
        _counted(_versions(env) for env in envs),
        _counted(str(env.get("commit") or "unknown")[:12] + " with changes" * bool(env.get("dirty")) for env in envs),
        _counted(f"{d['name']}, sha256 {d['sha256']}" for r in found if (d := r.get("data"))),
        [f"bench run {suite.name}" for suite in suites if suite.title and suite.name != "other"],
        [f"{suite.name}: {n} record{'s' * (n > 1)} {why}" for suite in suites for why, n in suite.left_out.items()],
    )  # fmt: skip


def _machine(env: Mapping[str, Any]) -> str:
    threads = env.get("threads")
    used = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    return f"{env.get('device') or 'unknown'}{used}" + (f", CUDA {env['cuda']}" if env.get("cuda") else "")


def _versions(env: Mapping[str, Any]) -> str:
    names = {"version": "mannbench", "python": "Python", "torch": "torch", "numpy": "NumPy"}
    return ", ".join(f"{words} {env[key]}" for key, words in names.items() if env.get(key)) or "unknown"


def _counted(words: Iterable[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for word in words:
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
