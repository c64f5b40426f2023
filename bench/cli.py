"""The command line. Nothing heavy is imported before a command runs, so that `--help` comes at once."""

from __future__ import annotations

import os
import signal
import threading

if _early := (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    # Ctrl-C while the modules below are imported: there is nothing to stop yet, and nothing to say.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

# Threads of torch that wait by spinning make a step eight times as slow where other programs keep a core busy. OpenMP
# reads this once, when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Large tensors lie in pages of 2 MiB, where Linux gives them to those who ask: faults of small pages took more than
# half of a sparse step. Torch reads this when it first allocates.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import atexit
import contextlib
import ctypes
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench import __version__, completion
from bench.errors import BenchError

# What a step frees is kept for the next one, which would ask the kernel for its pages again: a quarter of the time of a
# step of ten small seeds. glibc reads the variables when a process starts: the workers', while this one is told.
for _variable, _number, _bytes in (("MALLOC_MMAP_THRESHOLD_", -3, 32 << 20), ("MALLOC_TRIM_THRESHOLD_", -1, 256 << 20)):
    if sys.platform == "linux" and _variable not in os.environ and hasattr(_libc := ctypes.CDLL(None), "mallopt"):
        _libc.mallopt(_number, _bytes)
        os.environ[_variable] = str(_bytes)

USER_ERROR, INTERRUPTED, BROKEN_PIPE = 2, 130, 141
RESULTS = Path("results")


class Stopped(Exception):
    """Ctrl-C, in a form that typer does not swallow."""


class Group(TyperGroup):
    """Typer turns KeyboardInterrupt into exits of its own, differently from version to version."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an interruption reaches `main`."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped from None


def _example(*lines: str) -> str:
    return "\b\nExample" + ("s" if len(lines) > 1 else "") + ":\n" + "\n".join(f"  {line}" for line in lines)


# Without markup typer's help is click's own, which imports no rich: 0.1 s less.
app = typer.Typer(
    cls=Group,
    name="bench",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark and reproduce memory-augmented neural networks and few-shot learners.",
    epilog=_example("bench run smoke", "bench run -m 'mann*' -t omniglot --set omniglot.way=20 --seeds 0-4"),
)
data_app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, get and check data sets.",
    epilog=_example("bench data list", "bench data get omniglot --data data"),
)
app.add_typer(data_app, name="data")


def _complete_id(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    return completion.ids(Path(ctx.params.get("results") or RESULTS), incomplete)


Suite = Annotated[
    str | None,
    typer.Argument(help="A suite's name, or the path of a .toml file.", autocompletion=completion.suites),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "-m", "--method", metavar="METHOD", help="A method, or a pattern as 'mann*'.", autocompletion=completion.methods
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option("-t", "--task", metavar="TASK", help="A task, or a pattern.", autocompletion=completion.tasks),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A field, as mann.slots=256 or budget.test_episodes=1000.",
                 autocompletion=completion.settings),
]  # fmt: skip
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of records.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of data sets; else $BENCH_DATA.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugin", metavar="FILE", help="A Python file that registers methods, tasks or ops of yours."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout; everything else goes to stderr.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mannbench {__version__}")
        raise typer.Exit


@app.callback()
def _bench(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command("list", epilog=_example("bench list methods", "bench list mann", "bench list tasks --json"))
def list_(
    what: Annotated[
        str | None,
        typer.Argument(help="methods, tasks, ops, suites, or the name of one.", autocompletion=completion.entries),
    ] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """List methods, tasks, ops and suites; or one, with its fields.

    Those fields are what --set takes.
    """
    _prepare(plugin)
    from bench import registry, views
    from bench.grid import suites

    kinds = {
        "methods": lambda: [views.entry(registry.METHODS, n) for n in sorted(registry.METHODS.entries)],
        "tasks": lambda: [views.entry(registry.TASKS, n) for n in sorted(registry.TASKS.entries)],
        "ops": lambda: [views.entry(registry.OPS, n) for n in sorted(registry.OPS.entries)],
        "suites": lambda: [views.suite(n) for n in suites()],
    }
    out = views.console()
    if what is None or what in kinds:
        found = {kind: kinds[kind]() for kind in kinds if what in (None, kind)}
        if as_json:
            _json(found if what is None else found[what])
        else:
            for kind, entries in found.items():
                out.print(views.entries_table(kind, entries))
        return
    described = (registry.METHODS, registry.TASKS, registry.OPS)
    one = [views.entry(reg, what) for reg in described if what in reg.entries]
    one += [views.suite(what)] if what in suites() or what.endswith(".toml") else []
    if not one:
        known = [*kinds, *(name for reg in described for name in reg.entries), *suites()]
        raise BenchError(
            registry.known_as(what) or registry.unknown("method, task, op or suite", what, known, "bench list")
        )
    if as_json:
        _json(one[0] if len(one) == 1 else one)
        return
    for each in one:
        (views.print_suite if each["kind"] == "suite" else views.print_entry)(out, each)


@app.command(
    epilog=_example(
        "bench run smoke",
        "bench run -m protonet -m 'mann*' -t omniglot --steps 5000 --seeds 0-4",
        "bench run smoke --set maml.inner_lr=0.4 --dry-run",
        "bench run omniglot --shard 1/8 --workers 2 --results out",
        "bench run omniglot --executor slurm --workers 50",
    )
)
def run(
    suite: Suite = None,
    method: Methods = None,
    task: Tasks = None,
    setting: Settings = None,
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="SEEDS", help="Seeds, as 0-4, 3 or 0,2,5-7.")] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", help="Training steps of each cell.")] = None,
    data: Data = None,
    results: Results = RESULTS,
    workers: Annotated[int, typer.Option(metavar="N", help="Cells at the same time, each in a process.")] = 1,
    executor: Annotated[str, typer.Option(metavar="NAME", help="Where: local, or as jobs of slurm or ray.")] = "local",
    threads: Annotated[int | None, typer.Option(metavar="N", help="Torch threads of each; else cores shared.")] = None,
    stack: Annotated[int, typer.Option(metavar="N", help="Seeds at once in one pass, of small methods that can.")] = 1,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu, cuda or auto.")] = "cpu",
    backend: Annotated[
        str, typer.Option("--backend", metavar="BACKEND", help="auto, reference or fused: how memories are computed.")
    ] = "auto",
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Run the I-th of N parts only.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells, and which are recorded; run none.")
    ] = False,
    picture: Annotated[bool, typer.Option(help="Draw the overview picture at the end.")] = True,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Run methods on tasks; skip, resume, record.

    A cell is method × task × seed × budget. What is recorded is skipped, what was interrupted is resumed. Ends with
    a table of what this call touched. Exit code: 0 all done, 1 cells failed, 2 something to mend, 130 interrupted.
    """
    _prepare(plugin, data, needed=True)
    from bench import executor as executors
    from bench import grid, running, training

    executors.named(executor)
    chosen = partial(grid.plan, suite, method or (), task or (), seeds, setting or (), steps)
    with _stdout_for_json(as_json):
        plan = running.planned(chosen) if dry_run else chosen()
        cells = plan.cells if shard is None else grid.shard(plan.cells, shard)
        request = running.Request(
            suite, cells, plan.notes, results, workers, threads, device, training.backend_of(backend), executor, stack,
            picture,
        )  # fmt: skip
        code, told = running.dry_run(request, as_json) if dry_run else running.run(request, as_json)
    if as_json:
        _json(told)
    if code == INTERRUPTED:
        raise Stopped
    raise typer.Exit(code)


@app.command(epilog=_example("bench status smoke", "bench status --results out"))
def status(suite: Suite = None, data: Data = None, results: Results = RESULTS, as_json: Json = False,
           plugin: Plugins = None) -> None:  # fmt: skip
    """Count cells that are done, pending, diverged, failed."""
    _prepare(plugin, data)
    from bench import running

    with _stdout_for_json(as_json):
        told = running.status(suite, results, as_json)
    if as_json:
        _json(told)


@app.command(epilog=_example("bench show 3f9c", "bench show 3f9c --json"))
def show(
    id: Annotated[
        str, typer.Argument(metavar="ID", help="A record's id, or its first digits.", autocompletion=_complete_id)
    ],
    results: Results = RESULTS,
    data: Data = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Show one record, and the command that makes it again."""
    from bench import records

    path, record = records.find(results, id)
    if as_json:
        typer.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    _prepare(plugin, data)
    from bench import views

    views.print_record(views.console(), record, path)
    from bench import origins

    if whose := origins.load(results).get(record.id):
        typer.echo(f"\nimported from {whose}")


@app.command(epilog=_example("bench inspect 3f9c", "bench inspect -m mann -t glyphs-online --steps 0"))
def inspect(
    id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A record's id, or its first digits.", autocompletion=_complete_id),
    ] = None,
    method: Methods = None,
    task: Tasks = None,
    setting: Settings = None,
    steps: Annotated[int, typer.Option(metavar="0", help="Without an ID: 0, an untrained memory.")] = 0,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Without an ID: its seed, else 0.")] = None,
    episode: Annotated[int, typer.Option(metavar="N", help="Which test episode, from 0.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="If its checkpoint is gone, train it again first.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to write to; else out/inspect-ID.")] = None,
    results: Results = RESULTS,
    data: Data = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Look into a memory: where it reads and writes.

    Writes pictures and tables of one test episode, and prints numbers over many: does the memory find what it stored,
    and how long does it keep it? From a record's checkpoint, or of an untrained memory.
    """
    _prepare(plugin, data)
    from bench import inspection

    with _stdout_for_json(as_json):
        subject = inspection.choose(id, method, task, setting, steps, seed, results, again)
        told = inspection.inspect(subject, episode, out, as_json)
    if as_json:
        _json(told)


@app.command(
    epilog=_example(
        "bench compare protonet relation -t omniglot --margin 0.5", "bench compare cavia reptile --at 'step 10'"
    )
)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A method, as `bench tables` names it or by its name alone.",
                                     autocompletion=completion.methods)],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.", autocompletion=completion.methods)],
    task: Annotated[str | None, typer.Option("-t", "--task", metavar="TASK", help="Only on this task.",
                                             autocompletion=completion.tasks)] = None,
    setting: Annotated[str | None, typer.Option(metavar="NAME", help="Only in this setting, as the screen names it: "
                                                "'length=40'.")] = None,
    at: Annotated[str, typer.Option(metavar="PLACE", help="As 'instance 2' or 'step 1'; else overall.")] = "",
    margin: Annotated[float | None, typer.Option(metavar="X", help="Smallest difference that matters: points, or % "
                                                 "of squared errors and bits.")] = None,
    failures: Annotated[str, typer.Option(metavar="HOW", help="Diverged runs: excluded and counted, or scored as "
                                          "chance.")] = "excluded",
    dirty: Annotated[bool, typer.Option("--dirty", help="Also records made by uncommitted code.")] = False,
    results: Results = RESULTS,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:  # fmt: skip
    """Compare two methods: is A better, how sure, at what cost?

    Paired over the seeds that both have, task by task; ends with the sentence one would write in a paper.
    """
    _prepare(plugin)
    from bench import comparing

    request = comparing.Request(a, b, results, task, setting, at, failures, margin, dirty)
    with _stdout_for_json(as_json):
        told = comparing.compare(request, as_json)
    if as_json:
        _json(told)


@app.command(epilog=_example("bench tables", "bench tables smoke --results out", "bench tables --check"))
def tables(
    suite: Annotated[list[str] | None, typer.Argument(help="Suites; else all that have records.",
                                                      autocompletion=completion.suites)] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 and name what is stale.")] = False,
    dirty: Annotated[bool, typer.Option("--dirty", help="Also records made by uncommitted code.")] = False,
    results: Results = RESULTS,
    data: Data = None,
    plugin: Plugins = None,
) -> None:  # fmt: skip
    """Write tables and pictures anew from the records.

    Tables go to results/tables/ as Markdown, CSV and LaTeX, pictures to results/pictures/.
    """
    _prepare(plugin, data)
    from bench.refresh import refresh

    raise typer.Exit(refresh(suite or [], results, check, dirty))


@app.command(epilog=_example("bench report --open", "bench report smoke -o smoke.html", "bench report --watch --open"))
def report(
    suite: Annotated[list[str] | None, typer.Argument(help="Suites; else all that have records.",
                                                      autocompletion=completion.suites)] = None,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The page.")] = Path("report.html"),
    opened: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Serve it on this machine alone, and follow the records.")]
    = False,
    port: Annotated[int, typer.Option(metavar="N", help="Of --watch; 0: any that is free.")] = 8765,
    dirty: Annotated[bool, typer.Option("--dirty", help="Also records made by uncommitted code.")] = False,
    results: Results = RESULTS,
    data: Data = None,
    plugin: Plugins = None,
) -> None:  # fmt: skip
    """Write one page of all results: verdicts, curves, costs, published figures.

    One HTML file that needs no network: rankings and verdicts, learning curves, costs, ours beside published,
    what memories do, profiles, every record, and how it was all made and judged.
    """
    _prepare(plugin, data)
    from bench.report import command

    if watch:
        command.watch(suite or [], results, port, dirty=dirty, opened=opened)
    else:
        command.write(suite or [], results, out, dirty=dirty, opened=opened)


@app.command(
    epilog=_example(
        "bench profile --quick",
        "bench profile content links --slots 64..16k --backward",
        "bench profile --memory ntm --compare results/profiles/my-cpu/ntm-scan.json",
        "bench profile --memory mann --trace",
    )
)
def profile(
    op: Annotated[
        list[str] | None, typer.Argument(metavar="[OP]...", help="Ops, or patterns; else all.",
                                         autocompletion=completion.ops)
    ] = None,
    memory: Annotated[str | None, typer.Option(metavar="METHOD", help="Only what this method's memory does.",
                                               autocompletion=completion.methods)] = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help="cpu or cuda.")] = "cpu",
    slots: Annotated[str | None, typer.Option(metavar="SIZES", help="As 64..1M or 64,256,1k.")] = None,
    width: Annotated[str | None, typer.Option(metavar="SIZES", help="Numbers that a slot holds.")] = None,
    heads: Annotated[str | None, typer.Option(metavar="SIZES", help="Heads.")] = None,
    batch: Annotated[str | None, typer.Option(metavar="SIZES", help="Rows of a batch.")] = None,
    setting: Annotated[list[str] | None, typer.Option("--set", metavar="OP.FIELD=VALUE",
                                                      help="Another size of an op, as lrua-scan.steps=20.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", metavar="DTYPE",
                                       help="float32, float64; some ops: bfloat16.")] = "float32",
    backward: Annotated[bool, typer.Option("--backward", help="Also forward and backward pass together.")] = False,
    variant: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only eager, compiled, or fused.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Two sizes, few samples, little compiled: a minute.")] = False,
    compare: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Against an older profile; or give two.")]
    = None,
    trace: Annotated[bool, typer.Option("--trace", help="Where a training step's time goes; of --memory, else mann.")]
    = False,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Torch threads; else all cores.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", show_default=False, help="Folder of profiles; else "
                                             "results/profiles, or with --quick out/profiles.")] = None,
    picture: Annotated[bool, typer.Option(help="Draw the pictures at the end.")] = True,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:  # fmt: skip
    """Time memory operations against the hardware's limits.

    Every op is swept from what fits into the cache to what does not, hot and cold, in all its variants, and judged by
    the roofs that this machine shows in the same process. Ends with a table; writes a file an op, and pictures.
    """
    _prepare(plugin)
    from bench import profiling, sizes

    given = {"slots": slots, "width": width, "heads": heads, "batch": batch}
    if out is None:  # two sizes, to see that all works, must not take the place of a whole sweep
        out = Path("out" if quick else RESULTS) / "profiles"
    request = profiling.Request(
        ops=op or (), memory=memory, device=device, dtype=dtype, settings=setting or (), variants=variant or (),
        sizes={name: sizes.parse(text, name) for name, text in given.items() if text is not None}, backward=backward,
        quick=quick, threads=threads, out=out, compare=compare[0] if compare else None, picture=picture,
    )  # fmt: skip
    if trace:
        from bench import tracing

        told = tracing.run(request, as_json)
    elif compare and len(compare) == 2 and not op:
        told = profiling.compare(compare[0], compare[1], as_json)
    elif compare and len(compare) > 1:
        raise BenchError("--compare takes one file, or two files and no op")
    else:
        told = profiling.run(request, as_json)
    if as_json:
        _json(told)


@data_app.command("list", epilog=_example("bench data list"))
def data_list(data: Data = None, as_json: Json = False) -> None:
    """Show where data sets are, digest and licence."""
    _data_folder(data)
    from bench import data as sets
    from bench import views

    listing = sets.listing()
    if as_json:
        _json([each._asdict() for each in listing])
        return
    made = views.table("name", "found in", "digest", "licence", "source")
    for e in listing:
        digest = e.digest[:12] if e.digest else ("not read yet" if e.found else "")
        made.add_row(e.name, str(e.found or f"not found; {e.remedy}"), digest, e.licence, e.source)
    views.console().print(made)


@data_app.command("get", epilog=_example("bench data get omniglot", "bench data get omniglot --data data"))
def data_get(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set.")], data: Data = None) -> None:
    """Download a data set; checksums are verified."""
    from bench import data as sets

    if data is not None:
        data.mkdir(parents=True, exist_ok=True)
    _data_folder(data)
    folder = sets.get(name, data)
    typer.echo(f"{name} is in {folder}")


@data_app.command("check", epilog=_example("bench data check omniglot"))
def data_check(name: Annotated[str, typer.Argument(metavar="NAME", help="A data set.")], data: Data = None) -> None:
    """Read a data set and verify every picture."""
    _data_folder(data)
    from bench import data as sets

    typer.echo(f"{name} is whole: sha256 {sets.check(name)}")


@app.command(
    epilog=_example(
        "bench export --bundle supplement.zip",
        "bench export omniglot sinusoid --bundle mine.zip",
        "bench export --tensorboard out/curves",
    )
)
def export(
    suite: Annotated[list[str] | None, typer.Argument(help="Suites; else all records.",
                                                      autocompletion=completion.suites)] = None,
    bundle: Annotated[Path | None, typer.Option(metavar="FILE.zip", help="Records, tables and report, packed.")] = None,
    tensorboard: Annotated[Path | None, typer.Option(metavar="DIR", help="Learning curves as event files.")] = None,
    dirty: Annotated[bool, typer.Option("--dirty", help="Also records made by uncommitted code.")] = False,
    results: Results = RESULTS,
    data: Data = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:  # fmt: skip
    """Pack records, tables and report, with checksums.

    For a paper's supplement, or for another lab's `bench import`. The same results folder gives the same bytes.
    """
    if bundle is None and tensorboard is None:
        raise BenchError("say what to write: --bundle FILE.zip or --tensorboard DIR")
    _prepare(plugin, data)
    from bench import bundles, curves

    with _stdout_for_json(as_json):
        told = {} if bundle is None else bundles.export(bundle, suite or [], results, dirty, as_json)
    if tensorboard is not None:
        count = curves.tensorboard(bundles.chosen(suite or [], results, dirty), tensorboard)
        typer.echo(f"wrote the curves of {count} more records into {tensorboard}", err=as_json)
    if as_json:
        _json(told)


@app.command("import", epilog=_example("bench import theirs.zip", "bench import theirs.zip --from 'Lab of X'"))
def import_(
    bundle: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle of `bench export`.")],
    sender: Annotated[str, typer.Option("--from", metavar="NAME", help="Whose it is; else the file's name.")] = "",
    ours: Annotated[bool, typer.Option("--ours", help="Keep what is here with another result.")] = False,
    results: Results = RESULTS,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Add the records of a bundle: all, or none.

    Every member is checked against its sha256, every record's id against its spec. What is here already stays; a
    record that is here with another result is named, and nothing is imported.
    """
    from bench import bundles

    told = bundles.take(bundle, results, sender, ours, as_json)
    if as_json:
        _json(told)


@app.command(epilog=_example("bench diff HEAD~1 HEAD", "bench diff results out"))
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A results folder, or a git revision.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another.")],
    results: Annotated[Path, typer.Option("--results", metavar="DIR", help="Of a revision: which folder.")] = RESULTS,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Tell which numbers moved, and whether beyond noise.

    Scores of the same method, task and budget are compared over seeds, or over the same test episodes where there are
    one or two seeds. Exit code: 0 nothing moved beyond noise, 1 something did, 2 something to mend.
    """
    _prepare(plugin)
    from bench import differences

    with _stdout_for_json(as_json):
        code, told = differences.run(old, new, results, as_json)
    if as_json:
        _json(told)
    raise typer.Exit(code)


@app.command(epilog=_example("bench doctor", "bench doctor --json"))
def doctor(data: Data = None, results: Results = RESULTS, as_json: Json = False, plugin: Plugins = None) -> None:
    """Describe this machine, for a bug report."""
    _prepare(plugin, data, quiet=True)
    from bench import doctor as examination

    report = examination.examine(results)
    if as_json:
        _json(report)
    else:
        typer.echo(examination.text(report))


def main() -> int:
    """The console command."""
    code = call(sys.argv[1:])
    if code == INTERRUPTED:
        # Ctrl-C is answered at once: taking torch apart module by module lasts longer than all that was left to do.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)
    return code


def call(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. What the user can mend is one sentence on stderr, never a trace."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without × still gets its table
    try:
        code = app(list(arguments), prog_name="bench", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except BenchError as error:
        return _say(str(error), USER_ERROR)
    except (Stopped, KeyboardInterrupt, typer.Abort):
        return _say(_resume(arguments), INTERRUPTED, "stopped; ")
    except BrokenPipeError:
        return _unread()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # which click turns into the code 1
            return _unread()
        raise
    except OSError as error:  # a folder without permission, a name that is too long, a full disk
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}", USER_ERROR)
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return USER_ERROR
        return _say(error.format_message(), USER_ERROR)
    except Exception as error:
        from bench import registry

        if not (said := registry.blame(error)):
            raise
        return _say(f"{said}; BENCH_DEBUG=1 shows where it was called", USER_ERROR)


def _usage_error() -> type[Any]:
    # Typer came to carry its own copy of click, so the class is found by its family, not by its module.
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


USAGE = _usage_error()


def _unread() -> int:
    """Whoever read our output has gone; the interpreter must not try again to flush it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def _say(message: str, code: int, prefix: str = "error: ") -> int:
    if os.environ.get("BENCH_DEBUG") and sys.exc_info()[1] is not None and code != INTERRUPTED:
        raise
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    typer.echo((typer.style(prefix, fg="red") if colour else prefix) + " ".join(message.split()), err=True)
    return code


def _resume(arguments: Sequence[str]) -> str:
    command = shlex.join(["bench", *arguments])
    if "run" in arguments:
        return f"run the same command again to resume: {command}"
    return f"nothing was lost; again: {command}"


def _prepare(
    plugins: Sequence[Path] | None, data: Path | None = None, quiet: bool = False, needed: bool = False
) -> None:
    """Load the registry with the user's files; a plug-in that fails is named and everything else works.

    needed: a file that was asked for must not fail. Something else of the same name would run in its place.
    """
    _data_folder(data)
    if plugins:
        mine = [str(p.resolve()) for p in plugins]
        others = [p for p in os.environ.get("BENCH_PLUGINS", "").split(os.pathsep) if p and p not in mine]
        os.environ["BENCH_PLUGINS"] = os.pathsep.join([*mine, *others])
    from bench import registry

    with contextlib.redirect_stdout(sys.stderr), _interrupted_at_once():  # what plug-ins print is no output of ours
        registry.load()
    for path in plugins or () if needed else ():
        if why := registry.failures.get(f"file {path.resolve()}"):
            raise BenchError(f"--plugin {path} could not be loaded, and nothing is run: {' '.join(why.split())}")
    if not quiet:
        for origin, why in registry.failures.items():
            typer.echo(f"warning: {origin} could not be loaded and is left out: {' '.join(why.split())}", err=True)


def _data_folder(data: Path | None) -> None:
    if data is None:
        return
    if not data.is_dir():
        raise BenchError(f"there is no folder {data}; --data takes the folder that holds omniglot/ and the like")
    os.environ["BENCH_DATA"] = str(data.resolve())


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, default=str))


@contextlib.contextmanager
def _stdout_for_json(wanted: bool) -> Iterator[None]:
    """Whatever methods and tasks print meanwhile, here or in worker processes, goes to stderr."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _interrupted_at_once() -> Iterator[None]:
    """Ctrl-C ends the process on the spot: as an exception in the middle of torch's import it would be a crash."""
    if not _usual_ctrl_c():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _usual_ctrl_c() -> bool:
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler


if _early:
    signal.signal(signal.SIGINT, signal.default_int_handler)
