"""Bundles: packed to the same bytes, merged all or not at all, and hostile archives refused in one sentence."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shell import Said, bench, refused
from synthetic import record, scored, showcase, spec

from bench import bundles, files, origins, records, report, zips
from bench.config import canonical, digest
from bench.errors import BenchError
from bench.records import Record

MEAN = 0.05


def cell(seed: int, mean: float = MEAN, **env: Any) -> Record:
    made = scored(spec("chance", "lake", seed), mean)
    return Record(**made | {"env": made["env"] | env})


def store(folder: Path, *made: Record) -> Path:
    for each in made:
        records.write(folder, each)
    return folder


@pytest.fixture
def theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A bundle of three records."""
    path = tmp_path / "theirs.zip"
    store(tmp_path / "lab", *(cell(seed) for seed in range(3)))
    assert bench(capsys, "export", "--bundle", path, "--results", tmp_path / "lab").code == 0
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def summed(packed: dict[str, bytes]) -> dict[str, bytes]:
    """With the digests of what is there now: what someone would send who wants to be believed."""
    rest = {name: data for name, data in packed.items() if name != bundles.SUMS}
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in rest.items()]
    return rest | {bundles.SUMS: "".join(lines).encode()}


def rewritten(path: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Path:
    path.write_bytes(bundles.zipped(summed(change(members(path)))))
    return path


def a_record(packed: dict[str, bytes]) -> str:
    return min(name for name in packed if name.startswith("runs/"))


def take(capsys: pytest.CaptureFixture[str], path: Path, into: Path, *more: object) -> Said:
    return bench(capsys, "import", path, "--results", into, *more)


# -------------------------------------------------------------------------------------------------------------- export


def test_a_bundle_holds_the_records_to_the_byte_and_all_digests(theirs: Path, tmp_path: Path) -> None:
    packed, lab = members(theirs), everything(tmp_path / "lab")
    assert {name: data for name, data in packed.items() if name.startswith("runs/")} == lab
    tables = {f"tables/other.{kind}" for kind in ("md", "csv", "tex")}
    assert {"README.md", "SHA256SUMS", "bundle.json", "report.html", *tables} == {
        name for name in packed if not name.startswith("runs/")
    }
    assert summed(packed) == packed
    about = json.loads(packed["bundle.json"])
    assert about["records"] == 3
    assert [len(each["records"]) for each in about["environments"]] == [3]
    assert "3 records" in packed["README.md"].decode()
    assert "a processor" in packed["README.md"].decode()
    with zipfile.ZipFile(theirs) as archive:
        archive.extractall(tmp_path / "out")
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_same_records_give_the_same_bytes(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = store(tmp_path / "elsewhere", *(cell(seed) for seed in (2, 0, 1)))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    said = bench(capsys, "export", "--bundle", tmp_path / "again.zip", "--results", other, "--json")
    assert (tmp_path / "again.zip").read_bytes() == theirs.read_bytes()
    assert said.json["sha256"] == hashlib.sha256(theirs.read_bytes()).hexdigest()
    assert said.json["records"] == 3


def test_only_the_suites_asked_for_are_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = store(tmp_path, cell(0), *(Record(**r) for r in showcase()))
    text = '[[grid]]\nmethods = ["chance"]\ntasks = ["glyphs"]\nbudget = { test_episodes = 20 }\n'
    (tmp_path / "mine.toml").write_text(text)
    suite = str(tmp_path / "mine.toml")
    refused(bench(capsys, "export", suite, "--bundle", tmp_path / "b.zip", "--results", lab), "no record of .*to pack")
    assert bench(capsys, "run", suite, "--results", lab, "--no-picture").code == 0
    # Whatever the state of this work tree.
    assert bench(capsys, "export", suite, "--bundle", tmp_path / "b.zip", "--results", lab, "--dirty").code == 0
    packed = members(tmp_path / "b.zip")
    assert [name.rsplit("/", 1)[0] for name in packed if name.startswith("runs/")] == ["runs/glyphs/chance"]
    assert {name for name in packed if name.startswith("tables/")} == {f"tables/mine.{k}" for k in ("md", "csv", "tex")}
    assert json.loads(packed["bundle.json"])["suites"] == ["mine"]
    assert not any(Record(**r).id in packed["report.html"].decode() for r in showcase())


def test_the_report_and_current_pictures_go_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = store(tmp_path / "lab", *(Record(**r) for r in showcase()))
    bench(capsys, "tables", "--results", lab)
    (lab / "report.html").write_text("<p>of other records</p>")
    drawn = sorted((lab / "pictures").glob("*.png"))
    assert len(drawn) > 1
    drawn[0].write_bytes(drawn[1].read_bytes())  # not what the records say
    said = bench(capsys, "export", "--bundle", tmp_path / "b.zip", "--results", lab)
    packed = members(tmp_path / "b.zip")
    assert packed["report.html"].decode() == report.render(lab)
    assert "the report" in said.out
    assert {n for n in packed if n.startswith("pictures/")} == {f"pictures/{p.name}" for p in drawn[1:]}
    assert {n: d for n, d in packed.items() if n.startswith("tables/")} == {
        f"tables/{n}": d for n, d in everything(lab / "tables").items()
    }


def test_what_was_not_committed_is_packed_only_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, path = store(tmp_path / "lab", cell(0), cell(1, dirty=True)), tmp_path / "b.zip"
    assert "1 record," in bench(capsys, "export", "--bundle", path, "--results", lab).out
    assert "2 records" in bench(capsys, "export", "--bundle", path, "--results", lab, "--dirty").out
    only = store(tmp_path / "only", cell(1, dirty=True))
    refused(bench(capsys, "export", "--bundle", path, "--results", only), "uncommitted code .--dirty.")


def test_export_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = store(tmp_path / "lab", cell(0))
    for arguments, words in (
        (("--bundle", tmp_path / "b.tar", "--results", lab), "ends in .zip"),
        (("--bundle", tmp_path / "b.zip", "--results", tmp_path / "nowhere"), "has no record to pack"),
        (("no-such", "--bundle", tmp_path / "b.zip", "--results", lab), "no suite"),
        (("--bundle", lab / "runs" / "lake" / "chance" / f"s0-{cell(0).id}.json" / "b.zip", "--results", lab), "write"),
    ):
        refused(bench(capsys, "export", *arguments), words)
    refused(bench(capsys, "export", "--results", lab), "say what to write")
    moved = next((lab / "runs").rglob("*.json"))
    moved.rename(moved.with_name("s7-000000000000.json"))
    refused(bench(capsys, "export", "--bundle", tmp_path / "b.zip", "--results", lab), "where its spec says")
    assert not (tmp_path / "b.zip").exists()


def test_curves_for_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard, an optional extra, is not here"
    )
    found = [Record(**r) for r in showcase(range(1))]
    lab, out = store(tmp_path / "lab", *found), tmp_path / "curves"
    assert f"curves of {len(found)} more records" in bench(capsys, "export", "--tensorboard", out, "--results", lab).out
    for each in found:
        (folder,) = out.glob(f"*/*/*-{each.id}")
        read = events.EventAccumulator(str(folder)).Reload()
        tags = set(read.Tags()["scalars"])
        for key in ("loss", "val") if each.result["curve"] else ():
            told = [(e.step, e.value) for e in read.Scalars(f"train/{key}")]
            assert told == [(p["step"], pytest.approx(p[key])) for p in each.result["curve"] if p[key] is not None]
        tests = {tag for tag in tags if tag.startswith("test")}
        assert len(tests) == len(each.result["evaluations"])
        if each.result["evaluations"]:
            (last,) = read.Scalars(f"test/{each.result['metric']}")
            assert last.value == pytest.approx(each.result["evaluations"][""]["mean"])
    assert "curves of 0 more" in bench(capsys, "export", "--tensorboard", out, "--results", lab).out


def test_without_tensorboard_a_sentence_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    lab = store(tmp_path / "lab", cell(0))
    refused(bench(capsys, "export", "--tensorboard", tmp_path / "out", "--results", lab), r"mannbench\[tensorboard\]")


# -------------------------------------------------------------------------------------------------------------- import


def test_import_adds_what_is_new_and_says_whose_it_is(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(tmp_path / "mine", cell(0), cell(7, device="my processor"))
    before = everything(mine)
    told = take(capsys, theirs, mine, "--from", "Lab of X", "--json").json
    assert len(told["imported"]) == 2
    assert len(told["same"]) == 1
    after = everything(mine)
    assert before.items() <= after.items()
    lab = everything(tmp_path / "lab")
    assert {n: d for n, d in after.items() if n in lab} == lab
    assert set(origins.load(mine).values()) == {"Lab of X"}
    assert set(origins.load(mine)) == {cell(1).id, cell(2).id}
    shown = bench(capsys, "status", "--results", mine).out
    assert "Lab of X" in shown
    assert "my processor" in shown
    assert "imported from Lab of X" in bench(capsys, "show", cell(1).id, "--results", mine).out
    assert "imported" not in bench(capsys, "show", cell(0).id, "--results", mine).out
    again = take(capsys, theirs, mine, "--from", "someone else")
    assert "0 records imported" in again.out
    assert "3 were here already" in again.out
    assert everything(mine) == after


def test_a_second_import_of_a_bundle_notes_what_the_first_left(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(tmp_path / "mine", cell(1, 0.5))
    said = take(capsys, theirs, mine, "--from", "Lab of X", "--ours", "--json").json
    assert [row["records"] for row in said["machines"] if row["whose"] == "Lab of X"] == [2]
    records.path_of(mine, cell(1).spec).unlink()
    assert take(capsys, theirs, mine, "--from", "Lab of X").code == 0
    assert origins.load(mine) == {cell(s).id: "Lab of X" for s in range(3)}


def test_what_stands_elsewhere_or_is_a_link_to_nowhere_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(tmp_path / "mine", cell(1, 0.5))
    place = records.path_of(mine, cell(1).spec)
    (mine / "runs" / "lake" / "moved").mkdir()
    place.rename(mine / "runs" / "lake" / "moved" / place.name)
    refused(take(capsys, theirs, mine), cell(1).id, "where its spec says", "move its file there")
    (mine / "runs" / "lake" / "moved" / place.name).unlink()
    place.symlink_to("nowhere")
    refused(take(capsys, theirs, mine), "a link to a file that is not here")


def test_origins_travel_on(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    between = store(tmp_path / "between", cell(9))
    take(capsys, theirs, between, "--from", "Lab of X")
    bench(capsys, "export", "--bundle", tmp_path / "on.zip", "--results", between)
    take(capsys, tmp_path / "on.zip", tmp_path / "last")
    assert origins.load(tmp_path / "last") == {cell(s).id: "Lab of X" for s in range(3)} | {cell(9).id: "on"}


def test_the_same_result_from_elsewhere_is_harmless_and_the_first_stays(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(tmp_path / "mine", cell(0, device="my processor"))
    before = everything(mine)
    said = take(capsys, theirs, mine)
    assert said.code == 0
    assert "1 were run here too with the same result" in said.out
    assert before.items() <= everything(mine).items()


def test_other_results_are_named_and_nothing_is_imported_unless_ours_stay(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = store(tmp_path / "mine", cell(1, 0.5))
    before = everything(mine)
    refused(take(capsys, theirs, mine), cell(1).id, r"50\.00 .*here, 5\.00 .*there", "nothing was imported", "--ours")
    assert everything(mine) == before
    said = take(capsys, theirs, mine, "--ours")
    assert said.code == 0
    assert "2 records imported" in said.out
    assert "1 kept as they are here" in said.out
    assert before.items() <= everything(mine).items()
    assert len(records.load(mine).records) == 3


def test_a_record_that_diverged_there_is_a_conflict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, mine = store(tmp_path / "lab", Record(**record(spec("chance", "lake")))), store(tmp_path / "mine", cell(0))
    bench(capsys, "export", "--bundle", tmp_path / "b.zip", "--results", lab)
    refused(take(capsys, tmp_path / "b.zip", mine), "here, diverged there")


@pytest.mark.parametrize("fail_at", [1, 2, 3, 4])
def test_where_one_file_cannot_be_written_none_is(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    mine, calls, whole = store(tmp_path / "mine", cell(8)), [0], files.create

    def full(path: Path, content: bytes) -> bool:
        calls[0] += 1
        if calls[0] == fail_at:
            raise BenchError(f"cannot write {path}: the disk is full")
        return whole(path, content)

    before = everything(mine)
    monkeypatch.setattr(files, "create", full)
    refused(take(capsys, theirs, mine), "the disk is full")
    assert everything(mine) == before
    monkeypatch.setattr(files, "create", whole)
    assert take(capsys, theirs, mine).code == 0
    assert len(records.load(mine).records) == 4


@pytest.mark.parametrize(("mean", "code"), [(MEAN, 0), (0.9, 2)])
def test_a_record_written_meanwhile(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, mean: float,
    code: int,
) -> None:  # fmt: skip
    mine, whole = tmp_path / "mine", files.create

    def raced(path: Path, content: bytes) -> bool:
        if path.name == f"s2-{cell(2).id}.json":
            whole(path, records.dump(cell(2, mean, device="of a run beside")).encode())
        return whole(path, content)

    monkeypatch.setattr(files, "create", raced)
    said = take(capsys, theirs, mine)
    assert said.code == code
    assert len(records.load(mine).records) == (3 if code == 0 else 1)
    assert records.find(mine, cell(2).id)[1].env["device"] == "of a run beside"


# -------------------------------------------------------------------------------------------------------------- hostile


def climbing(packed: dict[str, bytes]) -> dict[str, bytes]:
    return packed | {"../outside.json": b"{}"}


def renamed(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(packed: dict[str, bytes]) -> dict[str, bytes]:
        return {(name if n == a_record(packed) else n): d for n, d in packed.items()}

    return change


def altered(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """One record changed after it was made, with digests that agree."""

    def changed(packed: dict[str, bytes]) -> dict[str, bytes]:
        content = json.loads(packed[a_record(packed)])
        change(content)
        return packed | {a_record(packed): json.dumps(content).encode()}

    return changed


def at_its_own_id(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    """A record that is whole in itself, of a task whose name is a path."""

    def changed(packed: dict[str, bytes]) -> dict[str, bytes]:
        content = json.loads(packed[a_record(packed)])
        content["spec"]["task"]["name"] = name
        content["id"] = digest(content["spec"])
        rest = {n: d for n, d in packed.items() if n != a_record(packed)}
        path = f"runs/lake/chance/s0-{content['id']}.json"
        return rest | {path: json.dumps(content).encode()}

    return changed


def about(**more: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda packed: packed | {"bundle.json": json.dumps(json.loads(packed["bundle.json"]) | more).encode()}


def without(name: str) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda packed: {n: d for n, d in packed.items() if n != name}


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "climbs": (climbing, "outside the archive"),
    "climbs in the middle": (lambda p: p | {"runs/a/../../../x.json": b"{}"}, "outside the archive"),
    "absolute": (lambda p: p | {"/etc/cron.d/x": b""}, "outside the archive"),
    "of another system": (lambda p: p | {"..\\x": b""}, "outside the archive"),
    "a drive": (lambda p: p | {"C:x": b""}, "outside the archive"),
    "too deep": (renamed("runs/lake/chance/more/s0-000000000000.json"), "not where a record can be"),
    "no name of a task": (renamed("runs/.git/chance/s0-000000000000.json"), "not where a record can be"),
    "not a record's name": (renamed("runs/lake/chance/hook.sh"), "not where a record can be"),
    "at another's place": (renamed("runs/lake/chance/s0-000000000000.json"), "it was altered"),
    "of another task": (renamed(f"runs/omniglot/chance/s0-{cell(0).id}.json"), "it was altered"),
    "spec altered": (altered(lambda r: r["spec"].update(seed=99)), "its spec gives"),
    "id altered": (altered(lambda r: r.update(id="0" * 12)), "its spec gives"),
    "task is a path": (at_its_own_id("../../outside"), "it was altered"),
    "newer schema": (altered(lambda r: r.update(schema=2)), "newer than this version"),
    "not whole": (altered(lambda r: r.pop("cost")), "cost is missing"),
    "not a number": (lambda p: p | {a_record(p): p[a_record(p)].replace(b'"eval_s": 1.0', b'"eval_s": NaN')}, "NaN"),
    "not JSON": (lambda p: p | {a_record(p): b"\xff{"}, "is not a record"),
    "deep JSON": (lambda p: p | {a_record(p): b"[" * 100_000}, "is not a record"),
    "no bundle.json": (without("bundle.json"), "has no bundle.json"),
    "bundle of tomorrow": (about(schema=2), "newer than this version"),
    "bundle.json not whole": (about(records="many"), "records is 'many'"),
    "a record too few": (about(records=4), "says that it holds 4 records, but has 3"),
    "a sender of two lines": (about(origins={"0" * 12: "a\nerror: b"}), "one line"),
    "a sender with an escape": (about(origins={"0" * 12: "\x1b[2J"}), "printable"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_altered_is_refused_though_all_digests_agree(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    change, words = HOSTILE[kind]
    mine = store(tmp_path / "in" / "mine", cell(5))
    before = everything(tmp_path / "in")
    refused(take(capsys, rewritten(theirs, change), mine), words)
    assert everything(tmp_path / "in") == before
    assert not (tmp_path / "outside.json").exists()


def repacked(path: Path, edit: Callable[[zipfile.ZipInfo], None], name: str = "") -> Path:
    """The same members with one entry of the archive edited."""
    packed = members(path)
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in packed.items():
            info = zipfile.ZipInfo(each)
            if each == (name or a_record(packed)):
                edit(info)
            archive.writestr(info, data)
    return path


def test_a_link_is_refused(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repacked(theirs, lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16))
    refused(take(capsys, theirs, tmp_path / "mine"), "is a link")


def test_what_python_reads_without_a_limit_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repacked(theirs, lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA))
    refused(take(capsys, theirs, tmp_path / "mine"), "not read here")


def test_a_name_that_is_there_twice_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(theirs, "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("README.md", "another")
    refused(take(capsys, theirs, tmp_path / "mine"), "'README.md' twice")


def test_a_member_that_sums_do_not_list_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(theirs, "a") as archive:
        archive.writestr("more.txt", "another")
    refused(take(capsys, theirs, tmp_path / "mine"), "do not agree on 'more.txt'")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace(text[:8], "00000000", 1), "has another sha256"),
        (lambda text: text + "nonsense\n", "not a sha256 and a name"),
        (lambda text: text + text, "a name twice"),
        (lambda text: text.partition("\n")[2], "do not agree"),
        (lambda text: "", "not a sha256 and a name"),
    ],
)
def test_digests_that_do_not_agree_are_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[str], str], words: str
) -> None:
    packed = members(theirs)
    packed[bundles.SUMS] = change(packed[bundles.SUMS].decode()).encode()
    theirs.write_bytes(bundles.zipped(packed))
    refused(take(capsys, theirs, tmp_path / "mine"), words)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("limit", "value"), [("largest", 1000), ("total", 5000), ("members", 4)])
def test_more_than_the_limits_is_refused(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, limit: str,
    value: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(bundles, "LIMITS", bundles.LIMITS._replace(**{limit: value}))
    refused(take(capsys, theirs, tmp_path / "mine"), "is not a bundle of mannbench")


def test_a_long_list_of_members_is_refused_before_it_is_read(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "LIMITS", bundles.LIMITS._replace(members=1))
    monkeypatch.setattr(zipfile, "ZipFile", lambda *a: pytest.fail("it was opened"))
    refused(take(capsys, theirs, tmp_path / "mine"), "the list of its members")


@pytest.mark.parametrize("claim", [10, 1 << 20])
def test_a_member_that_lies_about_its_size_is_never_unpacked_whole(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], claim: int
) -> None:
    """64 MiB of zeros that call themselves short: what is read stays within what was claimed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle.json", b"\0" * (64 << 20))
        archive.writestr(bundles.SUMS, "")
        size = archive.getinfo("bundle.json").file_size
    lying = buffer.getvalue().replace(struct.pack("<L", size), struct.pack("<L", claim))
    theirs.write_bytes(lying)
    with zipfile.ZipFile(theirs) as archive:
        packed = zips.Members(archive, theirs, bundles.LIMITS)
        import tracemalloc

        tracemalloc.start()
        with pytest.raises(BenchError, match="damaged"):
            packed["bundle.json"]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 8 << 20
    refused(take(capsys, theirs, tmp_path / "mine"), "theirs.zip")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not all of it"), (b"PK", "not all of it"), (b"x" * 5000, "not all of it"), (None, "there is no file")],
)
def test_what_is_no_archive_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    path = tmp_path / "b.zip"
    if content is not None:
        path.write_bytes(content)
    refused(take(capsys, path, tmp_path / "mine"), words)
    refused(take(capsys, tmp_path, tmp_path / "mine"), "there is no file")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A store and its bundle."""
    lab = store(tmp_path_factory.mktemp("sender") / "lab", cell(0), cell(1))
    return lab, bundles.zipped(bundles.members(bundles.chosen([], lab, False), [], lab, False))


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_or_lost_byte_never_gives_a_record_that_was_not_sent(
    data: st.DataObject, sent: tuple[Path, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Anything at all may happen to a bundle on its way: it is taken whole or refused, never a trace."""
    folder, lab, content = tmp_path_factory.mktemp("damage"), sent[0], bytearray(sent[1])
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.integers(1, 255))
    else:
        del content[at : at + data.draw(st.integers(1, 200))]
    (folder / "b.zip").write_bytes(content)
    try:
        bundles.take(folder / "b.zip", folder / "mine", "", ours=False, as_json=True)
    except BenchError:
        assert not (folder / "mine").exists()
    else:
        assert everything(folder / "mine" / "runs") == everything(lab / "runs")


# -------------------------------------------------------------------------------------------------------------- origins


@pytest.mark.parametrize("name", ["", "two\nlines", "x" * 101, "\x1b[2J"])
def test_a_sender_is_one_printable_line(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    if name:
        refused(take(capsys, theirs, tmp_path / "mine", "--from", name), "one line of 100 printable characters")
    with pytest.raises(BenchError):
        origins.check(name, "somewhere")


def test_a_damaged_note_of_an_import_is_named(theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take(capsys, theirs, tmp_path / "mine")
    (note,) = (tmp_path / "mine" / "imports").iterdir()
    assert canonical(json.loads(note.read_text())["records"]) == canonical({cell(s).id: "theirs" for s in range(3)})
    note.write_text("{")
    refused(bench(capsys, "status", "--results", tmp_path / "mine"), note.name, "not a note of an import")
