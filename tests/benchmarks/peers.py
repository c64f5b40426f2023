"""Other people's packages, each in a Python of its own, which does a piece of work for each line that it is sent."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PEERS = {"dnc": "BENCH_PEER_PYTHON", "learn2learn": "BENCH_LEARN2LEARN_PYTHON"}
"""Which variable names the Python that has the package."""
OURS = ("OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""What `bench` sets for itself: its peers have what the system gives."""


@contextmanager
def peer(package: str, *arguments: str) -> Iterator[tuple[Callable[[], None], dict[str, Any]]]:
    """Starts `peer_<package>.py`; gives a function that has one piece of work done, and what the script told of itself.

    The test is skipped where there is no such Python.
    """
    python = os.environ.get(PEERS[package])
    if not python:
        pytest.skip(f"${PEERS[package]} names no Python that has the package {package}")
    command = [python, str(Path(__file__).parent / f"peer_{package}.py"), *arguments]
    env = {key: value for key, value in os.environ.items() if key not in OURS}
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = process.stdin, process.stdout
        assert questions is not None
        assert answers is not None

        def piece() -> None:
            print(file=questions, flush=True)
            assert answers.readline() == "done\n"

        try:
            yield piece, json.loads(answers.readline())
        finally:
            questions.close()
