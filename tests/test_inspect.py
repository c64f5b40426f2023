"""`bench inspect`: pictures, tables that agree with the trace, and one sentence where there is nothing to look at."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from shell import bench, refused, toys  # noqa: F401

from bench import checkpoints, diagnostics, grid, inspection, memory_plots, records
from bench.attribution import CREDITS
from bench.scenes import Scene, look, reads, sources, texts
from bench.training import Context, run_cell

pytestmark = pytest.mark.usefixtures("toys")
SMALL = (
    "--set", "glyphs-online.way=3", "--set", "glyphs-online.length=12", "--set", "mann.slots=20", "--set",
    "mann.width=5", "--set", "mann.controller_size=10",
)  # fmt: skip
MANN = ("-m", "mann", "-t", "glyphs-online", *SMALL)
BRIEF = (*SMALL[1::2], "mann.batch=2", "budget.test_episodes=20", "budget.val_episodes=2", "budget.validations=1")


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer pixels are drawn sooner; the layout is in inches."""
    monkeypatch.setitem(memory_plots.STYLE, "savefig.dpi", 60)


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert not image.info.keys() & {"Software", "Creation Time", "date"}
        return np.asarray(image.convert("L"))


def drawn(content: bytes) -> None:
    """A picture with something on it, not cut off at its border."""
    image = pixels(content)
    assert min(image.shape) >= 250
    assert len(np.unique(image)) > 50
    assert 0.02 < (image < 200).mean() < 0.9
    edges = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (edges > 250).mean() > 0.999


def scene(*settings: str, method: str = "mann", task: str = "glyphs-online", episode: int = 0) -> Scene:
    return look(inspection.untrained([method], [task], settings, 0), episode)


def glyphs(**more: Any) -> Scene:
    return scene(*SMALL[1::2][:2], **more)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with one cell."""
    results = tmp_path_factory.mktemp("trained")
    cells = grid.plan(methods=["mann"], tasks=["glyphs-online"], settings=BRIEF, steps=2).cells
    run_cell(cells[0], Context(results))
    return results


@pytest.fixture
def record(trained: Path) -> records.Record:
    """That cell's record, its folder copied to results/."""
    shutil.copytree(trained, "results")
    return records.load(Path("results")).records[0]


def test_help_shows_an_example_and_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert "bench inspect -m mann" in bench(capsys, "inspect", "--help").out
    code = (
        "import sys; from bench import cli; cli.call(['inspect', '--help']); "
        "print(sorted({'torch', 'numpy', 'pandas', 'matplotlib', 'rich', 'bench.api'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_untrained_gives_pictures_tables_and_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "inspect", *MANN, "--steps", 0, "--episode", 13)
    assert said.code == 0, said
    folder = Path("out/inspect-mann-glyphs-online-s0-untrained")
    names = ("episode13-weights.png", "episode13-reads.png", "forgetting.png", "episode13-steps.csv",
             "episode13-weights.csv")  # fmt: skip
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    for name in names:
        assert str(folder / name) in said.out
        if name.endswith("png"):
            drawn((folder / name).read_bytes())
    for words in ("retrieval image", "best head label", "erased", "overlap", "write entropy", "chance", "episode 13"):
        assert words in said.out


def test_tables_agree_with_the_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(capsys, "inspect", *MANN, "--episode", 3, "--out", "here").code == 0
    steps, weights = (pd.read_csv(f"here/episode3-{name}.csv", dtype={"label": str}) for name in ("steps", "weights"))
    subject = inspection.untrained(["mann"], ["glyphs-online"], SMALL[1::2], 0)
    task = subject.cell.task
    x, y = next(task.episodes("test", 600, 0)).query
    found = diagnostics.trace(subject.learner, task, x, y)
    assert found is not None
    assert found.usage is not None
    read, write = found.read[3].mean(1), found.write[3].sum(1)
    assert steps["step"].tolist() == list(range(1, 13))
    assert steps["label"].tolist() == [str(v) for v in y[3].tolist()]
    assert steps["read_slot"].tolist() == read.argmax(1).tolist()
    assert steps["write_slot"].tolist() == write.argmax(1).tolist()
    np.testing.assert_allclose(steps["read_weight"], read.amax(1), rtol=1e-5)
    np.testing.assert_allclose(steps["write_weight"], write.amax(1), rtol=1e-5)
    np.testing.assert_allclose(steps["gate_gate"], found.gates["gate"][3], rtol=1e-5)
    instances = task.instances(y)
    assert instances is not None
    assert steps["instance"].tolist() == instances[3].tolist()
    prediction = subject.learner.stream(x, y)
    assert steps["predicted"].tolist() == prediction[3].argmax(-1).tolist()
    assert steps["correct"].tolist() == task.correct(prediction, y)[3].tolist()
    for head in range(4):
        grid = weights.pivot(index="step", columns="slot", values=f"read_{head}")
        np.testing.assert_allclose(grid.to_numpy(), found.read[3, :, head], rtol=1e-4)
    np.testing.assert_allclose(
        weights.pivot(index="step", columns="slot", values="usage").to_numpy(), found.usage[3], rtol=1e-4
    )


def test_a_record_is_inspected_from_its_checkpoint(record: records.Record, capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "inspect", record.id[:6], "--json")
    assert said.code == 0, said
    told = said.json
    assert set(told["files"]) == {str(p) for p in Path(f"out/inspect-{record.id}").iterdir()}
    # the numbers are those of the record: the same parameters on the same episodes
    assert {"episodes": 20, **told["diagnostics"]} == record.result["diagnostics"]
    assert "after step" in told["title"]
    untrained = bench(capsys, "inspect", *MANN, "--json").json
    assert untrained["diagnostics"]["numbers"] != told["diagnostics"]["numbers"]


def test_a_checkpoint_that_is_gone_is_made_again_elsewhere(
    record: records.Record, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints.folder(Path("results"), record.id) / "final.pt"
    path.unlink()
    said = bench(capsys, "inspect", record.id)
    refused(said, "is gone", "bench run -m mann -t glyphs-online --seeds 0 --steps 2", "--results again")
    command = said.err.split("`")[1].split()[1:]
    assert bench(capsys, *command, "--no-picture", "--threads", "1").code == 0
    assert bench(capsys, "inspect", record.id, "--results", "again").code == 0


def test_a_checkpoint_that_is_gone_is_trained_again(
    record: records.Record, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(capsys, "inspect", record.id, "--out", "first").code == 0
    (checkpoints.folder(Path("results"), record.id) / "final.pt").unlink()
    assert bench(capsys, "inspect", record.id, "--again", "--out", "second").code == 0
    first, second = (Path(folder, "episode0-weights.csv").read_bytes() for folder in ("first", "second"))
    assert first == second, "the same seed gives the same memory"
    monkeypatch.setattr("bench.running.executor.execute", lambda *_: pytest.fail("it is trained once"))
    assert bench(capsys, "inspect", record.id, "--again").code == 0
    assert len(records.load(Path("results")).records) == 1, "the store has its record as before"
    refused(bench(capsys, "inspect", "-m", "mann", "-t", "glyphs-online", "--again"), "give the id of a record")


def test_a_checkpoint_that_is_not_its_own_is_refused(
    record: records.Record, capsys: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints.folder(Path("results"), record.id) / "final.pt"
    content = torch.load(path, weights_only=True)
    checkpoints.save(path, "0" * 12, {"learner": content["learner"], "step": 1})
    refused(bench(capsys, "inspect", record.id), "belongs to another spec")
    checkpoints.save(path, record.id, {"learner": {"weight": torch.zeros(1)}, "step": 1})
    refused(bench(capsys, "inspect", record.id), "parameters of another mann")
    path.write_bytes(b"nothing")
    refused(bench(capsys, "inspect", record.id), "not a checkpoint")


def test_a_record_of_other_code_or_that_diverged_is_refused(
    record: records.Record, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = records.find(Path("results"), record.id)
    with monkeypatch.context() as patch:
        patch.setattr(type(grid.from_spec(record.spec).method), "version", 99)
        refused(bench(capsys, "inspect", record.id), "another version of mann")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"outcome": "diverged"}))
    refused(bench(capsys, "inspect", record.id), "diverged")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("say what to inspect",)),
        (("-m", "mann"), ("say what to inspect",)),
        (("0123", *MANN), ("not both",)),
        (("0123", "--seed", 1), ("not both",)),
        (("0123",), ("no record",)),
        ((*MANN, "--steps", 5), ("does not train", "bench run")),
        (("-m", "mann*", "-t", "glyphs-online"), ("one memory at a time",)),
        ((*MANN, "--episode", 600), ("no test episode 600", "0 to 599")),
        ((*MANN, "--episode", -1), ("no test episode -1",)),
        (("-m", "mann", "-t", "glyphs"), ("no online task",)),
        (("-m", "mann", "-t", "sinusoid"), ("no online task",)),
        (("-m", "lstm", "-t", "glyphs-online", *SMALL[:4]), ("lstm has no addresses",)),
        ((*MANN, "--set", "mann.ablate=zero"), ("mann has no addresses",)),
        ((*MANN, "--set", "mann.slots=x"), ("slots",)),
        ((*MANN, "--out", "data/file"), ("cannot write",)),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data/file").touch()
    refused(bench(capsys, "inspect", *arguments), *words)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("method", "settings"),
    [("mann", ("mann.ablate=frozen",)), ("mann-attention", ()), ("kaiser", ()),
     ("mann", ("mann.ablate=other", "glyphs-online.labels=string", "glyphs-online.persistent=2")),
     ("mann", ("glyphs-online.length=1",))],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)  # fmt: skip
def test_any_memory_is_drawn(method: str, settings: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [part for s in (*SMALL[1:4:2], *settings) for part in ("--set", s)]
    said = bench(capsys, "inspect", "-m", method, "-t", "glyphs-online", *wanted, "--out", "here")
    assert said.code == 0, said
    for path in Path("here").glob("*.png"):
        drawn(path.read_bytes()) if "length" not in str(settings) else pixels(path.read_bytes())


def test_an_untrained_memory_waits_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mann.kernels.registry.find", lambda *_: pytest.fail("a scan was asked for"))
    assert scene(method="dnc", task="copy").addresses.write.any()


def test_bits_are_drawn_without_classes(capsys: pytest.CaptureFixture[str]) -> None:
    said = bench(capsys, "inspect", "-m", "ntm", "-t", "copy", "--out", "here", "--json")
    assert said.code == 0, said
    assert said.json["diagnostics"] is None
    assert sorted(p.name for p in Path("here").iterdir()) == [
        "episode0-steps.csv", "episode0-weights.csv", "episode0-weights.png",
    ]  # fmt: skip
    drawn(Path("here/episode0-weights.png").read_bytes())


@pytest.mark.parametrize("method", ["mann", "mann-attention", "ntm"])
@pytest.mark.parametrize("by", CREDITS)
def test_sources_are_of_the_owning_class(method: str, by: str) -> None:
    here = scene("glyphs-online.way=3", "glyphs-online.length=30", method=method)
    assert here.table is not None
    found, classes = sources(here, here.addresses.read[0].mean(1), by), here.table["class_id"]
    for t, source in enumerate(found):
        if not here.table[f"known_{by}"][t]:
            continue
        assert (source is not None and classes[source] == classes[t]) == here.table[f"right_{by}"][t]
        assert source is None or source < t - (by == "label")


def test_reads_follow_the_head_that_retrieves_best() -> None:
    here = glyphs()
    assert here.table is not None
    many = here.table.assign(**{f"right_{by}": False for by in CREDITS})
    heads = {f"right_head_{i}_{by}": (i, by) == (2, "label") for i in range(4) for by in CREDITS}
    chosen = reads(here, many.assign(**heads))
    assert (chosen.head, chosen.by) == (2, "label")
    assert chosen.right[0] is False
    assert chosen.source[0] is None
    pixels(memory_plots.retrieval(here, chosen))


def test_slots_that_do_not_matter_are_left_out() -> None:
    read, write = np.zeros((3, 300)), np.zeros((3, 300))
    read[0, 7], write[1, 250], write[2, 9] = 0.5, 1.0, 0.001
    assert memory_plots.shown_slots(read, write).tolist() == [7, 250]
    assert "298 of 300" in memory_plots._left_out(read, write, np.array([7, 250]))
    write[:] = np.linspace(0.5, 1, 300)
    assert memory_plots.shown_slots(read, write).tolist() == [7, *range(173, 300)]


def test_the_same_scene_gives_the_same_bytes() -> None:
    here = glyphs()
    assert here.table is not None
    one, two = (memory_plots.retrieval(here, reads(here, here.table)) for _ in range(2))
    assert one == two


def test_strings_are_letters() -> None:
    here = scene("glyphs-online.labels=string", "glyphs-online.length=6", method="mann-attention")
    labels, predicted = texts(here)
    assert all(len(word) == 5 and set(word) <= set("abcde") for word in (*labels, *predicted))
    assert here.table is not None
    assert [a == b for a, b in zip(labels, predicted, strict=True)] == here.table["correct"].tolist()
