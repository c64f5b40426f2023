"""GPU kernels without a GPU: in Triton's interpreter they equal the reference; for real devices they compile.

`interpreted.py` holds the tests that the interpreter runs.
"""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from bench.api import BenchError
from mann import LRUA
from mann.kernels import triton_support

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not here: pip install 'mannbench[gpu]' on Linux"
)
README = ROOT / "mann" / "kernels" / "README.md"


# ---------------------------------------------------------------------------------------------------------- interpreter


@needs_triton
@pytest.mark.parametrize("group", ["equals", "not equals"])
def test_in_the_interpreter(group):
    command = [sys.executable, "-m", "pytest", "tests/interpreted.py", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [*command, "-k", group], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 10


# -------------------------------------------------------------------------------------------------------------- refusal


def test_without_triton_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    assert "pip install 'mannbench[gpu]'" in triton_support.missing(torch.device("cuda"))
    with pytest.raises(BenchError, match="the GPU kernels need Triton"):
        triton_support.require(torch.zeros(1))


@needs_triton
def test_a_cpu_is_refused():
    from mann.kernels.triton_lrua import lrua_scan

    cell = LRUA(slots=5, width=3, heads=2)
    with pytest.raises(BenchError, match="run on CUDA devices, not on cpu"):
        lrua_scan(cell, torch.zeros(2, 3, cell.interface_size), cell.initial_state(2, torch.zeros(1)))


def test_a_memory_too_large_for_a_block_is_refused():
    assert triton_support.oversized(128, 40) is None
    assert "needs 65536" in triton_support.oversized(1000, 40)


@needs_triton
def test_constants_are_the_references():
    from mann import addressing, lrua
    from mann.kernels import triton_content_kernels, triton_lrua_kernels, triton_ntm_kernels

    assert {lrua.EPSILON} == {m.EPSILON.value for m in (triton_lrua_kernels, triton_content_kernels)}
    assert {addressing.SOFTENING} == {m.SOFTENING.value for m in (triton_ntm_kernels, triton_content_kernels)}
    assert triton_ntm_kernels.LEAST.value == addressing.LEAST


# -------------------------------------------------------------------------------------------------------------- compile


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_for_devices_that_are_not_here(capability):
    from mann.kernels.triton_resources import SHARED_LIMIT, paper

    found = paper(capability)
    assert {r.kernel for r in found} >= {
        "content_forward", "content_combine", "content_backward", "write_forward", "write_backward", "lrua_forward",
        "lrua_backward", "ntm_forward", "ntm_backward",
    }  # fmt: skip
    for r in found:
        assert r.shared <= SHARED_LIMIT[capability], r
        assert r.registers * 32 * r.warps <= 65536, r
        if r.kernel.endswith("_forward") or r.kernel == "content_combine":
            assert r.spill_stores == r.spill_loads == 0, r
