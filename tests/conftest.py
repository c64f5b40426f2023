"""Shared by all tests: where real data lies, and small tasks that need none."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from bench import registry

# Tests run side by side: threads of one would only wait for those of another, in subprocesses too.
os.environ["OMP_NUM_THREADS"] = "1"
# Output is as wide as in a pipe, whatever terminal the tests were started from.
os.environ.pop("COLUMNS", None)
torch.set_num_threads(1)
# No check of a test may hang on how busy the machine is, nor on chance: each run tries the same examples, `make
# test-search` new ones and more of them.
calm = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("calm", calm, max_examples=50, derandomize=True, database=None)
hypothesis.settings.register_profile("search", calm, max_examples=200, print_blob=True)
hypothesis.settings.load_profile("calm")
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder with real Omniglot; the test is skipped where there is none."""
    for root in (os.environ.get("BENCH_DATA"), ROOT.parent / "shared" / "data"):
        if root and (Path(root) / "omniglot" / "images_background.zip").is_file():
            return Path(root)
    pytest.skip("real Omniglot is not here; set BENCH_DATA to test with it")


@pytest.fixture(autouse=True, scope="session")
def _registered() -> None:
    registry.load()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes starts first: at the end one of the processes would wait for the other."""
    items.sort(key=lambda item: item.name.startswith("test_in_the_interpreter"), reverse=True)
