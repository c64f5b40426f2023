"""Made-up records for tests of tables and pictures: no training, any shape of result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.config import digest

BUDGET = {"steps": 2000, "validations": 4, "val_episodes": 40, "test_episodes": 50, "select": "best"}
TRAINED = {"batch": 16, "lr": 0.001, "optimizer": "adam", "halve_every": 0, "clip": 0.0}
FIELDS: dict[str, dict[str, Any]] = {
    "omniglot": {"way": 5, "shot": 1, "query": 15, "size": 28, "split": "vinyals"},
    "omniglot-online": {"way": 5, "length": 0, "balanced": False, "labels": "onehot", "quarter_turns": True, "size": 20,
                        "flat": True, "split": "vinyals"},
    "lake": {"size": 28},
    "sinusoid": {"shot": 10, "query": 100},
}  # fmt: skip
TRAINING_ONLY: dict[str, dict[str, Any]] = {
    "omniglot": {"train_way": 0, "train_shot": 0, "train_query": 0},
    "omniglot-online": {"rotation": 11.25, "shift": 10.0},
    "lake": {"train_way": 20, "train_shot": 1, "train_query": 5, "train_turned": False, "train_split": "background"},
    "sinusoid": {"train_shot": 0, "train_query": 10},
}


def spec(
    method: str,
    task: str,
    seed: int = 0,
    *,
    fields: Mapping[str, Any] | None = None,
    task_fields: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
    versions: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """A cell's spec; without fields the method is one that does not train."""
    spent = {"steps": 0, "validations": 0, "val_episodes": 0, "select": "last"} if fields is None else {}
    return {
        "method": {"name": method, "version": versions[0], "fields": {} if fields is None else TRAINED | dict(fields)},
        "task": {
            "name": task,
            "version": versions[1],
            "fields": {"also": []} | FIELDS[task] | TRAINING_ONLY[task] | dict(task_fields or {}),
            "data": None,
        },
        "seed": seed,
        "budget": BUDGET | spent | dict(budget or {}),
    }


def evaluation(cell: Mapping[str, Any], scores: Sequence[float], **more: Any) -> dict[str, Any]:
    """What a record says of one setting."""
    task = cell["task"]
    setting = {k: v for k, v in task["fields"].items() if k != "also" and k not in TRAINING_ONLY[task["name"]]}
    return {
        "mean": float(np.mean(scores)),
        "per_episode": [float(s) for s in scores],
        "by_instance": None,
        "by_step": None,
        "setting": setting,
    } | more


def by_instance(means: Sequence[float | None], n: int = 500) -> dict[str, Any]:
    """Accuracy by instance with falling counts."""
    return {"mean": list(means), "n": [n - 20 * k for k in range(len(means))]}


def by_step(values: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Scores by gradient step."""
    return {str(k): {"mean": float(np.mean(v)), "per_episode": list(v)} for k, v in values.items()}


def curve(end: float, points: int = 5, start: float = 0.2) -> list[dict[str, Any]]:
    """A learning curve that rises, or falls, to its end."""
    return [
        {"step": 400 * k, "loss": 1 / k, "val": start + (end - start) * (1 - 0.4**k), "val_by_instance": None}
        for k in range(1, points + 1)
    ]


def record(cell: dict[str, Any], *evaluations: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A whole record; without evaluations it diverged. The first is the task itself, the next are those of `also`."""
    regression = cell["task"]["name"] == "sinusoid"
    names = ["", *cell["task"]["fields"]["also"]]
    return {
        "schema": 1,
        "id": digest(cell),
        "spec": cell,
        "outcome": "ok" if evaluations else "diverged",
        "result": {
            "metric": "mse" if regression else "accuracy",
            "higher_is_better": not regression,
            "selected_step": cell["budget"]["steps"],
            "evaluations": dict(zip(names, evaluations, strict=True)) if evaluations else {},
            "curve": more.pop("curve", []),
        },
        "cost": {"train_s": more.pop("train_s", 100.0), "eval_s": 1.0, "params": more.pop("params", 1000),
                 "peak_bytes": 1 << 28, "train_episodes_per_s": 80.0},
        "data": None,
        "env": {"commit": "0" * 40, "dirty": more.pop("dirty", False), "python": "3.11.1", "torch": "2.6",
                "device": "a processor", "threads": 1},
        "started": "2026-01-01T00:00:00Z",
        "finished": "2026-01-01T00:01:40Z",
    } | more  # fmt: skip


def scored(cell: dict[str, Any], mean: float, spread: float = 0.05, **more: Any) -> dict[str, Any]:
    """A record with 50 episodes of exactly this mean."""
    scores = mean + spread * np.linspace(-1, 1, 50)
    return record(cell, evaluation(cell, scores), **more)


def showcase(seeds: Iterable[int] = range(3)) -> list[dict[str, Any]]:
    """Records of every kind of task and of several methods, with one that diverged: for pictures and documents."""
    rng = np.random.default_rng(0)
    made = []
    for seed in seeds:
        for name, fields, mean in (("protonet", {}, 0.975), ("maml", {"inner_lr": 0.4}, 0.95), ("chance", None, 0.2),
                                   ("pixel-knn", None, 0.45), ("mann-attention", {"slots": 128}, 0.71)):  # fmt: skip
            for way, drop in ((5, 0.0), (20, 0.12)):
                cell = spec(name, "omniglot", seed, fields=fields, task_fields={"way": way})
                end = 1 / way if name == "chance" else mean - drop + 0.01 * rng.normal()
                made.append(scored(cell, end, curve=[] if fields is None else curve(end)))
        for name, fields, ends in (("mann", {"slots": 128, "width": 40, "heads": 4}, (0.36, 0.83, 0.98)),
                                   ("lstm", {"size": 200}, (0.24, 0.5, 0.63)), ("chance", None, (0.2, 0.2, 0.2)),
                                   ("pixel-knn", None, (0.2, 0.4, 0.57))):  # fmt: skip
            cell = spec(name, "omniglot-online", seed, fields=fields)
            if name == "lstm" and seed == 2:
                made.append(record(cell, curve=curve(0.4, 2)))
                continue
            rise = 1 - np.exp(-np.arange(9) / 2)
            means = [ends[0], *(ends[1] + (ends[2] - ends[1]) * rise + 0.01 * rng.normal(size=9))]
            scores = evaluation(cell, np.mean(means) + rng.normal(0, 0.05, 50), by_instance=by_instance(means))
            made.append(record(cell, scores, curve=[] if fields is None else curve(float(np.mean(means)))))
        for name, fields, ends in (("maml", {"inner_lr": 0.01}, {0: 3.5, 1: 0.7, 5: 0.4, 10: 0.36}),
                                   ("mann-attention", {"slots": 128}, {})):  # fmt: skip
            cell = spec(name, "sinusoid", seed, fields=fields)
            steps = {k: v * rng.lognormal(0, 0.6, 50) for k, v in ends.items()} or None
            final = steps[1] if steps else 1.2 * rng.lognormal(0, 0.6, 50)
            scores = evaluation(cell, final, by_step=by_step(steps) if steps else None)
            made.append(record(cell, scores, curve=curve(float(np.mean(final)), start=4.0)))
        made.append(scored(spec("chance", "sinusoid", seed), 4.3, 1.0))
        for name, fields, mean in (("hausdorff", None, 0.6125), ("protonet", {}, 0.8 + 0.01 * seed)):
            cell = spec(name, "lake", seed, fields=fields)
            made.append(record(cell, evaluation(cell, np.clip(mean + 0.02 * np.arange(-9.5, 10), 0, 1))))
    return made
