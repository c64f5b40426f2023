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
    "copy": {"bits": 8, "length": 0, "longest": 20},
    "paired-associates": {"width": 24, "values": 16, "most": 8, "load": 0, "asked": 0},
}  # fmt: skip
TRAINING_ONLY: dict[str, dict[str, Any]] = {
    "omniglot": {"train_way": 0, "train_shot": 0, "train_query": 0},
    "omniglot-online": {"rotation": 11.25, "shift": 10.0},
    "lake": {"train_way": 20, "train_shot": 1, "train_query": 5, "train_turned": False, "train_split": "background"},
    "sinusoid": {"train_shot": 0, "train_query": 10},
    "copy": {},
    "paired-associates": {},
}
METRICS = {"sinusoid": "mse", "copy": "bits per sequence"}
SOLVED = {"copy": 0.1, "paired-associates": 0.95}
AGES = ("age 1", "age 2", "age 3-4", "age 5-8", "age 9-16", "age 17-32", "age 33-64", "age 65-128", "age 129-256",
        "age over 256")  # fmt: skip


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
    task = cell["task"]["name"]
    names = ["", *cell["task"]["fields"]["also"]]
    return {
        "schema": 1,
        "id": digest(cell),
        "spec": cell,
        "outcome": "ok" if evaluations else "diverged",
        "result": {
            "metric": METRICS.get(task, "accuracy"),
            "higher_is_better": task not in METRICS,
            **({"solved": SOLVED[task]} if task in SOLVED else {}),
            "selected_step": cell["budget"]["steps"],
            "evaluations": dict(zip(names, evaluations, strict=True)) if evaluations else {},
            "curve": more.pop("curve", []),
            **({"diagnostics": more.pop("diagnostics")} if "diagnostics" in more else {}),
        },
        "cost": {"train_s": more.pop("train_s", 100.0), "eval_s": 1.0, "params": more.pop("params", 1000),
                 **more.pop("cost", {}), "peak_bytes": 1 << 28, "train_episodes_per_s": 80.0},
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


MEMORIES = ("mann", "ntm", "dnc", "adnc", "sam", "sdnc", "mann-attention", "hopfield", "hcam", "kaiser", "apl",
            "neural-memory", "delta", "full-attention", "lstm")  # fmt: skip
SLOTLESS = MEMORIES[-4:]


def points(values: Sequence[float | None], every: int = 100) -> list[dict[str, Any]]:
    """A learning curve of these validation scores."""
    return [{"step": every * k, "loss": 1.0, "val": v, "val_by_instance": None} for k, v in enumerate(values, 1)]


def diagnosed(precision: float, lost: float = 0.1) -> dict[str, Any]:
    """Diagnostics of a memory that finds what it stored so often."""
    number = {"chance": 0.2, "n": 900}
    names = ("retrieval", "best_head", "erased", "redundancy")
    values = {f"{name}_{by}": precision for name in names for by in ("image", "label")} | {
        "erased_label": lost, "redundancy_label": 3.5, "own_write": 0.25, "write_slots": 2.0, "read_slots": 5.0,
    }  # fmt: skip
    ages = [precision * 0.93**k for k in range(6)]
    return {
        "episodes": 20,
        "numbers": {name: {"value": value, **number} for name, value in values.items()},
        "forgetting": {
            "age": ["1", "2", "3–4", "5–8", "9–16", "17+"],
            "accuracy": [min(1.0, a + 0.1) for a in ages],
            "n": [100] * 6,
            **{f"{name}_{by}": ages for name in ("retrieval", "best_head") for by in ("image", "label")},
            **{f"n_{by}": [90] * 6 for by in ("image", "label")},
        },
    }


def by_age(load: int, value: float, slots: int = 8) -> dict[str, Any]:
    """Accuracy by age at a load: it falls with age and, beyond the slots, with load."""
    edges = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    most = 2 * load - 1
    here = [k for k in range(10) if k == 0 or (k < 10 and edges[k - 1] < most)]
    fall = min(1.0, slots / load)
    means = [value * fall ** (k / 3) * 0.98**k if k in here else None for k in range(10)]
    return {"mean": means, "n": [100 * (k in here) for k in range(10)], "groups": list(AGES)}


def probed(seeds: Iterable[int] = range(3), methods: Sequence[str] = MEMORIES) -> list[dict[str, Any]]:
    """Records of the binding-and-forgetting probe: by age, at several loads, with learning curves and diagnostics."""
    rng = np.random.default_rng(1)
    loads = (2, 4, 8, 12, 16)
    made = []
    for m, name in enumerate([*methods, "pixel-knn", "chance"]):
        for seed in seeds:
            trained = name in methods
            fields = None if not trained else {} if name in SLOTLESS else {"slots": 8}
            cell = spec(name, "paired-associates", seed, fields=fields,
                        task_fields={"also": [f"load={n}" for n in loads]})  # fmt: skip
            top = 1.0 if name == "pixel-knn" else 1 / 16 if name == "chance" else 1 - 0.055 * m + 0.01 * rng.normal()
            slots = 8 if fields and "slots" in fields else 64
            parts = []
            for load in (0, *loads):
                setting = evaluation(cell, [0.0])["setting"] | {"load": load}
                by = by_age(load or 8, min(1.0, top), slots)
                known = [v for v in by["mean"] if v is not None]
                scores = np.clip(np.mean(known) + rng.normal(0, 0.02, 50), 0, 1)
                parts.append(evaluation(cell, scores, by_instance=by, setting=setting))
            rise = [top * (1 - 0.9 * np.exp(-k / (2 + m / 2))) for k in range(1, 21)]
            more: dict[str, Any] = {"curve": points(rise, 250)} if trained else {}
            if trained and name not in SLOTLESS:
                more["diagnostics"] = diagnosed(max(0.1, top - 0.1))
            made.append(record(cell, *parts, cost={"train_cpu_s": 80.0 + m} if trained else {}, **more))
    return made


def copied(seeds: Iterable[int] = range(3), methods: Sequence[str] = MEMORIES) -> list[dict[str, Any]]:
    """Records of the copy task: some solve it, early or late; the last does not, and one of its seeds diverged."""
    rng = np.random.default_rng(2)
    made = []
    for m, name in enumerate([*methods, "chance"]):
        for seed in seeds:
            fields = None if name == "chance" else {"clip": 10.0}
            cell = spec(name, "copy", seed, fields=fields, task_fields={"also": ["length=40", "length=120"]})
            settings = [evaluation(cell, [0.0])["setting"] | {"length": n} for n in (0, 40, 120)]
            if name == "chance":
                made.append(record(cell, *(evaluation(cell, [v] * 20, setting=s)
                                           for v, s in zip((84.0, 320.0, 960.0), settings, strict=True))))  # fmt: skip
                continue
            late = 6 + 2 * m
            values = [84 * (1 - 1 / (1 + np.exp(-(k - late)))) + 84 * 0.7 ** max(k, 8) for k in range(1, 41)]
            values = [float(v * rng.lognormal(0, 0.3)) for v in values]
            if name == methods[-1]:
                values = [84 - 0.2 * k for k in range(40)]
                if seed == 1:
                    made.append(record(cell, curve=points([*values[:10], None], 125)))
                    continue
            ends = [values[-1], 3 * values[-1], 1000 * values[-1]]
            parts = [evaluation(cell, v * rng.lognormal(0, 0.2, 50), setting=s)
                     for v, s in zip(ends, settings, strict=True)]  # fmt: skip
            made.append(record(cell, *parts, curve=points(values, 125)))
    return made


def ablated(seeds: Iterable[int] = range(3)) -> list[dict[str, Any]]:
    """Records of an online task with a memory as it is and taken away, and an LSTM beside it."""
    rng = np.random.default_rng(3)
    ends = {"none": (0.85, 0.97), "zero": (0.5, 0.62), "frozen": (0.45, 0.6), "other": (0.3, 0.5)}
    made = []
    for seed in seeds:
        shift = 0.02 * rng.normal()
        for name, ablate, (second, last) in (*(("mann", k, v) for k, v in ends.items()), ("lstm", "none", (0.6, 0.75))):
            late = {} if ablate == "none" else {"ablate": ablate}
            cell = spec(name, "omniglot-online", seed, fields={"slots": 128, **late} if name == "mann" else {})
            means = [0.3, *(second + shift + (last - second) * k / 8 for k in range(9))]
            scores = evaluation(cell, np.mean(means) + 0.02 * rng.normal(size=50), by_instance=by_instance(means))
            more = {"diagnostics": diagnosed(0.8)} if (name, ablate) == ("mann", "none") else {}
            made.append(record(cell, scores, curve=points([0.2, 0.5, *means[-2:]], 500), **more))
    return made


def crowd(seeds: Iterable[int] = range(15)) -> list[dict[str, Any]]:
    """Over 2,000 records with learning curves: memories of several sizes online, at three numbers of classes."""
    rng = np.random.default_rng(5)
    made = []
    for seed in seeds:
        for way in (5, 10, 20):
            for m, name in enumerate(MEMORIES):
                for slots in (64, 128):
                    cell = spec(name, "omniglot-online", seed, fields={"slots": slots}, task_fields={"way": way})
                    means = [1 / way, *(1 - 1 / (1.5 + k + m / 3) - 0.01 * rng.random() for k in range(9))]
                    scores = np.clip(np.mean(means) + 0.05 * rng.normal(size=600), 0, 1)
                    rise = np.linspace(1 / way, means[-1], 40) + 0.02 * rng.normal(size=40)
                    parts = evaluation(cell, scores, by_instance=by_instance(means))
                    made.append(record(cell, parts, curve=points(list(np.clip(rise, 0, 1)), 250),
                                       params=1000 * (m + 1) * slots, cost={"train_cpu_s": 100.0 + m}))  # fmt: skip
    return [*made, *probed(seeds), *copied(seeds), *showcase(seeds)]
