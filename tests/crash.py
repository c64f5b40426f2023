"""Kills a run with SIGKILL at random moments, many times, then lets it end. A script: it forks, so it runs alone.

Arguments: results folder, number of kills, seed, then the command line without --results. Prints how many records
there were after each kill; exits with 1 where a finished record was lost, changed or is not whole.
"""

from __future__ import annotations

import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from bench import cli, interface, records
from bench.training import Context


def child(command: list[str]) -> None:
    """Run the command; never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    os._exit(cli.call(command))


def main(results: Path, kills: int, seed: int, command: list[str]) -> int:
    """Kill, check, kill again."""
    torch.set_num_threads(1)
    interface.Context = functools.partial(Context, checkpoint_s=0.0)  # type: ignore[assignment, misc]
    for _ in range(2):  # the second time everything is imported: how long a cell takes here and now
        began = time.monotonic()
        cli.call([*command, "--results", tempfile.mkdtemp(dir="."), "--seeds", "0"])
        cell_s = time.monotonic() - began
    command += ["--results", str(results)]
    rng = random.Random(seed)
    finished: dict[Path, bytes] = {}
    counts = []
    for _ in range(kills):
        process = os.fork()
        if process == 0:
            child(command)
        time.sleep(rng.uniform(0, 2 * cell_s))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        now = {p: p.read_bytes() for p in (results / "runs").glob("*/*/s*.json")}
        for path in now.keys() - finished.keys():
            records.read(path)  # whole, or an error
        if not finished.items() <= now.items():
            print("lost or changed:", [p for p in finished if finished[p] != now.get(p)])
            return 1
        finished = now
        counts.append(len(finished))
    process = os.fork()
    if process == 0:
        child(command)
    print(json.dumps({"records": counts}))
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
