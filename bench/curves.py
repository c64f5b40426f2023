"""Learning curves of records as TensorBoard's event files, a folder a record; W&B reads these too (`wandb sync`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from bench.errors import BenchError
from bench.records import Record


def tensorboard(found: Iterable[Record], out: Path) -> int:
    """Write the points of all curves, and the test scores at the step tested; returns the number of new folders.

    A record that has its folder is left alone.

    Raises:
        BenchError: TensorBoard is not installed, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise BenchError("TensorBoard is not installed; pip install 'mannbench[tensorboard]' brings it") from error
    count = 0
    for record in found:
        folder = out / record.task / record.method / f"s{record.seed}-{record.id}"
        part, metric = folder.with_name(f".{folder.name}-{os.getpid()}"), record.result["metric"]
        points = [(f"train/{key}", p["step"], p[key]) for p in record.result["curve"] for key in ("loss", "val")]
        tests = [(f"test {name}".strip() + f"/{metric}", record.result["selected_step"] or 0, scores["mean"])
                 for name, scores in record.result["evaluations"].items()]  # fmt: skip
        if folder.exists():
            continue
        try:
            with SummaryWriter(str(part)) as writer:
                for name, step, value in [*points, *tests]:
                    if value is not None:
                        writer.add_scalar(name, value, step)
            os.replace(part, folder)
        except OSError as error:
            raise BenchError(f"cannot write {folder}: {error.strerror}; choose another folder") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        count += 1
    return count
