"""Checkpoints: tensors, numbers and strings alone, never a pickled object; the last two are kept."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bench import files
from bench.errors import BenchError

FORMAT = 1
KEEP = 2


def folder(results: Path, cell_id: str) -> Path:
    """Where the checkpoints of a cell live."""
    return results / ".bench" / "checkpoints" / cell_id


def save(path: Path, cell_id: str, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        BenchError: the folder cannot be written or the disk is full.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "id": cell_id, **content}, buffer)
    files.replace(path, buffer.getvalue())


def load(path: Path, cell_id: str, lazily: bool = False) -> dict[str, Any]:
    """Read a checkpoint, checked to belong to a cell. lazily: tensors stay in the file until they are used.

    Raises:
        BenchError: not a checkpoint (a pickle of objects is refused unread), from a newer version, or another cell's.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise BenchError(f"there is no checkpoint {path}; run the cell again to make one") from None
    except Exception as error:  # torch raises many kinds; all mean the same to the user
        raise BenchError(
            f"{path} is not a checkpoint of tensors and numbers ({type(error).__name__}); it is refused: delete it and "
            "run again"
        ) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BenchError(f"{path} is not a checkpoint of this version; delete it and run again")
    if content.get("id") != cell_id:
        raise BenchError(
            f"{path} belongs to another spec ({content.get('id')}, not {cell_id}); delete it and run again"
        )
    return content


def save_step(results: Path, cell_id: str, step: int, content: dict[str, Any]) -> None:
    """Write the checkpoint after a step and drop all but the last two."""
    home = folder(results, cell_id)
    save(home / f"step-{step}.pt", cell_id, {"step": step, **content})
    for old in _steps(home)[:-KEEP]:
        (home / f"step-{old}.pt").unlink(missing_ok=True)


def latest(results: Path, cell_id: str, lazily: bool = False) -> dict[str, Any] | None:
    """The newest step's checkpoint, or None where there is none; see `load`.

    Raises:
        BenchError: it cannot be used.
    """
    home = folder(results, cell_id)
    steps = _steps(home)
    return load(home / f"step-{steps[-1]}.pt", cell_id, lazily) if steps else None


def begun(results: Path, ids: Iterable[str]) -> dict[str, int]:
    """Which of some cells are in their training, or stopped in it, and the step from which each goes on."""
    return {id: steps[-1] for id in ids if (steps := _steps(folder(results, id)))}


def known(results: Path) -> set[str]:
    """The ids of all cells that have checkpoints."""
    home = folder(results, "")
    return {entry.name for entry in os.scandir(home)} if home.is_dir() else set()


def drop_steps(results: Path, cell_id: str) -> None:
    """Delete the checkpoints of a finished cell; the tested parameters in final.pt stay."""
    home = folder(results, cell_id)
    for step in _steps(home):
        (home / f"step-{step}.pt").unlink(missing_ok=True)


def _steps(home: Path) -> list[int]:
    names = (re.fullmatch(r"step-(\d+)\.pt", p.name) for p in home.glob("step-*.pt"))
    return sorted(int(m[1]) for m in names if m)
