"""Profiles: clocks, roofs, verdicts, files, comparisons, and `bench profile` itself."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shell import Said, bench, refused, toys  # noqa: F401

from bench import (
    hardware,
    measuring,
    profile_plots,
    profile_tables,
    profile_views,
    profiles,
    profiling,
    registry,
    roofs,
    timing,
    views,
)
from bench.api import BenchError, Work
from bench.refresh import refresh
from bench.roofs import Roofs, judge
from bench.slopes import Slope, slope
from bench.timing import CPUClock, CUDAClock, Effort, Timing, summarise

Capture = pytest.CaptureFixture[str]
MIB = 2**20
ROOFS = Roofs(bandwidth=1e10, compute=1e11, launch=1e-6, launch_cold=1e-5, cache=32 * MIB)


def timed(seconds: float, noise: float = 0.02, n: int = 20) -> Timing:
    """A timing of so many seconds, whose interquartile range is this part of it."""
    half = seconds * noise / 2
    return Timing(seconds, seconds - half, seconds + half, seconds - 2 * half, seconds + 2 * half, n)


# --------------------------------------------------------------------------------------------------------------- clocks


@dataclass
class FakeGPU:
    """A device whose time is told, not measured: every call of `kernel` takes as long as the next of `times`."""

    times: list[float]
    now: float = 0.0
    waits: int = 0
    log: list[str] = field(default_factory=list)

    def kernel(self) -> None:
        self.log.append("kernel")
        self.now += self.times.pop(0) if self.times else 1.0

    def synchronize(self) -> None:
        self.log.append("wait")

    def event(self) -> Any:
        gpu = self

        class Event:
            def record(self) -> None:
                self.at = gpu.now

            def elapsed_time(self, end: Any) -> float:
                return 1e3 * (end.at - self.at)

        return Event()


def gpu_clock(gpu: FakeGPU) -> CUDAClock:
    clock = CUDAClock(MIB, gpu.event, gpu.synchronize, device="cpu")
    clock._flush = lambda: gpu.log.append("flush")  # type: ignore[method-assign]
    return clock


def test_events_time_single_calls_and_keep_every_sample() -> None:
    gpu = FakeGPU([50.0, 2.0, 1.0, 1.0, 9.0, 1.0, 3.0, 1.0, 1.0])  # the first warms up, the second sets the number
    t = gpu_clock(gpu).hot(gpu.kernel, Effort(seconds=0.1, least=7))
    assert (t.n, t.calls) == (7, 1)
    assert (t.low, t.median, t.high) == (1.0, 1.0, 9.0)
    assert "flush" not in gpu.log


def test_a_cold_call_follows_a_flush_and_waits_for_it() -> None:
    gpu = FakeGPU([1.0] * 20)
    gpu_clock(gpu).cold(gpu.kernel, Effort(0.1, 3))
    assert gpu.log[1:] == ["flush", "wait", "kernel", "wait"] * 4


def test_a_quick_call_is_sampled_often_but_not_for_ever() -> None:
    gpu = FakeGPU([1e-6] * 10_000)
    assert gpu_clock(gpu).hot(gpu.kernel, Effort(0.1, 7)).n == timing.MOST


def test_the_cpu_clock_times_short_calls_in_blocks_and_slow_ones_singly() -> None:
    clock, counts = CPUClock(2**16), {"short": 0, "slow": 0}

    def short() -> None:
        counts["short"] += 1

    def slow() -> None:
        counts["slow"] += 1
        sum(range(60_000))

    t = clock.hot(short, Effort(0.01, 3))
    assert t.n == timing.BLOCKS
    assert t.calls > 10
    assert counts["short"] >= t.n * t.calls
    t = clock.hot(slow, Effort(0.001, 5))
    assert (t.n, t.calls) == (5, 1)
    assert 0 < t.low <= t.q1 <= t.median <= t.q3 <= t.high


def test_the_cpu_clock_fills_the_cache_before_each_cold_call() -> None:
    clock = CPUClock(2**16)
    clock._other.zero_()
    seen: list[int] = []
    t = clock.cold(lambda: seen.append(int(clock._other[-1])), Effort(0.0, 5))
    assert t.n == 5
    assert seen == list(range(1, len(seen) + 1))
    assert clock._other.nbytes == 2 * 2**16


def test_a_summary_drops_nothing() -> None:
    t = summarise([1.0, 2.0, 3.0, 4.0, 100.0])
    assert t == Timing(3.0, 2.0, 4.0, 1.0, 100.0, 5, 1)
    assert t.noise == pytest.approx(2 / 3)
    assert summarise([2.0])[:6] == (2.0, 2.0, 2.0, 2.0, 2.0, 1)
    assert math.isinf(Timing(0, 0, 0, 0, 0, 3).noise)


# ---------------------------------------------------------------------------------------------------------------- roofs


@pytest.mark.long
def test_the_copy_roof_is_numpy_s_within_a_factor_of_two() -> None:
    """Medians of alternating runs, so that what else the machine does strikes both."""
    size = 64 * MIB
    found, numpys = [], []
    a, b = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    clock = CPUClock(size // 4, 1)
    for _ in range(5):
        measured = roofs.measure(clock, "cpu", torch.float32, size // 4, Effort(0.1, 5), side=64)
        found.append(measured.bandwidth)
        numpys.append(2 * size / clock.hot(lambda: np.copyto(b, a), Effort(0.1, 5)).median)
    assert 0.5 < np.median(found) / np.median(numpys) < 2


def test_roofs_are_made_of_what_the_clock_says() -> None:
    cache, seconds = 2**20, itertools.count(1)

    class Told:
        def hot(self, call: Callable[[], object], effort: Effort) -> Timing:
            call()
            return timed(next(seconds) / 1000)

        cold = hot

    measured = roofs.measure(Told(), "cpu", torch.float64, cache, Effort(0.1, 5), side=8)
    assert measured.bandwidth == pytest.approx(2 * 4 * cache / 0.001)
    assert measured.compute == pytest.approx(2 * 8**3 / 0.002)
    assert (measured.launch, measured.launch_cold, measured.cache) == (0.003 / roofs.RUN, 0.004, cache)


BIG, SMALL = 256 * MIB, MIB
VERDICTS = {
    # seconds, bytes, operations, launches, footprint, cold -> verdict, roof, share
    "at the bandwidth": (0.02, 2e8, 1e6, 3, BIG, False, "bandwidth-bound", "bandwidth", 1.0),
    "at half of it": (0.04, 2e8, 1e6, 3, BIG, False, "bandwidth-bound", "bandwidth", 0.5),
    "beyond it, as a read-only op may be": (0.015, 2e8, 1e6, 3, BIG, False, "bandwidth-bound", "bandwidth", 4 / 3),
    "far from every roof": (1.0, 2e8, 1e6, 3, BIG, False, "ambiguous", "bandwidth", 0.02),
    "at the arithmetic": (0.02, 1e7, 1.8e9, 3, BIG, False, "compute-bound", "compute", 0.9),
    "two roofs alike": (0.02, 1.8e8, 1.7e9, 3, BIG, False, "ambiguous", "bandwidth", 0.9),
    "many launches": (50e-6, 1e5, 1e5, 40, SMALL, False, "launch-bound", "launch", 0.8),
    "more launches than there was time for": (30e-6, 1e5, 1e5, 40, SMALL, False, "ambiguous", "launch", 4 / 3),
    "one launch": (1.5e-6, 1e3, 1e3, 1, 1000, False, "launch-bound", "launch", 2 / 3),
    "a replayed graph": (1.5e-6, 1e3, 1e3, 0, 1000, False, "cache-resident", "compute", 1 / 150),
    "a replayed graph, cold": (2e-5, 4e4, 1e3, 0, 1000, True, "bandwidth-bound", "bandwidth", 0.2),
    "in the cache": (1e-3, 1e6, 1e6, 3, SMALL, False, "cache-resident", "compute", 0.01),
    "faster than memory could, in the cache": (5e-5, 1e6, 1e6, 10, SMALL, False, "cache-resident", "launch", 0.2),
    "arithmetic in the cache": (1e-3, 1e6, 8e7, 10, SMALL, False, "compute-bound", "compute", 0.8),
    "the same, cold": (2e-4, 1e6, 1e6, 10, SMALL, True, "bandwidth-bound", "bandwidth", 0.5),
    "a cold launch": (2e-5, 1e3, 1e3, 2, 1000, True, "launch-bound", "launch", 11 / 20),
    "partly in the cache": (0.006, 5e7, 1e6, 3, 48 * MIB, False, "ambiguous", "bandwidth", 5 / 6),
    "partly in the cache, cold": (0.006, 5e7, 1e6, 3, 48 * MIB, True, "bandwidth-bound", "bandwidth", 5 / 6),
}  # fmt: skip


@pytest.mark.parametrize("case", VERDICTS)
def test_verdict(case: str) -> None:
    seconds, moved, flops, launches, footprint, cold, verdict, roof, share = VERDICTS[case]
    work = Work(int(moved) // 2, int(moved) // 2, int(flops))
    found = judge(timed(seconds), work, launches, footprint, ROOFS, cold)
    assert found[:2] == (verdict, roof)
    assert found[2] == pytest.approx(share, rel=0.02)


def test_noise_and_few_samples_are_ambiguous() -> None:
    work = Work(10**8, 10**8)
    assert judge(timed(0.02), work, 3, BIG, ROOFS, False)[0] == "bandwidth-bound"
    assert judge(timed(0.02, noise=0.6), work, 3, BIG, ROOFS, False)[0] == "ambiguous"
    assert judge(timed(0.02, n=2), work, 3, BIG, ROOFS, False)[0] == "ambiguous"


# ---------------------------------------------------------------------------------------------------------------- files


def row(seconds: float = 1e-3, noise: float = 0.02, **changes: Any) -> dict[str, Any]:
    """A row of a profile."""
    t = timed(seconds, noise)
    return {
        "sizes": {"batch": 16, "slots": 128}, "variant": "eager", "replay": False, "pass": "forward", "cache": "hot",
        "seconds": {k: getattr(t, k) for k in ("median", "q1", "q3", "low", "high")}, "n": 20, "calls": 4,
        "work": {"read": 1000, "written": 500, "products": 10, "others": 5}, "launches": 3, "allocated": 2000,
        "peak": 1500, "footprint": 1500, "verdict": "cache-resident", "roof": "launch", "share": 0.2, "compile_s": None,
    } | changes  # fmt: skip


def profile(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A whole profile."""
    return {
        "schema": 1, "op": "content", "version": 1, "source": "me", "dtype": "float32",
        "device": {"kind": "cpu", "name": "some CPU, 2 cores"},
        "env": {"commit": "c" * 40, "dirty": False, "source_sha256": "5" * 64, "torch": "2.13.0", "threads": 2},
        "machine": {"cache": 32 * MIB, "before": {"load": 0.1}, "after": {"mhz": 3000}},
        "roofs": {"bandwidth": 1e10, "compute": 1e11, "launch": 1e-6, "launch_cold": 1e-5,
                  "theoretical_bandwidth": None},
        "rows": list(rows) or [row()],
        "left_out": [{"sizes": {"slots": 10**6}, "variant": "", "why": "needs 1 TiB"}],
        "started": "2026-01-01T00:00:00Z", "finished": "2026-01-01T00:01:00Z",
    } | changes  # fmt: skip


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = profiles.path_of(tmp_path, "some-cpu", "content", "float32")
    made = profile(row(), row(2e-3, cache="cold"))
    profiles.write(path, made)
    assert path == tmp_path / "some-cpu" / "content.json"
    assert profiles.read(path) == made
    text = path.read_text()
    assert sum(line.lstrip().startswith('{"allocated"') for line in text.splitlines()) == 2  # a line each: diffs read
    profiles.write(path, profile(left_out=[], rows=[]))
    assert profiles.read(path)["rows"] == []
    assert list(path.parent.iterdir()) == [path]
    assert profiles.path_of(tmp_path, "d", "content", "float64").name == "content-float64.json"


def broken(change: Callable[[Any], object]) -> Any:
    made = profile()
    change(made)
    return made


def put(*keys: Any) -> Callable[[Any], object]:
    """Set made[keys[0]]...[keys[-2]] to the last of them."""

    def change(made: Any) -> None:
        *path, last, value = keys
        for key in path:
            made = made[key]
        made[last] = value

    return change


HOSTILE = {
    "not an object": ([], "no schema number"),
    "no schema": (broken(lambda p: p.pop("schema")), "no schema number"),
    "true as schema": (broken(put("schema", True)), "no schema number"),
    "newer schema": (broken(put("schema", 2)), "schema 2, newer than this version's 1; upgrade"),
    "no rows": (broken(lambda p: p.pop("rows")), "rows is missing"),
    "rows of text": (broken(put("rows", ["fast"])), r"rows\[0\] is 'fast'"),
    "unknown key": (broken(put("more", 1)), "more is unknown"),
    "time as text": (broken(put("rows", 0, "seconds", "median", "soon")), "median is 'soon'"),
    "no time": (broken(put("rows", 0, "seconds", "low", 0)), "times that are not in order"),
    "times out of order": (broken(put("rows", 0, "seconds", "q3", 1e-9)), "times that are not in order"),
    "negative bytes": (broken(put("rows", 0, "allocated", -1)), "counts that cannot be"),
    "no samples": (broken(put("rows", 0, "n", 0)), "counts that cannot be"),
    "endless count": (broken(put("rows", 0, "work", "read", 10**30)), "counts that cannot be"),
    "endless size": (broken(put("rows", 0, "sizes", "slots", 10**30)), "counts that cannot be"),
    "another pass": (broken(put("rows", 0, "pass", "sideways")), "the pass 'sideways'"),
    "another verdict": (broken(put("rows", 0, "verdict", "excellent" * 99)), "the verdict 'excellent"),
    "no roof": (broken(put("roofs", "bandwidth", 0)), "a roof is not above zero"),
    "negative roof": (broken(put("roofs", "theoretical_bandwidth", -1.0)), "a roof is not above zero"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_profile_is_refused_in_a_sentence(case: str, tmp_path: Path) -> None:
    content, said = HOSTILE[case]
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(BenchError, match=said) as caught:
        profiles.read(path)
    assert len(str(caught.value)) < 300
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "not a profile"), (b"\xff\xfe", "not a profile"), (b"{" * 100_000, "not a profile"),
        (b'{"schema": NaN}', "it holds NaN"), (b'{"schema": ' + b"9" * 5000 + b"}", "it holds 999"),
        (b'"\\ud800"', "not a profile"), (b"\x80\x04K\x01.", "not a profile"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(text: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_bytes(text)
    with pytest.raises(BenchError, match=said):
        profiles.read(tmp_path / "p.json")
    with pytest.raises(BenchError, match="cannot be read: No such file"):
        profiles.read(tmp_path / "none.json")


# -------------------------------------------------------------------------------------------------------------- compare

CHANGES = {
    # old, its noise, new, its noise -> change
    "half the time": (2.0, 0.05, 1.0, 0.05, "faster"),
    "twice the time": (1.0, 0.05, 2.0, 0.05, "slower"),
    "within the smaller noise": (1.0, 0.05, 1.04, 0.2, "same"),
    "nothing changed": (1.0, 0.0, 1.0, 0.0, "same"),
    "half a percent without noise": (1.0, 0.0, 1.005, 0.0, "same"),
    "three percent without noise": (1.0, 0.0, 1.03, 0.0, "slower"),
    "between the noises": (1.0, 0.05, 1.1, 0.2, "ambiguous"),
    "beyond both": (1.0, 0.05, 1.26, 0.2, "slower"),
    "much noise": (1.0, 0.9, 1.8, 0.9, "same"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_change(case: str) -> None:
    old, old_noise, new, new_noise, expected = CHANGES[case]
    assert profiles.change(row(old, old_noise), row(new, new_noise)) == expected
    back = {"faster": "slower", "slower": "faster"}.get(expected, expected)
    assert profiles.change(row(new, new_noise), row(old, old_noise)) == back


def test_two_samples_cannot_tell() -> None:
    assert profiles.change(row(1.0, n=2), row(2.0)) == "ambiguous"


def test_rows_are_matched_by_size_pass_variant_and_cache() -> None:
    old = profile(row(2e-3), row(cache="cold"), row(variant="fused"))
    new = profile(row(1e-3), row(sizes={"batch": 16, "slots": 256}), row(5e-3, cache="cold"))
    found = profiles.compare(old, new)
    assert [(c.key, c.change) for c in found] == [
        (("slots=128 batch=16", "forward", "eager", "hot"), "faster"),
        (("slots=128 batch=16", "forward", "eager", "cold"), "slower"),
    ]
    assert found[0].ratio == pytest.approx(0.5)


@pytest.mark.parametrize(("key", "other"), [("op", "read"), ("version", 2), ("dtype", "float64")])
def test_profiles_of_different_things_are_not_compared(key: str, other: Any) -> None:
    with pytest.raises(BenchError, match=f"different {key}s cannot be compared: .* and {other}"):
        profiles.compare(profile(), profile(**{key: other}))
    with pytest.raises(BenchError, match="no row in common"):
        profiles.compare(profile(), profile(row(variant="fused")))


def test_different_machines_are_named(capsys: Capture) -> None:
    old, new = profile(), profile(row(9e-4))
    new["device"]["name"], new["env"]["threads"] = "another CPU", 1
    new["env"]["memory"] = "THP_MEM_ALLOC_ENABLE=1"
    told = profile_views.comparison(old, new, views.console())
    assert told["differs"] == (
        "device: some CPU, 2 cores against another CPU; threads: 2 against 1; "
        "memory: as the system has it against THP_MEM_ALLOC_ENABLE=1"
    )
    assert "different machines" in capsys.readouterr().out
    profile_views.comparison(old, profile(), views.console())
    said = capsys.readouterr().out
    assert "different machines" not in said
    assert "0 faster, 0 slower, 1 same, 0 ambiguous" in said


# ------------------------------------------------------------------------------------------------------------- pictures


def swept(exponent: float, sizes: tuple[int, ...] = (64, 256, 1024, 4096, 16384)) -> list[dict[str, Any]]:
    """Rows whose time is a power of the slots."""
    return [row(1e-6 * n**exponent, sizes={"batch": 16, "slots": n}, peak=100 * n, footprint=n) for n in sizes]


def test_a_slope_is_the_exponent_of_the_largest_sizes() -> None:
    sizes = [64 * 4**i for i in range(6)]
    launch_bound = [max(1.0, n / 1024) for n in sizes]
    found = slope(sizes, [1.0 * n**2 for n in sizes])
    assert found.value == pytest.approx(2)
    assert found.half == pytest.approx(0, abs=1e-6)
    assert slope(sizes, launch_bound, profile_plots.REACH).value == pytest.approx(1)  # the flat part is left out
    assert slope(sizes[:2], [1, 2]).text == "0.50"
    assert slope(sizes[:1], [1]).text == ""
    assert Slope(-0.004, 0.1).text == "0.00 ± 0.10"
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(300):
        noisy = [n**1.3 * math.exp(0.1 * rng.normal()) for n in sizes]
        fit = slope(sizes, noisy, profile_plots.REACH)
        inside += abs(fit.value - 1.3) <= fit.half
    assert 0.92 < inside / 300 < 0.98


def test_pictures_are_whole_and_the_same_each_time(tmp_path: Path) -> None:
    made = [profile(*swept(1.0), *(r | {"variant": "fused"} for r in swept(0.5))), profile(*swept(2.0), op="links")]
    first = {p.name: p.read_bytes() for p in profile_plots.save(tmp_path, made)}
    assert set(first) == {"roofline.png", "scaling-time.png", "scaling-memory.png"}
    assert all(content.startswith(b"\x89PNG") for content in first.values())
    assert {p.name: p.read_bytes() for p in profile_plots.save(tmp_path, copy.deepcopy(made))} == first
    assert [p.name for p in profile_plots.save(tmp_path, [profile(dtype="float64")])] == ["roofline-float64.png"]
    assert profile_plots.save(tmp_path, []) == []


def test_a_damaged_profile_costs_a_picture_its_line_only(tmp_path: Path, capsys: Capture) -> None:
    profiles.write(tmp_path / "content.json", profile(*swept(1.0)))
    (tmp_path / "links.json").write_text("{}")
    assert len(profile_views.draw(tmp_path, "float32", views.console(stderr=True))) == 3
    assert "links.json is not a profile" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- bench profile


@pytest.mark.parametrize(
    ("footprint", "seconds", "same"),
    [(4 * 32 * MIB, 1e-3, True), (4 * 32 * MIB - 1, 1e-3, False), (10**6, 1.1e-2, True), (10**6, 0.9e-2, False)],
)
def test_a_cold_call_is_left_out_where_it_cannot_differ(footprint: int, seconds: float, same: bool) -> None:
    """Four caches full, or fetched in a hundredth of the time: 1 MB at 10 GB/s takes 0.1 ms."""
    assert profiling.alike(footprint, timed(seconds), ROOFS) is same


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, toys: None) -> None:  # noqa: F811
    """A machine whose cache is so small that a sweep is over at once."""
    monkeypatch.setattr(hardware, "last_level_cache", lambda device: 2**14)
    monkeypatch.setattr(profiling, "SIDE", {"cpu": 32})
    monkeypatch.setattr(profiling, "FULL", Effort(0.001, 3))
    monkeypatch.setattr(profiling, "QUICK", Effort(0.0005, 3))
    monkeypatch.setattr(profiling, "ROOFS", Effort(0.001, 3))


def run(capsys: Capture, *words: object) -> Said:
    return bench(capsys, "profile", *words, "--out", "profiles", "--threads", 1)


def made(op: str, suffix: str = "") -> dict[str, Any]:
    (path,) = Path("profiles").glob(f"*/{op}{suffix}.json")
    return profiles.read(path)


@pytest.mark.usefixtures("tiny")
def test_a_profile_ends_with_a_table_files_and_pictures(capsys: Capture) -> None:
    said = run(capsys, "content", "read", "--slots", "8,16..64", "--heads", 2, "--batch", 2, "--backward",
               "--variant", "eager")  # fmt: skip
    assert said.code == 0, said.err
    assert "roofs of" in said.out
    assert "left out" not in said.err
    names = {p.name for p in Path("profiles").glob("*/*")}
    assert names == {"content.json", "read.json", "roofline.png", "scaling-time.png", "scaling-memory.png"}
    p = made("content")
    assert {(r["sizes"]["slots"], r["sizes"]["heads"], r["sizes"]["batch"]) for r in p["rows"]} == {
        (8, 2, 2), (16, 2, 2), (64, 2, 2)
    }  # fmt: skip
    assert {r["pass"] for r in p["rows"]} == {"forward", "both"}
    # On a busy machine all calls may be so slow that cold ones are alike.
    assert {"hot"} <= {r["cache"] for r in p["rows"]} <= {"hot", "cold"}
    assert p["env"]["threads"] == 1
    assert p["env"]["precision"] == "float32"
    assert p["roofs"]["bandwidth"] > 0
    forward, both = (next(r for r in p["rows"] if r["pass"] == each) for each in ("forward", "both"))
    op = registry.OPS.entries["content"](slots=8, heads=2, batch=2)
    assert forward["work"] == op.least(4)._asdict()
    assert both["work"] == op.least_both(4)._asdict()
    assert both["launches"] > forward["launches"] > 1
    assert {r["n"] >= 3 for r in p["rows"]} == {True}


@pytest.mark.long
@pytest.mark.usefixtures("tiny")
def test_quick_takes_every_op_at_two_sizes_and_compiles_nothing(capsys: Capture) -> None:
    said = run(capsys, "--quick", "--json", "--no-picture")
    assert said.code == 0, said.err
    told = said.json
    by_op = {p["op"]: p for p in told["profiles"]}
    assert set(by_op) == set(registry.OPS.entries)
    for name, p in by_op.items():
        assert {r["variant"] for r in p["rows"]} >= {"eager"}
        assert not {r["variant"] for r in p["rows"] if measuring.compiles(registry.OPS.entries[name], r["variant"])}
        assert 1 <= len({profiles.sizes_text(r["sizes"]) for r in p["rows"]}) <= 2, name
    assert len(told["files"]) == len(by_op)
    assert {r["variant"] for r in by_op["attention-read"]["rows"]} == {"eager", "fused"}


@pytest.mark.usefixtures("tiny")
def test_a_quick_look_leaves_the_results_alone(capsys: Capture) -> None:
    assert bench(capsys, "profile", "plug-scale", "--no-picture", "--quick", "--threads", 1).code == 0
    assert list(Path("out", "profiles").glob("*/plug-scale.json"))
    assert not Path("results").exists()


@pytest.mark.usefixtures("tiny")
def test_an_op_of_a_plugin_is_profiled_and_a_wrong_variant_is_not(capsys: Capture) -> None:
    said = run(capsys, "plug-scale", "--no-picture", "--quick")
    assert said.code == 0, said.err
    p = made("plug-scale")
    assert {r["variant"] for r in p["rows"]} == {"eager", "fused"}
    why = {x["variant"]: x["why"] for x in p["left_out"]}
    assert set(why) == {"wrong", "abroad"}
    assert "disagrees with the reference by 5.0e-03" in why["wrong"]
    assert why["abroad"] == "works on cuda only"
    assert re.search(r"left out: plug-scale slots=64 .* wrong disagrees", said.err)
    assert said.err.count("left out: plug-scale abroad works on cuda only") == 1
    assert run(capsys, "plug-scale", "--no-picture", "--quick", "--dtype", "float64").code == 0
    assert {r["variant"] for r in made("plug-scale", "-float64")["rows"]} == {"eager"}
    assert bench(capsys, "list", "plug-scale", "--json").json["kind"] == "op"


@pytest.mark.usefixtures("tiny")
def test_memory_selects_ops_and_settings_reach_them(capsys: Capture) -> None:
    said = run(capsys, "--memory", "ntm", "--quick", "--json", "--no-picture", "--slots", 16, "--set",
               "ntm-scan.steps=3", "--set", "shift-sharpen.reach=2")  # fmt: skip
    assert said.code == 0, said.err
    by_op = {p["op"]: p["rows"][0]["sizes"] for p in said.json["profiles"]}
    assert set(by_op) == {name for name, op in registry.OPS.entries.items() if "ntm" in op.methods}
    assert by_op["ntm-scan"]["steps"] == 3
    assert by_op["shift-sharpen"]["reach"] == 2


@pytest.mark.usefixtures("tiny")
def test_compare_measures_against_a_file_or_reads_two(capsys: Capture) -> None:
    first = run(capsys, "usage", "--slots", 16, "--variant", "eager", "--no-picture")
    assert first.code == 0, first.err
    (path,) = Path("profiles").glob("*/usage.json")
    old = path.rename("old.json")
    again = bench(capsys, "profile", "--compare", old, "--slots", 16, "--variant", "eager", "--no-picture", "--out",
                  "profiles", "--threads", 1, "--json")  # fmt: skip
    assert again.code == 0, again.err
    # Whether a cold call can differ from a hot one is measured, so that one of the two may have no cold row.
    caches = [{row["cache"] for row in profiles.read(each)["rows"]} for each in (Path("old.json"), path)]
    assert len(again.json["compared"][0]["rows"]) == len(caches[0] & caches[1])
    both = bench(capsys, "profile", "--compare", "old.json", "--compare", path, "--json")
    assert both.code == 0, both.err
    assert both.json["compared"][0]["counts"] == again.json["compared"][0]["counts"]
    same = bench(capsys, "profile", "--compare", path, "--compare", path)
    assert "0 faster, 0 slower" in same.out


REFUSED = {
    "op": (("contnt",), ["no op 'contnt'", "did you mean content"]),
    "op far off": (("qqq",), ["no op 'qqq'", "there are: .*allocation", "bench list ops"]),
    "pattern": (("qqq*",), ["no op matches"]),
    "memory": (("--memory", "ntmm"), ["no memory with ops 'ntmm'", "did you mean ntm"]),
    "op of another memory": (("links", "--memory", "ntm"), ["none of links is an op of ntm"]),
    "dtype of an op": (("links", "--dtype", "bfloat16"), ["links has the dtypes float32, float64, not 'bfloat16'"]),
    "dtype": (("--dtype", "int8"), ["has the dtypes", "not 'int8'"]),
    "slots": (("content", "--slots", "many"), ["--slots takes sizes as 128, 64,256,1k or 64..1M, not 'many'"]),
    "range": (("content", "--slots", "64..100"), ["--slots 64..100", "doubles or quadruples"]),
    "no slots": (("content", "--slots", "0"), ["--slots takes sizes"]),
    "heads that do not fit": (("attention-read", "--heads", "7"), ["multiple of heads, not 40 of 7"]),
    "a size that it lacks": (("allocation", "--heads", "2"), ["allocation has no heads, so --heads"]),
    "setting": (("content", "--set", "content.slot=4"), ["no field of content 'slot'", "did you mean slots"]),
    "setting of another": (("content", "--set", "links.slots=4"), ["--set links.slots=4 fits nothing"]),
    "setting without a value": (("content", "--set", "content.slots"), ["FIELD=VALUE"]),
    "variant": (("content", "--variant", "fuse"), ["no variant 'fuse'"]),
    "device": (("content", "--device", "tpu"), ["cpu, cuda or auto, not 'tpu'"]),
    "cuda": (("content", "--device", "cuda"), ["no CUDA device here"]),
    "threads": (("content", "--threads", "0"), ["at least 1"]),
    "too large": (("links", "--slots", "1M"), ["links at slots=1M", "needs .* TiB, of which .* GiB are free"]),
    "no file": (("--compare", "none.json"), ["none.json cannot be read: No such file"]),
    "three files": (("--compare", "a", "--compare", "b", "--compare", "c"), ["one file, or two files and no op"]),
    "file of another op": (("links", "--compare", "content.json"), ["content.json is of content in float32"]),
    "a method that is not trained": (("--trace", "--memory", "chance"), ["chance is not trained"]),
    "setting of a trace": (("--trace", "--set", "ntm.slots=4"), ["fits nothing here", "mann on glyphs-online"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("tiny")
def test_bad_input_is_one_sentence(case: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    profiles.write(Path("content.json"), profile())
    words, patterns = REFUSED[case]
    refused(bench(capsys, "profile", *words, "--out", "profiles"), *patterns)
    assert not Path("profiles").exists()


@pytest.mark.usefixtures("tiny")
def test_of_a_sweep_only_what_does_not_fit_is_left_out(capsys: Capture) -> None:
    said = run(capsys, "links", "--slots", "16,1M", "--variant", "eager", "--no-picture")
    assert said.code == 0, said.err
    assert "left out: links slots=1M" in said.err
    p = made("links")
    assert {r["sizes"]["slots"] for r in p["rows"]} == {16}
    assert [x["sizes"]["slots"] for x in p["left_out"]] == [2**20]


@pytest.mark.usefixtures("tiny")
def test_a_folder_that_cannot_be_written_is_said(capsys: Capture) -> None:
    Path("taken").write_text("")
    refused(bench(capsys, "profile", "usage", "--quick", "--slots", 8, "--out", "taken"), "cannot write taken")


# ------------------------------------------------------------------------------------------------------------- hardware


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.slug("AMD EPYC(tm) 7B13, 2 cores") == "amd-epyc-tm-7b13-2-cores"
    assert hardware.slug("…") == "device"
    assert hardware.last_level_cache("cpu") >= 2**15
    assert hardware.free_memory("cpu") > 0
    assert "load" in hardware.state("cpu")
    monkeypatch.setattr(hardware, "_output", lambda *command: "550.1, 1980, 2619, 41, 120.5, 0x0000000000000001")
    assert hardware.state("cuda")["temperature.gpu"] == "41"
    monkeypatch.setattr(hardware, "_output", lambda *command: "")
    assert hardware.state("cuda") == {}


def test_a_container_s_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"/proc/meminfo": ["MemAvailable: 8000 kB"], "/sys/fs/cgroup/memory.max": ["5000"],
            "/sys/fs/cgroup/memory.current": ["3000"]}  # fmt: skip
    monkeypatch.setattr(hardware, "_lines", lambda path: told.get(path, []))
    assert hardware.free_memory("cpu") == 2000
    told["/sys/fs/cgroup/memory.max"] = ["max"]
    assert hardware.free_memory("cpu") == 8000 * 1024


# ------------------------------------------------------------------------------------------------------------- summary


def test_a_summary_has_the_fastest_variant_at_the_largest_size(tmp_path: Path) -> None:
    sizes = {"heads": 4, "batch": 16, "decay": 0.99}
    rows = [row(seconds * n, sizes={"slots": n, **sizes}, variant=variant, cache=cache)
            for n in (64, 256, 1024) for variant, seconds, cache in (("eager", 1e-6, "hot"), ("compiled", 4e-7, "hot"),
                                                                     ("fused", 1e-9, "cold"))]  # fmt: skip
    dirty = profile(*rows, op="content")
    dirty["env"] = dirty["env"] | {"dirty": True}
    for made in (profile(*rows, op="usage"), dirty):
        path = profiles.path_of(tmp_path / "profiles", "cpu", made["op"], "float32")
        path.parent.mkdir(parents=True, exist_ok=True)
        profiles.write(path, made)
    text = profile_tables.render(profile_tables.load(tmp_path))[profile_tables.NAME]
    (line,) = [each for each in text.splitlines() if each.startswith("| usage")]
    found = [cell.strip() for cell in line.strip("|").split("|")]
    assert found[:5] == ["usage", "slots=1k heads=4 batch=16 decay=0.99", "forward", "compiled", "410 µs"]
    assert found[-2:] == ["0.40", "1.00 ± 0.00"]
    assert "content" not in text, "uncommitted code has no row"
    assert "| content" in profile_tables.render(profile_tables.load(tmp_path, dirty=True))[profile_tables.NAME]
    assert profile_tables.render(profile_tables.load(tmp_path / "nothing")) == {}
    assert refresh((), tmp_path, check=False, dirty=False) == 0
    assert refresh((), tmp_path, check=True, dirty=False) == 0
    assert (tmp_path / "tables" / "profiles.tex").is_file()
