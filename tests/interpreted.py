"""Tests of the Triton kernels in Triton's interpreter, on the CPU; run by `test_triton.py` with TRITON_INTERPRET=1.

A module imported without it has compiled kernels, so these tests have a process of their own.
"""

import pytest
import torch

pytest.importorskip("triton")

from bench import measuring, registry
from bench.api import BenchError
from mann import LRUA, NTM, unroll
from mann.kernels import cuda_scans, triton_checks, triton_content, triton_learner, triton_write
from mann.kernels import registry as scans
from mann.kernels.triton_lrua import lrua_scan
from mann.kernels.triton_ntm import ntm_scan
from mann.learner import reference

NAMES = [name for name, _ in triton_checks.subjects(triton_checks.ODD, triton_checks.seeded())]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """So that a memory of odd size fills several blocks, the last one in part; and unwritten memory is NaN."""
    for module in (triton_content, triton_write):
        monkeypatch.setattr(module, "CELLS", 256)
    monkeypatch.setattr(triton_content, "GROUPS", 1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_equals_its_reference_in_values_and_gradients(name):
    generator = triton_checks.seeded(1)
    subject = next(s for each, s in triton_checks.subjects(triton_checks.ODD, generator) if each == name)
    result = triton_checks.compare(subject, "cpu", torch.float64, generator)
    assert result.rows == result.of, "usages came close: choose another seed"
    assert max(result.values, result.gradients) < 1e-12
    assert result.repeatable


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", triton_checks.REHEARSED)
def test_other_dtypes_lose_no_more_than_their_rounding(name, dtype):
    generator = triton_checks.seeded(1)
    subject = next(s for each, s in triton_checks.subjects(triton_checks.ODD, generator) if each == name)
    assert triton_checks.compare(subject, "cpu", dtype, generator).passed(dtype)


@pytest.mark.parametrize("name", ["content", "erase-add", "lrua-step", "lrua-scan", "ntm-scan"])
def test_what_is_profiled_on_a_gpu_gives_what_its_op_gives(name):
    registry.load()
    op = registry.OPS.entries[name](batch=2, slots=6, width=3, **({"steps": 3} if name.endswith("scan") else {}))
    draw = measuring.Draw(torch.float64, "cpu")
    assert measuring.check(op, measuring.variant(op, "triton"), draw, backward=True) > 0


def test_paper_sizes_leave_rows_to_compare():
    """At 128 slots some two usages are always close; what counts is which are the smallest."""
    subjects = dict(triton_checks.subjects(triton_checks.PAPER, triton_checks.seeded()))
    subject = subjects["lrua (separate, gated, erase all) + lstm"]
    subject.reference(subject.module.double(), subject.inputs)
    rows = triton_checks._clear(subject.usages, 16, subject.written, triton_checks.CLOSE[torch.float32])
    assert 8 <= rows.sum() < 16
    tied = [torch.tensor([[0.0, 0.1, 0.1, 0.5], [0.0, 0.1, 0.2, 0.2]])]
    assert triton_checks._clear(tied, 2, 2, 1e-5).tolist() == [0, 1]


def test_a_wrong_gradient_would_be_found():
    generator = triton_checks.seeded()
    subject = triton_checks.write_subject(triton_checks.ODD, generator, 1)
    fast = subject.fast
    subject.fast = lambda module, inputs: [y + 1e-4 * inputs[1].sum() - 1e-4 * inputs[1].detach().sum()
                                           for y in fast(module, inputs)]  # fmt: skip
    result = triton_checks.compare(subject, "cpu", torch.float64, generator)
    assert result.values < 1e-12
    assert not result.passed(torch.float64)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 1), (1, 1, 4, 3, 4), (3, 1, 33, 2, 1)])
def test_lrua_at_the_edges(sizes):
    batch, steps, slots, width, heads = sizes
    cell = LRUA(slots=slots, width=width, heads=heads).double()
    interface = torch.randn(batch, steps, cell.interface_size, dtype=torch.float64)
    expected, state = unroll(cell, interface)
    found, after = lrua_scan(cell, interface, cell.initial_state(batch, interface))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(after.memory, state.memory)


@pytest.mark.parametrize("memory", ["lrua", "ntm"])
def test_from_the_initial_state_where_all_slots_are_alike(memory):
    """Which of equal slots is chosen is rounding's affair; what is read, and gradients, do not depend on it."""
    cell, scan = (LRUA(slots=5, width=3, heads=2), lrua_scan) if memory == "lrua" else (NTM(slots=5, width=3), ntm_scan)
    cell = cell.double()
    interface = torch.randn(2, 4, cell.interface_size, dtype=torch.float64, requires_grad=True)
    state = cell.initial_state(2, interface)
    expected, found = unroll(cell, interface)[0], scan(cell, interface, state)[0]
    torch.testing.assert_close(found, expected)
    seed = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(reads, interface, seed)[0] for reads in (found, expected)))


def test_zero_memory_zero_input_and_large_input_stay_finite():
    cell = LRUA(slots=5, width=3, heads=2, constant=0.0).double()
    for scale in (0.0, 1e4):
        interface = (scale * torch.randn(2, 4, cell.interface_size, dtype=torch.float64)).requires_grad_()
        expected = unroll(cell, interface)[0]
        found = lrua_scan(cell, interface, cell.initial_state(2, interface))[0]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y.sum(), interface)[0] for y in (found, expected)))


def test_a_sequence_in_two_parts_is_the_whole():
    cell = NTM(slots=5, width=3).double()
    interface = torch.randn(2, 5, cell.interface_size, dtype=torch.float64)
    state = cell.initial_state(2, interface)
    whole, end = ntm_scan(cell, interface, state)
    first, middle = ntm_scan(cell, interface[:, :2], state)
    second, last = ntm_scan(cell, interface[:, 2:], middle)
    torch.testing.assert_close(torch.cat((first, second), 1), whole, rtol=0, atol=0)
    torch.testing.assert_close(last.memory, end.memory, rtol=0, atol=0)


def test_the_state_that_is_given_is_left_alone():
    cell = LRUA(slots=5, width=3, heads=2)
    interface = torch.randn(2, 3, cell.interface_size)
    state = cell.initial_state(2, interface)
    before = [part.clone() for part in state]
    lrua_scan(cell, interface, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize(
    ("method", "options"),
    [("mann", {}), ("mann", {"feed_read": False}), ("ntm", {}), ("ntm", {"start": "learned", "feed_read": False})],
)
def test_a_learner_is_the_same_by_scan(method, options):
    task = registry.TASKS.entries["glyphs-online"](way=2, length=4, size=8)
    sizes = {"slots": 6, "width": 3, "controller_size": 5} | ({"heads": 2} if method == "mann" else {})
    torch.manual_seed(0)
    learner = registry.METHODS.entries[method](**sizes, **options).build(task).double()
    projected = torch.randn(2, 4, 20, dtype=torch.float64)
    state = learner.initial_state(2, projected)
    results = [run(learner, projected, state) for run in (reference, triton_learner.scan)]
    wanted = [p for name, p in learner.named_parameters() if "input" not in name and "output" not in name]
    for a, b in zip(*([*r[:2], r[2].read, *r[2].controller, *r[2].memory] for r in results), strict=True):
        torch.testing.assert_close(a, b)
    grads = [torch.autograd.grad(sum(y.square().sum() for y in r[:2]), wanted) for r in results]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_the_registry_gives_a_learner_the_scan_after_holding_it_against_the_reference(monkeypatch):
    """As on a GPU, but for the name of the device."""
    task = registry.TASKS.entries["glyphs-online"](way=2, length=4, size=8)
    learner = registry.METHODS.entries["ntm"](slots=6, width=3, controller_size=5).build(task)
    found = scans.SCANS["cuda", NTM, type(learner.controller)]
    scans.find(learner, "cpu")  # those of the CPU are registered when first asked for
    monkeypatch.setitem(scans.SCANS, ("cpu", NTM, type(learner.controller)), found)
    before = torch.random.get_rng_state()
    learner.use("fused")
    assert torch.equal(torch.random.get_rng_state(), before)
    x, label = torch.rand(2, 4, 64), torch.rand(2, 4, 2)
    by_scan, _ = learner.run(x, label, learner.initial_state(2, x))
    assert learner.ran == {"fused"}
    learner.use("reference")
    torch.testing.assert_close(by_scan, learner.run(x, label, learner.initial_state(2, x))[0])


@pytest.mark.parametrize(("slots", "width", "heads"), [(512, 32, 8), (2048, 8, 16)])
def test_a_memory_of_many_slots_can_be_checked(slots, width, heads):
    """The more slots, the closer the usages: too close in two rows to tell whether a scan is right."""
    options = LRUA(slots=slots, width=width, heads=heads).options
    assert cuda_scans._verified(LRUA, options, 2, False, torch.device("cpu"), torch.float32) is None


def test_a_scan_that_is_wrong_here_is_not_used(monkeypatch):
    task = registry.TASKS.entries["glyphs-online"](way=2, length=4, size=8)
    learner = registry.METHODS.entries["ntm"](slots=7, width=3, controller_size=5).build(task)
    good = triton_checks.triton_ntm.ntm_controlled

    def wrong(*given):
        out, state = good(*given)
        return out._replace(reads=1.01 * out.reads), state

    monkeypatch.setattr(triton_checks.triton_ntm, "ntm_controlled", wrong)
    assert "disagrees with the reference on this device" in cuda_scans.unsuited(learner)
    learner = registry.METHODS.entries["mann"](slots=1024).build(task)
    assert "16384 cells at most" in cuda_scans.unsuited(learner)


def test_bad_input_is_refused_in_a_sentence():
    cell = LRUA(slots=5, width=3, heads=2)
    state = cell.initial_state(2, torch.zeros(1))
    with pytest.raises(BenchError, match="float32, bfloat16 and float64, not float16"):
        lrua_scan(cell, torch.zeros(2, 3, cell.interface_size, dtype=torch.float16), state)
    with pytest.raises(BenchError, match=r"\[batch, time, size\]"):
        lrua_scan(cell, torch.zeros(2, cell.interface_size), state)
