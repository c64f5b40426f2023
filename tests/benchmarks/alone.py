"""Measurements that need a process of their own, so that one's memory, caches and compiled code are not another's.

    alone("peaks", method="sam", fields={"slots": 1024}, batch=1, steps=[100])

asks this file, run as a script. The script imports what all measurements need, computes nothing itself, and forks for
each question: a fresh process without a second of imports. Its answer is what the function here of that name returns.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
MAPPED = 65536
"""Bytes from which a block is given back to the system as soon as it is freed, where memory is measured."""
M_MMAP_THRESHOLD = -3
NOISE = 0.5
"""How far a key is from the stored row that it looks for, as a part of the row's own length."""


class Failed(Exception):
    """The process ended without an answer; why, it told on standard error."""


def ask(name: str, **arguments: Any) -> subprocess.Popen[str]:
    """Put a question to a server that is not busy with one of this process; `answer` waits for it."""
    server = _idle.pop() if _idle else _start()
    assert server.stdin is not None
    print(json.dumps([name, arguments]), file=server.stdin, flush=True)
    return server


def answer(server: subprocess.Popen[str]) -> Any:
    """What a server says.

    Raises:
        Failed: it has no answer.
    """
    assert server.stdout is not None
    found = json.loads(server.stdout.readline() or "null")
    _idle.append(server)
    if found is None:
        raise Failed("no answer")
    return found


def alone(name: str, **arguments: Any) -> Any:
    """The answer to one question; see `answer`."""
    return answer(ask(name, **arguments))


def common_rates(endings: Sequence[Sequence[float]]) -> list[float]:
    """Steps a second of several processes while all of them ran, from when each of their steps ended.

    The first of a process's endings is where it began.
    """
    low, high = max(ends[0] for ends in endings), min(ends[-1] for ends in endings)
    inside = [[end for end in ends if low <= end <= high] for ends in endings]
    return [(len(ends) - 1) / (ends[-1] - ends[0]) for ends in inside]


_idle: list[subprocess.Popen[str]] = []


def _start() -> subprocess.Popen[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # type: ignore[union-attr]
    return server


def serve() -> None:
    """Answer questions on standard input, each in a process that ends with its answer."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        child = os.fork()
        if not child:
            with suppress(OSError):  # it is the one to go if memory runs out
                Path("/proc/self/oom_score_adj").write_text("1000")
            _reply(name, arguments)
        if os.waitpid(child, 0)[1]:
            print("null", flush=True)


def _reply(name: str, arguments: dict[str, Any]) -> NoReturn:
    """Answer and end at once: to take an interpreter with torch apart takes longer than most answers."""
    try:
        print(json.dumps(globals()[name](**arguments)), flush=True)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


# -------------------------------------------------------------------------------------------------------- measurements


def network(method: str, fields: dict[str, Any], backend: str) -> Any:
    """A learner of `steps.sized`."""
    import steps as shared
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    learner = shared.sized(method, **fields).build(shared.TASK)
    learner.use(backend)
    return learner


def sequence(learner: Any, batch: int, steps: int) -> Callable[[], None]:
    """Forward and backward pass over sequences of noise, from the initial state; parameters keep their gradients."""
    import steps as shared
    import torch

    x, y = torch.rand(batch, steps, *shared.TASK.x_shape), torch.randint(0, shared.TASK.n_out, (batch, steps))

    def run() -> None:
        learner.zero_grad(set_to_none=False)
        shared.TASK.loss(learner.stream(x, y), y).backward()

    return run


def peaks(method: str, fields: dict[str, Any], batch: int, steps: list[int], backend: str = "auto") -> list[int]:
    """By how many bytes the resident set at its peak was above what it was before, for sequences of some lengths.

    All that the steps keep and whatever they pass through, but not parameters and inputs: a short sequence goes before,
    so that what is made once is there. Large blocks are given back as soon as they are freed, so that what is counted
    is what is held, not the holes in a heap; smaller ones count as the pages they are on.
    """
    from bench import environment

    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, MAPPED)
    learner = network(method, fields, backend)
    sequence(learner, batch, 3)()
    found = []
    for count in steps:
        run = sequence(learner, batch, count)
        libc.malloc_trim(0)  # what was freed goes back to the system, and counts when it is needed again
        environment.reset_peak_memory("cpu")
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        run()
        found.append(environment.peak_memory("cpu") - before)
    return found


def process_peak(method: str, fields: dict[str, Any], batch: int, steps: int, backend: str) -> int:
    """Bytes of the whole process at its peak in forward and backward, everything counted."""
    from bench import environment

    run = sequence(network(method, fields, backend), batch, steps)
    environment.reset_peak_memory("cpu")
    run()
    return environment.peak_memory("cpu")


def steps_of_full_memory(method: str, fields: dict[str, Any], batch: int, seconds: float) -> dict[str, Any]:
    """Forward and backward of one step of a network whose memory is full: its times, each with an input of its own.

    The controller is in it, the optimiser is not. backend: what ran. recall: of keys at `NOISE` from a stored row, the
    share whose nearest row the memory's index finds, and that of the K nearest rows, where it has one. bytes: what the
    process took above what it had before, at its peak.
    """
    import torch
    from fill import filled, recall

    from bench import environment
    from mann.learner import State

    learner = network(method, fields, "auto")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    environment.reset_peak_memory("cpu")
    like = learner.interface.weight.detach()
    memory = filled(learner.memory, batch)
    state = State(
        learner.controller.initial_state(batch, like), like.new_zeros(batch, learner.memory.read_size), memory
    )
    label, times = torch.zeros(batch, 1, learner.y_size), []
    while len(times) < 2 or (sum(times[1:]) < seconds and len(times) < 101) or (len(times) < 4 and sum(times) < 10):
        x = torch.rand(batch, 1, 1, 20, 20)
        learner.zero_grad()
        began = time.perf_counter()
        learner.run(x, label, state)[0].square().sum().backward()
        times.append(time.perf_counter() - began)
    found = recall(learner.memory, memory, NOISE)
    return {"seconds": times[1:], "backend": "+".join(sorted(learner.ran)), "recall": found,
            "bytes": environment.peak_memory("cpu") - before}  # fmt: skip


def endings(method: str, backend: str, seconds: float, folder: str, processes: int) -> list[float]:
    """When training steps ended that were made one after the other, by a clock that all processes share.

    They begin when so many processes have come to the folder.
    """
    import torch

    learner = network(method, {}, backend)
    run = sequence(learner, 16, 50)
    optimiser = torch.optim.Adam(learner.parameters())
    for _ in range(3):
        run()
        optimiser.step()
    (Path(folder) / str(os.getpid())).touch()
    while len(os.listdir(folder)) < processes:
        time.sleep(0.001)
    ends = [time.monotonic()]
    while ends[-1] - ends[0] < seconds:
        run()
        optimiser.step()
        ends.append(time.monotonic())
    return ends


def first_use(method: str) -> float:
    """Seconds until the first training step by a fused scan is made, that of the second taken off."""
    learner = network(method, {}, "reference")
    run, times = sequence(learner, 2, 3), []
    run()
    for _ in range(2):
        began = time.perf_counter()
        learner.use("fused")
        run()
        times.append(time.perf_counter() - began)
    return times[0] - times[1]


def main(arguments: list[str]) -> None:
    """Serve, or answer the one question of the arguments: a name and JSON."""
    if arguments:
        print(json.dumps(globals()[arguments[0]](**json.loads(arguments[1]))))
        return
    import fill  # noqa: F401
    import steps as shared

    from mann.kernels import registry

    registry.find(shared.sized("mann").build(shared.TASK), "cpu")  # imports the modules of all scans
    serve()


if __name__ == "__main__":
    main(sys.argv[1:])
