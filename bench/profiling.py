"""What `bench profile` does: ops at their sizes against the roofs of this machine; a table, files and pictures."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import environment, hardware, measuring, profile_views, profiles, registry, roofs, sizes, timing, views
from bench.api import BenchError, Op
from bench.interface import threads_for
from bench.operations import Draw, dtype_of
from bench.roofs import Roofs
from bench.timing import Clock, Effort, Timing
from bench.training import device_of

OUT = Path("results") / "profiles"
FULL, QUICK = Effort(seconds=0.1, least=7), Effort(seconds=0.02, least=3)
"""For the samples of one row."""
ROOFS = Effort(seconds=0.3, least=7)
LONGEST_S = 1.0
"""A sweep that nobody asked for ends before a call of `eager` would take longer than this, hot and forward."""
SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the matrices whose product is a roof."""


@dataclass(frozen=True)
class Request:
    """What to profile, and how. sizes: values by field; settings: OP.FIELD=VALUE; variants: none for all."""

    ops: Sequence[str] = ()
    memory: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    sizes: dict[str, list[int]] = field(default_factory=dict)
    settings: Sequence[str] = ()
    variants: Sequence[str] = ()
    backward: bool = False
    quick: bool = False
    threads: int | None = None
    out: Path = OUT
    compare: Path | None = None
    picture: bool = True


@dataclass(frozen=True)
class Plan:
    """An op, where it is measured, and what does not fit or suit: one sentence each."""

    op: type[Op]
    points: list[Op]
    left_out: list[dict[str, Any]]
    footprints: dict[Op, measuring.Footprint]


def run(request: Request, as_json: bool = False, make_clock: Callable[..., Clock] = timing.clock_of) -> dict[str, Any]:
    """Profile; print the table; write a file an op and two pictures. The call as data.

    Raises:
        BenchError: something in the request is wrong, or nothing of it fits into memory.
    """
    out, err = views.console(stderr=as_json), views.console(stderr=True)
    old = profiles.read(request.compare) if request.compare else None
    device, threads = device_of(request.device), threads_for(1, request.threads)
    if old is not None:
        request = replace(request, ops=request.ops or (old["op"],))
    ops = chosen(request)
    if old is not None and (request.dtype != old["dtype"] or old["op"] not in {op.name for op in ops}):
        raise BenchError(f"{request.compare} is of {old['op']} in {old['dtype']}; profile that to compare with it")
    (dtype,) = {dtype_of(request.dtype, op) for op in ops}
    torch.set_num_threads(threads)
    cache = hardware.last_level_cache(device)
    plans = [plan(op, request, device, dtype, cache) for op in ops]
    if not any(p.points for p in plans):
        first = next(each for p in plans for each in p.left_out)
        raise BenchError(f"{plans[0].op.name} at {profiles.sizes_text(first['sizes'])} {first['why']}")
    err.print("measuring the roofs: copy, matrix product, empty launch")
    clock = make_clock(device, cache, threads)
    limits = roofs.measure(clock, device, dtype, cache, ROOFS, SIDE[device])
    made, paths = [], []
    with profile_views.progress(plans, steps(request), err) as tell:
        for each in plans:
            if each.points:
                profile = measure(each, request, device, threads, dtype, clock, limits, tell)
                path = profiles.path_of(request.out, hardware.slug(hardware.device_name(device)), each.op.name,
                                        request.dtype)  # fmt: skip
                profiles.write(path, profile)
                made.append(profile)
                paths.append(path)
    out.print(profile_views.rows_table(made))
    out.print(profile_views.roofs_text(limits, made[0]))
    left_out = [(p["op"], each) for p in made for each in p["left_out"]]
    left_out += [(p.op.name, each) for p in plans if not p.points for each in p.left_out]
    for name, each in left_out:
        words = ("left out:", name, profiles.sizes_text(each["sizes"]), each["variant"], each["why"])
        err.print(" ".join(filter(None, words)), soft_wrap=True)
    pictures = profile_views.draw(paths[0].parent, made[0]["dtype"], err) if request.picture else []
    for path in [*paths, *pictures]:
        out.print(str(path), soft_wrap=True)
    told: dict[str, Any] = {"profiles": made, "files": [str(p) for p in (*paths, *pictures)]}
    if old is not None:
        told["compared"] = [profile_views.comparison(old, new, out) for new in made if new["op"] == old["op"]]
    return told


def compare(old: Path, new: Path, as_json: bool = False) -> dict[str, Any]:
    """Compare two files; nothing is measured."""
    return {"compared": [profile_views.comparison(profiles.read(old), profiles.read(new), views.console(as_json))]}


# ----------------------------------------------------------------------------------------------------------------- plan


def chosen(request: Request) -> list[type[Op]]:
    """The ops asked for, each once: by name or pattern, of one memory, or all.

    Raises:
        BenchError: no such op, memory, or none that has a dtype or size asked for.
    """
    names = [n for pattern in request.ops for n in registry.match(registry.OPS, pattern)]
    registry.load()
    ops = [registry.OPS.entries[n] for n in dict.fromkeys(names or sorted(registry.OPS.entries))]
    if request.memory:
        known = sorted({m for op in registry.OPS.entries.values() for m in op.methods})
        if request.memory not in known:
            raise BenchError(registry.unknown("memory with ops", request.memory, known))
        ops = [op for op in ops if request.memory in op.methods]
        if not ops:
            raise BenchError(f"none of {', '.join(request.ops)} is an op of {request.memory}")
    if not names:  # of all ops, those that have the dtype
        ops = [op for op in ops if request.dtype in op.dtypes] or ops
    for name in request.sizes:
        if not any(name in op.__dataclass_fields__ for op in ops):
            raise BenchError(f"{', '.join(op.name for op in ops)} has no {name}, so --{name} has nothing to set")
    for wanted in request.variants:
        have = {v for op in ops for v in measuring.names_of(op)}
        if wanted not in have:
            raise BenchError(registry.unknown("variant", wanted, have))
    for setting in request.settings:
        owner = setting.partition(".")[0]
        if owner not in {op.name for op in ops}:
            raise BenchError(f"--set {setting} fits nothing that is profiled; write OP.FIELD=VALUE")
    return ops


def own_settings(op: str, request: Request) -> list[str]:
    """The settings of an op among those of a request, as "steps=20"."""
    return [s.partition(".")[2] for s in request.settings if s.partition(".")[0] == op]


def plan(op: type[Op], request: Request, device: str, dtype: torch.dtype, cache: int) -> Plan:
    """The sizes at which an op is measured; those that do not fit into memory are left out before anything is made."""
    settings = own_settings(op.name, request)
    made = Plan(op, [], [], {})
    for point in sizes.points(op, request.sizes, settings, dtype, cache, request.quick):
        need = measuring.footprint(point, dtype, request.backward and op.differentiable)
        # What is in the cache's place between cold calls and under the roof's copy, and results held against results.
        wanted, free = need.peak + 2 * need.data + 10 * cache, hardware.free_memory(device)
        if wanted > free:
            why = f"needs {profile_views.amount(wanted, 'B')}, of which {profile_views.amount(free, 'B')} are free"
            made.left_out.append({"sizes": numbers(point), "variant": "", "why": why})
            continue
        made.points.append(point)
        made.footprints[point] = need
    return made


def variants(op: type[Op], request: Request) -> list[str]:
    """Names of the variants to measure; a quick profile has none that take long to compile, unless asked to."""
    names = measuring.names_of(op)
    if request.variants:
        return [n for n in names if n in request.variants]
    return [n for n in names if not (request.quick and measuring.compiles(op, n))]


def steps(request: Request) -> Callable[[Plan], int]:
    """How many measurements a plan holds, for the progress bar."""
    return lambda p: len(p.points) * len(variants(p.op, request)) * len(passes(p.op, request))


def passes(op: type[Op], request: Request) -> list[str]:
    """Forward; with --backward also both passes together, where there is a gradient."""
    return ["forward", "both"] if request.backward and op.differentiable else ["forward"]


def numbers(op: Op) -> dict[str, float]:
    """The fields of an op, all of them numbers."""
    return {name: value for name, value in asdict(op).items() if isinstance(value, (int, float))}


# -------------------------------------------------------------------------------------------------------------- measure


def measure(p: Plan, request: Request, device: str, threads: int, dtype: torch.dtype, clock: Clock, limits: Roofs,
            tell: Callable[[str], None]) -> dict[str, Any]:  # fmt: skip
    """The profile of one op."""
    started, before = now(), hardware.state(device)
    rows: list[dict[str, Any]] = []
    left_out, names = list(p.left_out), []
    for name in variants(p.op, request):
        why = measuring.unsuited(p.op, name, request.dtype, device)
        if why:
            left_out.append({"sizes": {}, "variant": name, "why": why})
        else:
            names.append(name)
    asked = p.op.swept in request.sizes or p.op.swept in sizes.named(own_settings(p.op.name, request))
    previous: Op | None = None
    torch._dynamo.reset()  # else the sizes of earlier ops count against the number of times that one may be compiled
    for point in p.points:
        if previous is not None and not asked and too_slow(previous, point, rows):
            why = f"would take about {LONGEST_S:g} s a call or longer; ask for it with --{p.op.swept}"
            left_out.append({"sizes": numbers(point), "variant": "", "why": why})
            continue
        previous = point
        for name in names:
            why = ""
            for each in passes(p.op, request):
                tell(f"{p.op.name} {profiles.sizes_text(numbers(point))} {name}"
                     + (", compiling" if measuring.compiles(p.op, name) else ""))  # fmt: skip
                if why:
                    continue
                try:
                    rows += measure_variant(point, name, each, p, device, dtype, clock, limits, request.quick)
                except BenchError as problem:
                    why = str(problem)
            if why:
                left_out.append({"sizes": numbers(point), "variant": name, "why": why})
            gc.collect()
    env = environment.describe(device, threads)
    return {
        "schema": profiles.SCHEMA,
        "op": p.op.name,
        "version": p.op.version,
        "source": p.op.source,
        "dtype": request.dtype,
        "device": {"kind": device, "name": hardware.device_name(device)},
        "env": env | {"precision": request.dtype},
        "machine": {"cache": limits.cache, "before": before, "after": hardware.state(device)},
        "roofs": {
            "bandwidth": limits.bandwidth,
            "compute": limits.compute,
            "launch": limits.launch,
            "launch_cold": limits.launch_cold,
            "theoretical_bandwidth": hardware.theoretical_bandwidth(device),
        },
        "rows": rows,
        "left_out": left_out,
        "started": started,
        "finished": now(),
    }


def measure_variant(point: Op, name: str, each: str, p: Plan, device: str, dtype: torch.dtype, clock: Clock,
                    limits: Roofs, quick: bool) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows of one variant at one size: hot and cold, and on an accelerator replayed from a graph as well.

    Raises:
        BenchError: the variant does not run here, or does not agree with the reference.
    """
    backward, draw = each == "both", Draw(dtype, device)
    variant = measuring.variant(point, name)
    first = measuring.check(point, variant, draw, backward)
    inputs = point.inputs(draw)
    forward = measuring.forward(variant.function, inputs)
    call = measuring.both(point, variant.function, inputs, draw.again(1)) if backward else forward
    compiled = measuring.compiles(p.op, name)
    cost = measuring.cost(call, device, compiled)
    work = point.least_both(dtype.itemsize) if backward else point.least(dtype.itemsize)
    footprint, effort = p.footprints[point].data, QUICK if quick else FULL
    for replay in (False, True) if device == "cuda" else (False,):
        timed, launches = (timing.replayed(call), 1) if replay else (call, cost.launches)
        hot = clock.hot(timed, effort)
        for cold in (False, True):
            if cold and alike(footprint, hot, limits):
                continue
            t = clock.cold(timed, effort) if cold else hot
            verdict, roof, share = roofs.judge(t, work, 0 if replay else launches, footprint, limits, cold)
            yield {
                "sizes": numbers(point),
                "variant": name,
                "replay": replay,
                "pass": each,
                "cache": "cold" if cold else "hot",
                "seconds": {k: getattr(t, k) for k in ("median", "q1", "q3", "low", "high")},
                "n": t.n,
                "calls": t.calls,
                "work": work._asdict(),
                "launches": launches,
                "allocated": cost.allocated,
                "peak": cost.peak,
                "footprint": footprint,
                "verdict": verdict,
                "roof": roof,
                "share": share,
                "compile_s": first if compiled else None,
            }


def too_slow(previous: Op, point: Op, rows: list[dict[str, Any]]) -> bool:
    """Whether a call at this point would take longer than `LONGEST_S`, if time grows as the size that is swept does."""
    times = [row["seconds"]["median"] for row in rows if row["sizes"] == numbers(previous) and row["variant"] == "eager"
             and row["pass"] == "forward" and row["cache"] == "hot"]  # fmt: skip
    growth = getattr(point, point.swept) / getattr(previous, previous.swept)
    return bool(times) and growth * min(times) > LONGEST_S


def alike(footprint: int, hot: Timing, limits: Roofs) -> bool:
    """Whether a cold call cannot differ from a hot one, so that it is not timed.

    Either nothing of a footprint so large is in the cache when the next call begins, or to fetch all of it takes less
    than a hundredth of the call.
    """
    return footprint >= sizes.BEYOND * limits.cache or footprint / limits.bandwidth < hot.median / 100


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
