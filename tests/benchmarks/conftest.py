"""What every benchmark shares: the report says by which code and on which machine it was made."""

from __future__ import annotations

from typing import Any

import torch

import bench.cli  # noqa: F401  # large tensors lie in memory as `bench` lets them
from bench import environment


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    env = environment.describe("cpu", torch.get_num_threads())
    machine_info["environment"] = env | {"dirty": env["dirty"] or environment.uncommitted("tests/benchmarks")}
