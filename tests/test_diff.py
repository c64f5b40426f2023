"""Which numbers moved between two stores, and whether beyond noise."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from shell import bench, refused
from synthetic import by_instance, by_step, evaluation, record, scored, showcase, spec

from bench import cells, cli, intervals, records
from bench.differences import BETTER, LOST, NOISE, SAME, UNKNOWN, WON, WORSE, Difference, compare
from bench.intervals import t_half_width
from bench.records import Record


def seeds(means: Sequence[float], first: int = 0, task: str = "omniglot", **more: Any) -> list[Record]:
    """Records of one method, a seed a mean; the same seeds have the same ids."""
    return [
        Record(**scored(spec("mann", task, seed, fields={}, **more), mean)) for seed, mean in enumerate(means, first)
    ]


def only(old: list[Record], new: list[Record]) -> Difference:
    (found,) = compare(old, new)
    return found


# ------------------------------------------------------------------------------------------------------------- verdicts


def test_what_is_the_same_is_the_same() -> None:
    made = [Record(**r) for r in showcase()]
    found = compare(made, made[::-1])
    assert len(found) > 20
    assert {each.verdict for each in found} == {SAME}


def test_seeds_are_paired_and_decide_from_three_on() -> None:
    old, new = [0.90, 0.80, 0.70, 0.85], [0.88, 0.79, 0.66, 0.82]
    found = only(seeds(old), seeds(new))
    expected = stats.ttest_rel(new, old)
    low, high = expected.confidence_interval(0.95)
    assert found.change == pytest.approx(np.mean(new) - np.mean(old))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert (found.basis, found.verdict) == ("4 seeds", WORSE)
    assert expected.pvalue < 0.05 < stats.ttest_ind(new, old).pvalue, "unpaired, nobody could tell"
    assert only(seeds(new), seeds(old)).verdict == BETTER
    mixed = [0.88, 0.83, 0.66, 0.87]
    assert stats.ttest_rel(mixed, old).pvalue > 0.05
    assert only(seeds(old), seeds(mixed)).verdict == NOISE


@settings(max_examples=50)
@given(st.lists(st.tuples(*[st.floats(0.01, 0.99)] * 2), min_size=3, max_size=6))
def test_swapping_turns_better_into_worse(pairs: list[tuple[float, float]]) -> None:
    old, new = (seeds(means) for means in zip(*pairs, strict=True))
    one, two = only(old, new), only(new, old)
    assert one.change == pytest.approx(-two.change)
    assert one.half_width == pytest.approx(two.half_width, nan_ok=True)
    assert {one.verdict: two.verdict} in ({BETTER: WORSE}, {WORSE: BETTER}, {NOISE: NOISE}, {SAME: SAME})


def test_lower_is_better_where_it_is() -> None:
    assert only(seeds([1, 1.1, 1.2], task="sinusoid"), seeds([2, 2.2, 2.3], task="sinusoid")).verdict == WORSE


def test_alarms_without_a_cause_are_one_in_twenty() -> None:
    """Five seeds again, of the same method: two draws of training."""
    rng, alarms, trials = np.random.default_rng(0), 0, 600
    for _ in range(trials):
        old, new = (seeds(rng.normal(0.8, 0.02, 5).tolist()) for _ in range(2))
        alarms += only(old, new).moved
    assert stats.binomtest(alarms, trials, 0.05).pvalue > 0.01, alarms / trials


def online(means: np.ndarray[Any, Any]) -> list[Record]:
    """Records with a row of accuracies by instance each, a seed a row."""
    cells = [spec("mann", "omniglot-online", seed, fields={}) for seed in range(len(means))]
    return [Record(**record(c, evaluation(c, [0.8], by_instance=by_instance(row.tolist()))))
            for c, row in zip(cells, means, strict=True)]  # fmt: skip


def test_alarms_are_one_in_twenty_however_many_numbers_there_are() -> None:
    rng, alarms, trials = np.random.default_rng(3), 0, 300
    for _ in range(trials):
        old, new = (online(rng.normal(0.6, 0.05, (4, 10))) for _ in range(2))
        alarms += any(each.moved for each in compare(old, new))
    assert stats.binomtest(alarms, trials, 0.05).pvalue > 0.01, alarms / trials


def test_holms_rule_is_over_what_moved() -> None:
    """Ten instances, of which the first k moved clearly and others by chance; the rule by its definition."""
    rng = np.random.default_rng(4)
    base = rng.normal(0.6, 0.02, (5, 10))
    for clear in (0, 1, 4, 10):
        moved = base + rng.normal(0, 0.02, base.shape) - np.where(np.arange(10) < clear, 0.2, 0)
        found = {each.at: each for each in compare(online(base), online(moved))}
        ps = [stats.ttest_rel(moved[:, k], base[:, k]).pvalue for k in range(10)]
        assert [found[f"instance {k + 1}"].p for k in range(10)] == pytest.approx(ps)
        adjusted = np.maximum.accumulate(np.sort(ps) * np.arange(10, 0, -1))[np.argsort(np.argsort(ps))]
        assert [found[f"instance {k + 1}"].moved for k in range(10)] == [p <= 0.05 for p in adjusted]
        assert found[""].verdict == SAME, "what did not move is in no family"


def changed_episodes(base: Record, change: Sequence[float]) -> Record:
    cell = base.spec
    scores = np.add(base.result["evaluations"][""]["per_episode"], change)
    return Record(**record(cell, evaluation(cell, scores.tolist())))


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_seeds_are_told_by_their_episodes(n: int) -> None:
    rng = np.random.default_rng(1)
    old = seeds([0.8, 0.7][:n])
    for shift, verdict in ((0.03, BETTER), (0.0, NOISE), (-0.03, WORSE)):
        changes = [shift + rng.normal(0, 0.05, 50) for _ in old]
        changes = [c - c.mean() + shift + 1e-3 for c in changes]
        new = [changed_episodes(r, c) for r, c in zip(old, changes, strict=True)]
        found = only(old, new)
        assert found.verdict == verdict
        assert found.basis == f"{50 * n} episodes, {n} seed{'s' * (n > 1)}"
        assert found.half_width == pytest.approx(t_half_width(np.concatenate(changes).tolist()))


def test_one_seed_of_another_version_cannot_be_told() -> None:
    found = only(seeds([0.8]), seeds([0.2], versions=(2, 1)))
    assert (found.verdict, found.moved) == (UNKNOWN, False)
    assert math.isnan(found.half_width)
    assert only(seeds([0.8, 0.79, 0.81]), seeds([0.2, 0.19, 0.21], versions=(2, 1))).verdict == WORSE


def test_other_seeds_are_compared_without_pairs() -> None:
    old, new = [0.9, 0.8, 0.7], [0.5, 0.45, 0.55, 0.6]
    found = only(seeds(old), seeds(new, first=3))
    low, high = stats.ttest_ind(new, old, equal_var=False).confidence_interval(0.95)
    assert found.half_width == pytest.approx((high - low) / 2)
    assert (found.basis, found.verdict) == ("3 and 4 other seeds", WORSE)
    assert only(seeds([0.5] * 3), seeds([0.5] * 3, first=3)).verdict == NOISE
    assert only(seeds(old), seeds([0.1], first=3)).verdict == UNKNOWN


@pytest.mark.parametrize("first", [0, 3])
def test_errors_are_compared_by_ratio(first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A hundred times as many bits is no noise, though one seed's difference is far from another's."""
    old, new = [0.001, 0.002, 0.0005], [0.1, 0.4, 0.03]
    assert stats.ttest_rel(new, old).pvalue > 0.05
    made = [seeds(old, task="copy"), seeds(new, first, task="copy")]
    found = only(*made)
    assert (found.scale, found.verdict) == ("ratio", WORSE)
    assert (found.old, found.new) == pytest.approx((stats.gmean(old), stats.gmean(new)))
    logs = np.log(old), np.log(new)
    test = stats.ttest_ind(*logs[::-1], equal_var=False) if first else stats.ttest_rel(*logs[::-1])
    assert found.p == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found.change - found.half_width, found.change + found.half_width) == pytest.approx((low, high))
    for folder, each in zip(("old", "new"), made, strict=True):
        store(tmp_path / folder, each)
    assert cli.call(["diff", str(tmp_path / "old"), str(tmp_path / "new")]) == 1
    times = cells.times(intervals.Estimate(found.change, low, high))
    assert f"×{times}" in capsys.readouterr().out
    assert only(seeds([0.0, 1.0, 2.0], task="copy"), seeds(new, task="copy")).scale == "difference"
    assert only(seeds(old[:2], task="copy"), seeds(new[:2], task="copy")).scale == "difference"


def test_another_measure_is_another_number() -> None:
    new = seeds([0.9, 0.8, 0.7])
    for each in new:
        each.result["metric"] = "mse"
    assert compare(seeds([0.9, 0.8, 0.7]), new) == []


def test_more_seeds_move_nothing() -> None:
    old = seeds([0.9, 0.8, 0.7])
    assert only(old, [*old, *seeds([0.1, 0.1], first=3)]).verdict == SAME


def test_single_precision_in_another_order_is_the_same() -> None:
    old = [0.9, 0.8, 0.7]
    assert only(seeds(old), seeds([v * (1 + 2e-7) for v in old])).verdict == SAME
    assert only(seeds(old), seeds([v + 1e-4 for v in old])).verdict == BETTER


def test_divergence_is_no_noise() -> None:
    cell = spec("mann", "omniglot", 1, fields={})
    whole, lost = seeds([0.9, 0.8, 0.7]), Record(**record(cell))
    other = Record(**record(spec("mann", "omniglot", 2, fields={})))
    assert only(whole, [whole[0], lost, whole[2]]).verdict == LOST
    assert only([whole[0], lost, whole[2]], whole).verdict == WON
    assert only([whole[0], lost, whole[2]], [whole[0], whole[1], other]).verdict == LOST
    assert only([whole[0], lost, whole[2]], [whole[0], lost, whole[2]]).verdict == SAME
    assert only([lost], [lost]).verdict == SAME


def test_a_setting_that_diverged_alone_is_one_number() -> None:
    cells = [spec("mann", "omniglot", seed, fields={}, task_fields={"also": ["way=20"]}) for seed in range(3)]
    whole = [Record(**record(c, evaluation(c, [0.9, 0.8]), evaluation(c, [0.5, 0.4]))) for c in cells]
    content = record(cells[0], evaluation(cells[0], [0.9, 0.8]), evaluation(cells[0], [0.5, 0.4]))
    content["result"]["evaluations"]["way=20"] |= {"mean": None, "per_episode": []}
    content["result"]["diverged"] = ["way=20"]
    found = {each.at: each.verdict for each in compare(whole, [Record(**content), *whole[1:]])}
    assert found == {"": SAME, "way=20": LOST}
    assert {each.verdict for each in compare([Record(**content)], [Record(**content)])} == {SAME}


def test_places_are_numbers_of_their_own() -> None:
    def made(second: float, late: float) -> list[Record]:
        online = [spec("mann", "omniglot-online", s, fields={}) for s in range(3)]
        wave = [spec("maml", "sinusoid", s, fields={}) for s in range(3)]
        jitter = (0.0, 0.001, 0.002)
        return [
            *(Record(**record(c, evaluation(c, [0.8], by_instance=by_instance([0.2 + j, second + j, None]))))
              for c, j in zip(online, jitter, strict=True)),
            *(Record(**record(c, evaluation(c, [0.8], by_step=by_step({1: [0.5 + j], 10: [late + j]}))))
              for c, j in zip(wave, jitter, strict=True)),
        ]  # fmt: skip

    found = {(each.task, each.at): each.verdict for each in compare(made(0.8, 0.3), made(0.7, 0.2))}
    assert found.pop(("omniglot-online", "instance 2")) == WORSE
    assert found.pop(("sinusoid", "step 10")) == BETTER
    assert {at for _, at in found} == {"", "instance 1", "step 1"}
    assert set(found.values()) == {SAME}


def test_the_newest_versions_are_compared_and_only_what_both_have() -> None:
    old, new = seeds([0.5, 0.5, 0.5]), seeds([0.9, 0.91, 0.92], versions=(2, 1))
    assert only(old, [*old, *new]).verdict == BETTER
    assert compare(old, seeds([0.5], task="lake")) == []
    assert compare(old, seeds([0.5], budget={"steps": 7})) == []
    assert compare(seeds([0.5]), seeds([0.5], task_fields={"way": 20})) == []


def test_further_settings_do_not_change_what_a_method_is() -> None:
    cells = [spec("mann", "omniglot", s, fields={}, task_fields={"also": ["way=20"]}) for s in range(3)]
    new = [Record(**record(c, evaluation(c, [0.95]), evaluation(c, [0.5]))) for c in cells]
    assert only(seeds([0.5, 0.51, 0.52]), new).verdict == BETTER


# ------------------------------------------------------------------------------------------------------------- commands


def store(folder: Path, made: Sequence[Record]) -> Path:
    for each in made:
        path = records.path_of(folder, each.spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(records.dump(each))
    return folder


def test_exit_code_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = store(tmp_path / "old", [*seeds([0.9, 0.8, 0.7]), *seeds([0.5], task="lake")])
    noise, worse = (store(tmp_path / n, seeds(m)) for n, m in (("n", [0.91, 0.79, 0.71]), ("w", [0.5, 0.4, 0.31])))
    same = bench(capsys, "diff", old, old)
    assert (same.code, same.out.splitlines()[0]) == (0, "2 numbers: 2 the same")
    said = bench(capsys, "diff", old, noise)
    assert said.code == 0
    assert "+0.33 ± " in said.out
    assert "within noise" in said.out
    assert "3 cells are in both, 1 in the old store alone, 0 in the new alone" in said.out
    said = bench(capsys, "diff", old, worse)
    assert said.code == 1
    assert "80.00   40.33   -39.67 ± 1.43" in said.out
    told = bench(capsys, "diff", old, worse, "--json")
    assert told.code == 1
    assert told.json["moved"] == 1
    assert told.json["differences"][0]["verdict"] == "worse"
    assert len(told.json["only_old"]) == 1


def git(folder: Path, *arguments: str) -> str:
    settings_ = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *settings_, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions, of which the second has other results; and a work tree that is neither."""
    top = tmp_path / "repository"
    top.mkdir()
    git(top, "init", "-q", "-b", "trunk")
    for means in ([0.9, 0.8, 0.7], [0.5, 0.4, 0.31]):
        store(top / "results", seeds(means))
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", "records")
    store(top / "results", seeds([0.1, 0.1, 0.1]))
    (top / "results" / "runs" / "mine.json").write_text("not committed")
    monkeypatch.chdir(top)
    return top


def test_revisions_are_read_without_touching_the_work_tree(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in repository.rglob("*") if p.is_file()}
    assert bench(capsys, "diff", "trunk~1", "trunk").code == 1
    assert "80.00   40.33" in bench(capsys, "diff", "trunk~1", "HEAD").out
    assert bench(capsys, "diff", "HEAD", "trunk").code == 0
    assert "10.00" in bench(capsys, "diff", "HEAD", "results").out, "a folder is read as it lies there"
    (repository / "deep").mkdir()
    monkeypatch.chdir(repository / "deep")
    assert bench(capsys, "diff", "HEAD~1", "HEAD", "--results", "../results").code == 1
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in repository.rglob("*") if p.is_file()}
    assert after == before


def test_links_in_a_revision_are_not_followed(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = seeds([0.9], first=9)[0]
    (repository / "secret.json").write_text(records.dump(cell))
    path = records.path_of(repository / "results", cell.spec)
    path.symlink_to("../../../../secret.json")
    git(repository, "add", str(path))
    git(repository, "commit", "-q", "-m", "a link")
    assert "3 cells are in both, 0 in the old store alone, 0 in the new" in bench(capsys, "diff", "HEAD~1", "HEAD").out


def test_bad_input(repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    other = store(tmp_path / "other", seeds([0.5], task="lake"))
    broken = store(tmp_path / "broken", seeds([0.5]))
    path = next(broken.rglob("*.json"))
    path.write_text(path.read_text()[:-20])
    for old, new, words in (
        ("no-such", "HEAD", "neither a folder of results nor a git revision"),
        ("HEAD", "no-such", "'no-such' is neither"),
        ("HEAD", tmp_path / "empty", "no record in"),
        ("HEAD", broken, "is not a record"),
        ("HEAD", other, "nothing to compare"),
        ("HEAD\0", "HEAD", "neither"),
    ):
        refused(bench(capsys, "diff", old, new), words)
    refused(bench(capsys, "diff", "--", "--output=x", "HEAD"), "'--output=x' is neither")
    assert not (repository / "x").exists()
    refused(bench(capsys, "diff", "HEAD", "HEAD", "--results", "elsewhere"), "has no record in elsewhere/runs")
    refused(bench(capsys, "diff", "HEAD", "HEAD", "--results", tmp_path), "neither|has no record")
    assert bench(capsys, "diff", "HEAD").code == 2
    bad = records.path_of(Path("results"), seeds([0.5])[0].spec)
    bad.write_text("{}")
    git(repository, "commit", "-q", "-am", "broken")
    refused(bench(capsys, "diff", "HEAD", "HEAD~1"), "HEAD:results/runs/omniglot/mann/.* is not a record")
