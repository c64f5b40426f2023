"""What `bench.simulation` found: as a record, as tables of docs/statistics.md, and as a picture.

`python -m bench.coverage RESULTS` simulates and writes `RESULTS/simulations/statistics.json`; `bench tables` writes the
tables and the picture, and `bench tables --check` says where these are not what the record says.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bench import cells, documents, environment, files, records, significance, simulation
from bench.charts import Chart, Line, Mark, Panel, short
from bench.config import MISSING, NONE, NUMBER, PLAIN, TEXT, TRUTH, WHOLE
from bench.errors import BenchError
from bench.frames import RATIOS
from bench.simulation import EFFECT, HEADLINE, RAW, SCENARIOS, SEEDS, Config, Entry

SCHEMA = 1
FILE = Path("simulations") / "statistics.json"
PAGE = Path("docs") / "statistics.md"
"""Where the tables stand, beside the results folder."""
PICTURE = "coverage.png"
SHAPE: Any = {
    "schema": WHOLE,
    "made": TEXT,
    "seconds": NUMBER,
    "env": {
        "dirty": TRUTH + NONE,
        "device": TEXT,
        "threads": WHOLE,
        "plugins": ({...: TEXT}, *MISSING),
        ...: PLAIN,
    },
    "config": {...: PLAIN},
    "scenarios": [{"name": TEXT, "metric": TEXT, "mean": [NUMBER], "run": [NUMBER], ...: PLAIN}],
    "entries": [{"scenario": TEXT, "what": TEXT, "kind": TEXT, "seeds": WHOLE, "n": WHOLE, "value": NUMBER}],
}
"""What is in the file, see `config.misfit`."""
SAME = "t, paired, same episodes for all seeds"
BOOTSTRAPS = ("bootstrap over seeds (BCa)", "bootstrap over seeds and episodes")
PAPERS = "one seed, over episodes"


# -------------------------------------------------------------------------------------------------------------- records


def record(config: Config) -> dict[str, Any]:
    """Simulate, and say how, where and how long: seconds of processor time."""
    began = time.process_time()
    entries = simulation.simulate(config)
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(time.process_time() - began, 1),
        "env": environment.describe("cpu", 1),
        "config": asdict(config),
        "scenarios": [{**asdict(s), "mean": list(s.mean), "run": list(s.run)} for s in SCENARIOS],
        "entries": [entry._asdict() for entry in entries],
    }


def write(results: Path, made: dict[str, Any]) -> Path:
    """Write a record; an older one is replaced.

    Raises:
        BenchError: the folder cannot be written.
    """
    path = results / FILE
    files.replace(path, records.short_lines(made).encode())
    return path


def load(results: Path) -> dict[str, Any] | None:
    """The record of a results folder; None where there is none.

    Raises:
        BenchError: a file that is not a whole record.
    """
    path = results / FILE
    return documents.read(path, "record of simulations", SCHEMA, SHAPE) if path.is_file() else None


def frame(made: dict[str, Any]) -> pd.DataFrame:
    """The entries of a record."""
    return pd.DataFrame(made["entries"], columns=list(Entry._fields))


# --------------------------------------------------------------------------------------------------------------- tables


def table(made: dict[str, Any], names: Sequence[str]) -> str:
    """One table of the page, as Markdown. names: "simulated", and which.

    Raises:
        BenchError: there is no table of that name.
    """
    if names[0] != "simulated" or names[-1] not in TABLES:
        raise BenchError(f"{PAGE} asks for a table of {' '.join(names)}; there are: simulated {', '.join(TABLES)}")
    return TABLES[names[-1]](frame(made))


def _intervals(found: pd.DataFrame) -> str:
    """Every interval over all scenarios: the lowest and highest coverage, by number of seeds."""
    return _by_seeds(found[found["kind"] == "coverage"], "interval", lambda v: _range(v, 1))


def _headline(found: pd.DataFrame) -> str:
    """The headline by scenario, and beside it what was decided against."""
    rows = found[(found["kind"] == "coverage") & found["what"].isin([HEADLINE, RAW])]
    return _by_seeds(rows, "", lambda v: _range(v, 1), key=["scenario", "what"])


def _decisions(found: pd.DataFrame) -> str:
    """How often decisions are wrong, lowest and highest over scenarios, by number of seeds."""
    return _by_seeds(found[found["kind"] == "error"], "wrong decision", lambda v: _range(v, 1))


def _power(found: pd.DataFrame) -> str:
    """How often differences, and equivalence, are found; and what noncentral t predicts."""
    text = {n: f"{100 * significance.power(n, EFFECT):.0f}" for n in SEEDS}
    foretold = pd.DataFrame([{"": "t: different, as computed", **{_seeds(n): text[n] for n in SEEDS}}])
    rows = _rows(found[found["kind"] == "power"], "", lambda v: _range(v, 0))
    return cells.table(pd.concat([rows, foretold]), [""])


TABLES: dict[str, Callable[[pd.DataFrame], str]] = {
    "intervals": _intervals, "headline": _headline, "decisions": _decisions, "power": _power,
}  # fmt: skip


def _by_seeds(rows: pd.DataFrame, title: str, text: Callable[[Iterable[float]], str],
              key: Sequence[str] = ("what",)) -> str:  # fmt: skip
    made = _rows(rows, title, text, key)
    return cells.table(made, [c for c in made if "seed" not in str(c)])


def _rows(rows: pd.DataFrame, title: str, text: Callable[[Iterable[float]], str],
          key: Sequence[str] = ("what",)) -> pd.DataFrame:  # fmt: skip
    """A row for each key, in the order of the record, and a column for each number of seeds."""
    made = []
    left = [title] if len(key) == 1 else list(key)
    for names, group in rows.groupby(list(key), sort=False):
        line = dict(zip(left, names, strict=True))
        for seeds, values in group.groupby("seeds")["value"]:
            line[_seeds(seeds)] = text(values)
        made.append(line)
    return pd.DataFrame(made, columns=[*left, *map(_seeds, sorted(set(rows["seeds"])))]).fillna("")


def _seeds(n: Any) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


def _range(values: Iterable[float], decimals: int) -> str:
    low, high = (f"{100 * pick(values):.{decimals}f}" for pick in (min, max))
    return low if low == high else f"{low}–{high}"


# -------------------------------------------------------------------------------------------------------------- picture


def chart(made: dict[str, Any]) -> Chart:
    """Coverage by number of seeds: the mean over scenarios, and from the lowest to the highest."""
    found = frame(made)
    ratios = {s["name"]: s["metric"] in RATIOS for s in made["scenarios"]}
    rows = found[found["kind"] == "coverage"].assign(ratio=found["scenario"].map(ratios))
    lines = (HEADLINE, RAW, SAME, *BOOTSTRAPS)
    panels = [_panel(rows[rows["ratio"] == kind], title, lines)
              for kind, title in ((False, "Accuracies"), (True, "Squared errors and bits"))]  # fmt: skip
    return Chart(
        "How often 95 % intervals of a difference hold the truth",
        "Simulated runs; lines: mean over scenarios, bands: from the worst to the best. Dashed: what is claimed. "
        "Dotted: one trained model each, ± over episodes, as papers print it; it does not depend on other seeds.",
        lines, panels,
    )  # fmt: skip


def _panel(rows: pd.DataFrame, title: str, names: Sequence[str]) -> Panel:
    places = {n: float(i) for i, n in enumerate(SEEDS)}
    lines = []
    for name in names:
        mine = rows[rows["what"] == name]
        by = 100 * mine.groupby("seeds")["value"].agg(["mean", "min", "max"])
        if len(by):
            x = tuple(places[int(n)] for n in by.index)
            lines.append(Line(name, x, short(by["mean"]), short(by["min"]), short(by["max"])))
    ends = (0.0, float(len(SEEDS) - 1))
    one = 100 * rows.loc[rows["what"] == PAPERS, "value"].mean()
    marks = [Mark("", ends, (95.0, 95.0), "threshold"), Mark(PAPERS, ends, short([one, one]))]
    ticks = tuple((place, str(n)) for n, place in places.items())
    return Panel(title, "seeds", "coverage, %", lines, marks, ticks, percent=True)


def pictures(made: dict[str, Any] | None) -> dict[str, Chart]:
    """The picture by file name; none without a record."""
    return {PICTURE: chart(made)} if made else {}


# ------------------------------------------------------------------------------------------------------------- command


def main(arguments: Sequence[str]) -> int:
    """`python -m bench.coverage RESULTS`: simulate, write the record."""
    try:
        made = record(Config())
        print(f"wrote {write(Path(*arguments), made)} in {made['seconds']:.0f} s of processor time")
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
