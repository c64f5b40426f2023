"""What `bench inspect` does: one episode of one memory, step by step, in pictures, tables of steps, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.table import Table

from bench import checkpoints, diagnostics, files, grid, memory_plots, provenance, records, running, views
from bench.api import Addresses, Learner
from bench.attribution import CREDITS, entropy
from bench.errors import BenchError
from bench.grid import Cell
from bench.scenes import Scene, Subject, look, reads, sources, texts
from bench.seeding import torch_seed


def inspect(subject: Subject, episode: int, out: Path | None, as_json: bool) -> dict[str, Any]:
    """Write the pictures and tables, print the numbers; the call as data.

    Raises:
        BenchError: nothing to look at: another kind of task, no addresses, no such episode, or a folder that cannot be
            written.
    """
    scene = look(subject, episode)
    folder = out or Path("out") / f"inspect-{subject.name}"
    cell = subject.cell
    many = diagnostics.watch(
        subject.learner, cell.task, min(diagnostics.EPISODES, cell.budget.test_episodes), cell.seed
    )
    paths = []

    def write(name: str, content: bytes) -> None:
        files.replace(folder / name, content)
        paths.append(str(folder / name))

    write(f"episode{episode}-weights.png", memory_plots.weights(scene))
    if many is not None:
        write(f"episode{episode}-reads.png", memory_plots.retrieval(scene, reads(scene, many)))
        write("forgetting.png", memory_plots.forgetting(diagnostics.summary(many), subject.title))
    write(f"episode{episode}-steps.csv", csv(steps(scene)))
    write(f"episode{episode}-weights.csv", csv(weights(scene.addresses)))
    console = views.console(stderr=as_json)
    console.print(f"{subject.title} · episode {episode}", style="bold")
    console.print(numbers_table(scene, many))
    console.print("\n".join(paths), soft_wrap=True)
    return {"title": subject.title, "episode": episode, "files": paths,
            "diagnostics": None if many is None else diagnostics.summary(many)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- subjects


def choose(
    prefix: str | None,
    methods: Sequence[str] | None,
    tasks: Sequence[str] | None,
    settings: Sequence[str] | None,
    steps: int,
    seed: int | None,
    results: Path,
    again: bool = False,
) -> Subject:
    """What the command line asks for: a record's memory, or an untrained one.

    Raises:
        BenchError: both, neither, or steps to train; and what `recorded` and `untrained` refuse.
    """
    if steps:
        raise BenchError("inspect does not train: leave out --steps, or `bench run` first and inspect the record's id")
    if prefix is not None:
        if methods or tasks or settings or seed is not None:
            raise BenchError("give the id of a record, or -m and -t for an untrained memory, not both")
        return recorded(results, prefix, again)
    if again:
        raise BenchError("--again trains a record's memory again: give the id of a record (`bench status`)")
    if not methods or not tasks:
        raise BenchError("say what to inspect: a record's id (`bench status`), or -m METHOD and -t TASK, untrained")
    return untrained(methods, tasks, settings or (), seed or 0)


def recorded(results: Path, prefix: str, again: bool = False) -> Subject:
    """The learner of a record, from its checkpoint; again: where that is gone, train it once more, beside the store.

    Raises:
        BenchError: no such record, one that diverged or was made by other code, or its checkpoint is gone or not its.
    """
    _, record = records.find(results, prefix)
    if record.outcome != "ok":
        raise BenchError(f"the record {record.id} {record.outcome}: it has no trained memory to look into")
    cell = grid.from_spec(record.spec)
    if cell.id != record.id:
        raise BenchError(
            f"the record {record.id} was made by another version of {record.method} or {record.task}, or from other "
            f"data; today's is {cell.id}: `{grid.command(record.spec)}` makes that one"
        )
    cell.task.check_data()
    if not again:
        views.warn(f"the record {record.id} was made with another {name} than this, which now reads its parameters"
                   for name in provenance.differing(record, cell))  # fmt: skip
    learner = _built(cell)
    after = ""
    if learner.state_dict():
        content = _final(_trained_again(results, cell) if again else results, record)
        try:
            learner.load_state_dict(content["learner"])
        except (RuntimeError, KeyError):
            raise BenchError(
                f"the checkpoint of {record.id} holds parameters of another {record.method}; delete it and run again"
            ) from None
        after = f" after step {content['step']}"
    return Subject(cell, learner, record.id, f"{cell.label} · {record.id}{after}")


def untrained(methods: Sequence[str], tasks: Sequence[str], settings: Sequence[str], seed: int) -> Subject:
    """A fresh learner, initialised as a run with this seed would.

    Raises:
        BenchError: the choices do not name exactly one method and one task, or these do not go together.
    """
    cells = grid.plan(methods=methods, tasks=tasks, seeds=[seed], settings=settings).cells
    if len(cells) != 1:
        raise BenchError(f"inspect looks at one memory at a time, and these choices name {len(cells)}")
    cell, learner = cells[0], _built(cells[0])
    learner.use("reference")  # a few episodes are sooner answered than fast code is compiled for them
    name = f"{cell.method.name}-{cell.task.name}-s{seed}-untrained"
    return Subject(cell, learner, name, f"{cell.label} · untrained")


def _built(cell: Cell) -> Learner:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("init", cell.method.name, cell.seed))
        return cell.method.build(cell.task).eval()


def _final(results: Path, record: records.Record) -> dict[str, Any]:
    path = checkpoints.folder(results, record.id) / "final.pt"
    if not path.exists():
        # Where the record is, a run would find it and make nothing.
        raise BenchError(
            f"the checkpoint of {record.id} is gone ({path}); make it again in another folder, then look there: "
            f"`{grid.command(record.spec)} --results again` and `bench inspect {record.id} --results again`, or "
            f"`bench inspect {record.id} --again`"
        )
    return checkpoints.load(path, record.id)


def _trained_again(results: Path, cell: Cell) -> Path:
    """The store that has a cell's checkpoint; where none has, it is trained, with its progress shown.

    Raises:
        BenchError: the training failed; what there is of it is kept.
        KeyboardInterrupt: it was stopped; the same command goes on.
    """
    place = results / ".bench" / "again"
    if (checkpoints.folder(results, cell.id) / "final.pt").exists():
        return results
    if not (checkpoints.folder(place, cell.id) / "final.pt").exists():
        code, _ = running.run(running.Request(None, [cell], (), place, picture=False), as_json=True)
        if code == running.INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise BenchError(f"{cell.label} was not trained to its end; the same command goes on where it stopped")
    return place


# --------------------------------------------------------------------------------------------------------------- tables


def steps(scene: Scene) -> pd.DataFrame:
    """One row a step: what was shown, what was answered, and where the memory read and wrote most.

    step: from 1. slot: from 0. Read weights are means over heads, write weights sums. owner_by_image and
    owner_by_label: the class that owns the slot read, as `diagnostics` defines it, empty where none does; source_: the
    step of the presentation that it comes from, see `sources`; right_: whether it is the class now shown.
    """
    a, table = scene.addresses, scene.table
    read, write = a.read[0].mean(1), a.write[0].sum(1)
    columns: dict[str, Any] = {"step": np.arange(1, scene.steps + 1)}
    if table is not None:
        labels, predicted = texts(scene)
        columns |= {"label": labels, "predicted": predicted, "correct": table["correct"],
                    "instance": table.groupby("class_id").cumcount() + 1, "age": table["age"]}  # fmt: skip
        for by in CREDITS:
            found = sources(scene, read, by)
            columns[f"owner_by_{by}"] = ["" if source is None else labels[source] for source in found]
            columns[f"source_by_{by}"] = ["" if source is None else source + 1 for source in found]
            columns[f"right_by_{by}"] = table[f"right_{by}"]
    for name, weight in (("read", read), ("write", write)):
        best = weight.max(1)
        columns |= {f"{name}_slot": best.indices.numpy(), f"{name}_weight": best.values.numpy(),
                    f"{name}_entropy_nats": entropy(weight).numpy()}  # fmt: skip
        if a.usage is not None:
            columns[f"{name}_slot_usage"] = a.usage[0].gather(1, best.indices[:, None])[:, 0].numpy()
    return pd.DataFrame(columns | {f"gate_{name}": gate[0].numpy() for name, gate in a.gates.items()})


def weights(addresses: Addresses) -> pd.DataFrame:
    """One row a step and slot, without those that are neither read nor written at all: every head's weight, usage."""
    read, write = addresses.read[0], addresses.write[0]
    step, slot = ((read != 0).any(1) | (write != 0).any(1)).nonzero(as_tuple=True)
    columns = {"step": step + 1, "slot": slot}
    for name, weight in (("read", read), ("write", write)):
        columns |= {f"{name}_{head}": weight[step, head, slot] for head in range(weight.shape[1])}
    if addresses.usage is not None:
        columns["usage"] = addresses.usage[0, step, slot]
    return pd.DataFrame({name: column.numpy() for name, column in columns.items()})


def csv(table: pd.DataFrame) -> bytes:
    """A table as a file holds it."""
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()


def numbers_table(scene: Scene, many: pd.DataFrame | None) -> Table:
    """The numbers of this episode and of many, with chance beside."""
    if many is None or scene.table is None:
        return _weights_table(scene.addresses)
    count = int((many["step"] == 1).sum())
    columns = (f"episode {scene.episode}", f"first {count}", "chance", "n")
    made = views.table("number", *columns, "what", right=columns)
    for name, number in diagnostics.NUMBERS.items():
        one, all_ = number(scene.table), number(many)
        title = name.replace("_", " ")
        values = (_text(name, v) for v in (one.value, all_.value, all_.chance))
        made.add_row(title, *values, str(all_.n), _what(number))
    return made


def _weights_table(addresses: Addresses) -> Table:
    made = views.table("number", "this episode", right=("this episode",))
    for name, weight in (("write", addresses.write), ("read", addresses.read)):
        mean = float(entropy(weight.sum(2)).nanmean())
        made.add_row(f"{name} entropy, nats", f"{mean:.3f}")
        made.add_row(f"{name} slots", f"{np.exp(mean):.1f}")
    return made


def _text(name: str, value: float | None) -> str:
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.1f}" if name.endswith("slots") else f"{value:.3f}"


def _what(number: Any) -> str:
    text = (getattr(number, "func", number).__doc__ or "").split("\n")[0]
    return text.partition(": ")[2] or text
