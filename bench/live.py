"""Progress of a run: bars in a terminal, plain lines everywhere else; both on stderr."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from bench.executor import QUEUED, WAITING, Outcome
from bench.grid import Cell
from bench.training import COMPILING, Progress

EVERY_S = 10.0
"""A plain line a running cell at most so often; after some minutes up to once a minute."""


@dataclass
class Pace:
    """How fast a cell goes, measured from where this call took it up."""

    began: float
    first: int
    shown: float = 0.0
    phase: str = ""
    now: Progress | None = None

    def rate(self) -> float:
        """Steps a second."""
        assert self.now is not None
        return (self.now.step - self.first) / max(time.monotonic() - self.began, 1e-9)

    def text(self) -> str:
        """Step, loss, speed and time left, or the phase."""
        assert self.now is not None
        if self.now.phase != "training":
            return self.now.phase
        rate = self.rate()
        left = f", {duration((self.now.steps - self.now.step) / rate)} left" if rate > 0 else ""
        return f"step {self.now.step}/{self.now.steps}, loss {self.now.loss:.4g}, {rate:.3g} steps/s{left}"


@dataclass
class Board:
    """What both displays know: cells, how far each is, and how much is done."""

    cells: dict[str, Cell]
    out: Console
    began: float = field(default_factory=time.monotonic)
    paces: dict[str, Pace] = field(default_factory=dict)
    done: int = 0

    def note(self, progress: Progress) -> Pace:
        """Take in what a cell reports."""
        pace = self.paces.get(progress.id)
        # The clock starts with the first step, which is a later one where training is resumed.
        if pace is None or (
            pace.now is not None and progress.phase != pace.now.phase in (QUEUED, "starting", WAITING, COMPILING)
        ):
            pace = self.paces[progress.id] = Pace(time.monotonic(), progress.step)
        pace.now = progress
        return pace

    def end(self, outcome: Outcome, told: str) -> str:
        """The line for a cell that ended."""
        self.paces.pop(outcome.cell.id, None)
        self.done += 1
        elapsed = duration(time.monotonic() - self.began)
        return f"{outcome.status:6} {outcome.cell.label}: {told} ({self.done}/{len(self.cells)}, {elapsed})"

    def fraction(self) -> float:
        """Cells done, counting parts of the running ones."""
        parts = (p.now.step / p.now.steps for p in self.paces.values() if p.now is not None and p.now.steps)
        return self.done + sum(parts)


class Display(Protocol):
    """What `bench run` talks to."""

    def __enter__(self) -> Display: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None: ...  # fmt: skip

    def report(self, progress: Progress) -> None:
        """A running cell's news; called at every step, so cheap."""

    def finished(self, outcome: Outcome, told: str) -> None:
        """A cell ended; told is its score or what went wrong."""


def display(cells: list[Cell], out: Console) -> Display:
    """The display that suits a console."""
    board = Board({c.id: c for c in cells}, out)
    return Moving(board) if out.is_terminal else Lines(board)


class Lines:
    """One line now and then, never a carriage return."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def report(self, progress: Progress) -> None:
        """Print where a cell is, if its last line is old enough."""
        pace, now = self.board.note(progress), time.monotonic()
        waits = progress.phase in (WAITING, COMPILING) and pace.phase != progress.phase
        pace.phase = progress.phase
        every = min(60.0, max(EVERY_S, (now - pace.began) / 10))
        if waits or now - (pace.shown or pace.began) >= every:
            pace.shown = now
            self._print(f"{self.board.cells[progress.id].label}: {pace.text()}")

    def finished(self, outcome: Outcome, told: str) -> None:
        """Print how a cell ended; what was interrupted is said once, at the end."""
        if outcome.status != "interrupted":
            self._print(self.board.end(outcome, told))

    def _print(self, line: str) -> None:
        self.board.out.print(line, soft_wrap=True)


class Moving:
    """A bar for all cells and one for each running cell."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.bars = Bars(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=board.out, refresh_per_second=4, transient=True,
        )  # fmt: skip
        self.all = self.bars.add_task("all cells", total=len(board.cells), text="")
        self.each: dict[str, TaskID] = {}

    def __enter__(self) -> Moving:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def report(self, progress: Progress) -> None:
        """Move a cell's bar, a few times a second."""
        pace, now = self.board.note(progress), time.monotonic()
        if now - pace.shown < 0.2 and pace.phase == progress.phase:
            return
        pace.shown, pace.phase = now, progress.phase
        if progress.id not in self.each:
            self.each[progress.id] = self.bars.add_task(self.board.cells[progress.id].label, text="")
        total = progress.steps or None  # none: the bar pulses
        self.bars.update(self.each[progress.id], total=total, completed=progress.step, text=pace.text())
        self._move_all()

    def finished(self, outcome: Outcome, told: str) -> None:
        """Take a cell's bar away and leave a line."""
        if outcome.status == "interrupted":
            return
        if outcome.cell.id in self.each:
            self.bars.remove_task(self.each.pop(outcome.cell.id))
        style = "red" if outcome.status == "failed" else None
        self.board.out.print(self.board.end(outcome, told), style=style)
        self._move_all()

    def _move_all(self) -> None:
        done, count = self.board.fraction(), len(self.board.cells)
        elapsed = time.monotonic() - self.board.began
        left = f", {duration(elapsed * (count - done) / done)} left" if 0 < done < count else ""
        self.bars.update(self.all, completed=done, text=f"{self.board.done}/{count} cells, {duration(elapsed)}{left}")


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
