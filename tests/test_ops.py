"""Ops: each variant is its reference, and what an op declares is what it does."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from bench import measuring, registry, sizes
from bench.api import BenchError, Draw, Op
from bench.operations import as_tuple, differentiable_inputs, dtype_of

registry.load()
OPS = dict(sorted(registry.OPS.entries.items()))
PLACES = {"topk-read", "index-query", "sparse-write", "index-insert"}
"""Ops that touch a part of their inputs; what they declare is counted in tests of their own."""
EXACT = sorted(set(OPS) - PLACES)


def small(name: str, **changes: int) -> Op:
    """The op at sizes that differ from one another."""
    usual = {"slots": 24, "width": 12, "heads": 3, "k": 2, "steps": 4, "batch": 2, "units": 5} | changes
    known = {f.name for f in dataclasses.fields(OPS[name])}
    op = OPS[name](**{k: v for k, v in usual.items() if k in known})
    op.check()
    return op


def dtype(op: Op) -> torch.dtype:
    return torch.float64 if "float64" in op.dtypes else torch.float32


def variants_here(op: Op) -> list[str]:
    """Those that run on a CPU in the dtype of the test; compiled ones have a test of their own."""
    names = [n for n in measuring.names_of(type(op)) if n != "compiled"]
    return [n for n in names if not measuring.unsuited(type(op), n, str(dtype(op)).removeprefix("torch."), "cpu")]


def disagreement(op: Op, name: str, seed: int) -> float:
    """Of outputs, and of gradients where there are any."""
    draw = Draw(dtype(op), "cpu", seed)
    function = measuring.variant(op, name).function
    expected = measuring.results(op, op.reference, draw, op.differentiable)
    return measuring.disagreement(expected, measuring.results(op, function, draw, op.differentiable))


# ------------------------------------------------------------------------------------------------------------ agreement


@pytest.mark.parametrize("name", OPS)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_variants_are_the_reference_in_values_and_gradients(name: str, data: st.DataObject) -> None:
    heads = data.draw(st.integers(1, 4), "heads")
    k = data.draw(st.integers(1, 3), "k")
    slots = data.draw(st.integers(heads * k + 1, 40), "slots")
    # Attention shares the width among heads. Where slots are chosen by likeness, narrow ones are all equally near:
    # of one number each, all cosines are 1 or -1, and rounding decides which slot comes first.
    width = heads * data.draw(st.integers(3 if name in PLACES else 1, 6), "width of a head")
    batch, steps = data.draw(st.integers(1, 3), "batch"), data.draw(st.integers(1, 5), "steps")
    try:
        op = small(name, slots=slots, width=width, heads=heads, k=k, batch=batch, steps=steps)
    except BenchError:
        return  # a memory that is too small, as it says
    for variant in variants_here(op):
        off = disagreement(op, variant, data.draw(st.integers(0, 10**6), "seed"))
        assert off < (1e-10 if dtype(op) == torch.float64 else 1e-5), variant


@pytest.mark.parametrize("name", [n for n in OPS if "bfloat16" in OPS[n].dtypes])
def test_reduced_precision_is_close_to_the_reference_in_full(name: str) -> None:
    op = small(name)
    inputs = op.inputs(Draw(torch.bfloat16))
    found = as_tuple(op.eager(*inputs))
    expected = as_tuple(op.reference(*(x.double() for x in inputs)))
    assert measuring.disagreement(expected, [y.double() for y in found]) < measuring.TOLERANCE[torch.bfloat16]


@pytest.mark.long
@pytest.mark.parametrize("name", OPS)
def test_compiled_is_the_reference(name: str) -> None:
    op = small(name)
    torch._dynamo.reset()
    measuring.check(op, measuring.variant(op, "compiled"), Draw(dtype(op)), op.differentiable)


def test_a_variant_that_is_off_is_refused() -> None:
    op = small("read")
    draw = Draw(torch.float64)
    for function, said in (
        (lambda weights, memory: weights @ memory * (1 + 1e-8), "disagrees with the reference by 1.0e-08"),
        (lambda weights, memory: (weights @ memory).detach() + 0 * memory.sum(), "disagrees"),
        (lambda weights, memory: weights @ memory * float("nan"), "disagrees with the reference by inf"),
        (lambda weights, memory: weights @ memory.mT, "does not run: RuntimeError"),
    ):
        with pytest.raises(BenchError, match=said):
            measuring.check(op, measuring.Variant("wrong", function), draw, True)
    assert measuring.check(op, measuring.Variant("right", lambda weights, memory: weights @ memory), draw, True) >= 0


# --------------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("name", OPS)
def test_inputs_come_from_the_seed_and_have_shapes_without_memory(name: str) -> None:
    op = small(name)
    one, same, other, shapes = (op.inputs(Draw(dtype(op), *where)) for where in
                                (("cpu", 1), ("cpu", 1), ("cpu", 2), ("meta",)))  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert [(x.shape, x.dtype) for x in one] == [(x.shape, x.dtype) for x in shapes]


@settings(max_examples=50)
@given(st.integers(1, 60), st.integers(0, 10**6), st.data())
def test_distinct_numbers_are_distinct(below: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, below))
    drawn = Draw(seed=seed).distinct(below, 3, count)
    assert drawn.min() >= 0
    assert drawn.max() < below
    assert all(len(set(row.tolist())) == count for row in drawn)


# ---------------------------------------------------------------------------------------------------- traffic and flops


def nbytes(tensors: Any) -> int:
    return sum(x.nbytes for x in tensors)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("changes", [{}, {"slots": 33, "width": 6, "heads": 2, "batch": 3, "steps": 2}], ids=str)
def test_declared_traffic_is_the_size_of_inputs_and_outputs(name: str, changes: dict[str, int]) -> None:
    op = small(name, **changes)
    inputs = op.inputs(Draw(dtype(op)))
    outputs = as_tuple(op.eager(*inputs))
    work = op.least(dtype(op).itemsize)
    assert work.read == nbytes(inputs)
    assert work.written == nbytes(outputs)
    if op.differentiable:
        with_gradient = nbytes(differentiable_inputs(op, inputs))
        for x in differentiable_inputs(op, inputs):
            x.requires_grad_()
        gradients = nbytes(y for y in as_tuple(op.eager(*inputs)) if y.requires_grad)
        both = op.least_both(dtype(op).itemsize)
        assert both.read == 2 * work.read + gradients
        assert both.written == work.written + with_gradient


def test_a_sparse_read_touches_only_what_it_declares_behind_its_search() -> None:
    """All rows are searched; the gradient is read and written at K rows a head."""
    op = small("topk-read")
    memory, keys, strengths = op.inputs(Draw(torch.float64))
    work, both = op.least(8), op.least_both(8)
    read, slots = as_tuple(op.eager(memory, keys, strengths))
    assert work.read == nbytes((memory, keys, strengths))
    assert work.written == nbytes((read, slots))
    memory.requires_grad_()
    (gradient,) = torch.autograd.grad(as_tuple(op.eager(memory, keys, strengths))[0].sum(), memory)
    rows = gradient.any(2).sum().item()
    named = sum(len(set(row.flatten().tolist())) for row in slots)
    assert rows == named
    assert both.written - work.written == slots.numel() * op.width * 8 + nbytes((keys, strengths))  # type: ignore[attr-defined]
    assert rows <= slots.numel()


def test_a_sparse_write_changes_only_the_rows_it_declares() -> None:
    op = small("sparse-write")
    inputs = op.inputs(Draw(torch.float64))
    before, slots = inputs[0].clone(), inputs[3]
    unread = torch.ones_like(before, dtype=torch.bool)
    unread.scatter_(1, slots.unsqueeze(2).expand(-1, -1, 12), False)
    inputs[0][unread] = float("nan")  # all other rows
    before = inputs[0].clone()
    after = as_tuple(op.eager(*inputs))[0]
    changed = ~torch.isclose(after, before, rtol=0, atol=0, equal_nan=True).all(2)
    assert op.least(8).written == changed.sum().item() * 12 * 8
    assert torch.isfinite(after[changed]).all()
    kept = changed.scatter(1, slots[:, -1:], False)  # of the erased row nothing remains
    read = kept.sum().item() * 12 * 8 + nbytes(inputs[1:])
    assert op.least(8).read == read


@pytest.mark.parametrize("name", ["index-insert", "index-query"])
def test_an_index_op_declares_cells_and_rows_that_it_needs(name: str) -> None:
    op = small(name, slots=2048, width=16, batch=4)
    work, inputs = op.least(4), op.inputs(Draw())
    lsh = op.index  # type: ignore[attr-defined]
    if name == "index-insert":
        table, slots, old, new = inputs
        before = table.clone()
        after = as_tuple(op.eager(*inputs))[0]
        moved = (before[:, :-1] != after).sum().item()
        # Each row leaves a bucket and enters one in each table, but where both are the same, or a cell is taken over.
        assert 0.7 * work.written < moved * 4 <= work.written
        rows = nbytes((slots, old, new)) + lsh.planes.nbytes
        assert work.read == rows + 2 * slots.numel() * lsh.tables * lsh.capacity * 4
    else:
        table, keys, memory = inputs
        held = (lsh.candidates(table, keys) >= 0).sum().item() / keys[..., 0].numel()
        assert op.candidates <= held <= 2 * op.candidates  # type: ignore[attr-defined]
        assert work.written == nbytes(as_tuple(op.eager(*inputs)))
        assert nbytes((keys, lsh.planes)) < work.read < nbytes((table, keys, memory)) + lsh.planes.nbytes


def counted(op: Op, function: Callable[..., Any], backward: bool) -> int:
    """Operations of matrix products that PyTorch's own counter sees."""
    inputs = op.inputs(Draw(dtype(op)))

    def copied(*inputs: Tensor) -> Any:  # the counter does not take leaves as arguments of a module
        return function(*(x.clone() for x in inputs))

    call = measuring.both(op, copied, inputs, Draw(dtype(op), "cpu", 1)) if backward else None
    with FlopCounterMode(display=False) as counter:
        call() if call else function(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", OPS)
def test_declared_products_are_those_that_are_counted(name: str) -> None:
    op = small(name)
    work = op.least(dtype(op).itemsize)
    seen = counted(op, op.reference, False), counted(op, op.eager, False)
    assert work.products <= max(seen)
    if name in EXACT and work.products:
        assert work.products in seen
    if op.differentiable and work.products:
        both = op.least_both(dtype(op).itemsize).products
        most = max(counted(op, op.reference, True), counted(op, op.eager, True))
        # Less: products that an implementation makes twice. More: gradients of a first step that nobody asks for.
        assert 0.4 * most <= both <= 1.1 * most


@pytest.mark.parametrize("name", OPS)
def test_work_grows_with_the_size_that_is_swept(name: str) -> None:
    op = small(name)
    more = dataclasses.replace(op, **{op.swept: 4 * getattr(op, op.swept)})
    for few, many in ((op.least(4), more.least(4)), (op.least_both(4), more.least_both(4))):
        assert few.traffic > 0
        assert few.flops > 0
        if name not in ("sparse-write", "index-insert", "index-query"):
            assert many.traffic >= few.traffic
            assert many.flops > few.flops
    assert sizes.data(more, dtype(op)) > sizes.data(op, dtype(op))


@pytest.mark.parametrize("name", ["lrua-scan", "ntm-scan", "dnc-scan"])
def test_a_scan_works_on_its_state(name: str) -> None:
    op = small(name)
    (interface,) = op.inputs(Draw(torch.float64))
    state = op.cell.initial_state(op.batch, interface)  # type: ignore[attr-defined]
    assert op.held(torch.float64) == nbytes(state)


def test_a_sparse_write_costs_the_same_however_many_slots_there_are() -> None:
    assert small("sparse-write").least(4) == small("sparse-write", slots=2**20).least(4)


# ------------------------------------------------------------------------------------------------------------- registry


def test_every_variant_belongs_to_an_op() -> None:
    assert registry.VARIANTS.entries
    for name, function in registry.VARIANTS.entries.items():
        op, _, variant = name.rpartition(".")
        assert op in OPS, f"the variant {name} of {function.__module__} is of no op"
        assert variant not in measuring.AUTOMATIC
        assert (function.__doc__ or "").strip()


@pytest.mark.parametrize("name", OPS)
def test_ops_name_methods_that_exist_and_a_size_that_grows(name: str) -> None:
    op = OPS[name]
    assert op.source
    assert set(op.methods) <= set(registry.METHODS.entries)
    assert op.swept in op.__dataclass_fields__
    assert set(op.dtypes) <= {"float32", "float64", "bfloat16", "float16"}


def test_every_memory_op_of_the_papers_is_there() -> None:
    assert set(OPS) >= {
        "content", "read", "erase-add", "usage", "lrua-step", "shift-sharpen", "allocation", "links", "topk-read",
        "sparse-write", "index-insert", "index-query", "delta-update", "attention-read", "lrua-scan", "ntm-scan",
        "dnc-scan", "lrua-lstm-scan", "ntm-lstm-scan", "dnc-lstm-scan",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("usage", {"heads": 25}, "25 heads are more than 24"),
        ("attention-read", {"heads": 5}, "multiple of heads, not 12 of 5"),
        ("topk-read", {"k": 25}, "k=25 slots, more than the 24"),
        ("sparse-write", {"k": 9}, "28 slots, more than 24"),
        ("index-insert", {"k": 9}, "28 rows, more than 24"),
        ("index-query", {"k": 25}, "k=25 slots, more than the 24"),
        ("lrua-scan", {"heads": 25}, "heads <= slots"),
        ("ntm-scan", {"heads": 25}, "no more reads or writes than slots"),
        ("dnc-scan", {"heads": 25}, "reads <= slots"),
        ("lrua-step", {"width": 0}, "sizes of at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, changes: dict[str, int], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        small(name, **changes)


def test_a_dtype_that_an_op_lacks_is_refused() -> None:
    assert dtype_of("float64", OPS["links"]) is torch.float64
    with pytest.raises(BenchError, match="links has the dtypes float32, float64, not 'bfloat16'"):
        dtype_of("bfloat16", OPS["links"])


# --------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", [n for n in OPS if not n.startswith("index-")])
@pytest.mark.parametrize("backward", [False, True])
def test_a_footprint_is_known_without_allocating_it(name: str, backward: bool) -> None:
    """What tensors without memory need is what a profiled run allocates: within a factor, for temporaries differ."""
    op = small(name, slots=96, steps=9)
    backward = backward and op.differentiable
    told = measuring.footprint(op, dtype(op), backward)
    draw = Draw(dtype(op))
    inputs = op.inputs(draw)
    call = measuring.both(op, op.eager, inputs, draw.again(1)) if backward else measuring.forward(op.eager, inputs)
    call()
    cost = measuring.cost(call, "cpu", False)
    assert told.data == nbytes(inputs) + op.least(dtype(op).itemsize).written + op.held(dtype(op))
    assert cost.peak <= 1.2 * (told.peak - nbytes(inputs)) + 4096
    assert told.peak - nbytes(inputs) <= 3 * cost.peak + 3 * nbytes(inputs)


def test_kernels_of_a_gpu_are_counted_where_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """The events that an H200 gave for a product, a relu and a sum: three calls, and no kernel."""
    host = ["aten::mm", "cudaEventRecord", "cudaLaunchKernelExC", "aten::relu", "cudaLaunchKernel", "aten::sum",
            "cudaLaunchKernel", "cudaStreamIsCapturing", "cudaMalloc", "cudaDeviceSynchronize"]  # fmt: skip
    triton = ["cuLaunchKernelEx", "cuLaunchKernel", "cudaMemcpyAsync", "cudaMemsetAsync"]

    def event(name: str, kind: DeviceType, size: int = 0) -> SimpleNamespace:
        return SimpleNamespace(name=lambda: name, device_type=lambda: kind, nbytes=lambda: size)

    events = [event(name, DeviceType.CPU) for name in host + triton]
    events += [event("[memory]", DeviceType.CUDA, size) for size in (512, 256, -512, 128)]
    profiled = SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: events))
    monkeypatch.setattr(measuring, "profile", lambda **_: contextlib.nullcontext(profiled))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert measuring.cost(lambda: None, "cuda", False) == measuring.Cost(3 + 4, 896, 768)


def test_a_footprint_of_terabytes_costs_nothing() -> None:
    op = OPS["links"](slots=2**20)
    assert measuring.footprint(op, torch.float32, True).peak > 16 * 4 * 2**40


def test_launches_and_bytes_of_a_call_are_counted() -> None:
    x = torch.ones(1024)

    def call() -> Tensor:
        return ((x + 1).view(32, 32).t() * 2).sum()

    cost = measuring.cost(call, "cpu", False)
    assert cost.launches == 3
    assert 2 * x.nbytes <= cost.allocated <= 2 * x.nbytes + 256
    assert cost.peak <= cost.allocated
    assert measuring.cost(lambda: None, "cpu", False).launches == 1
    assert measuring.outermost([(1, 0, 10), (1, 2, 5), (1, 10, 12), (2, 3, 4), (1, 11, 12)]) == 3


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("128", [128]),
        ("64,256,1k", [64, 256, 1024]),
        ("64..1k", [64, 256, 1024]),
        ("64..512", [64, 128, 256, 512]),
        ("64..1M", [64 * 4**i for i in range(8)]),
        ("3..48", [3, 12, 48]),
        ("8..8", [8]),
        ("16,16..64, 2K", [16, 64, 2048]),
    ],
)
def test_sizes_are_read_as_typed(text: str, found: list[int]) -> None:
    assert sizes.parse(text, "slots") == found


@pytest.mark.parametrize("text", ["", "0", "-1", "64..", "..64", "1.5", "64..100", "64..16", "a", "64...128", "1G",
                                  "64..128..256", "9" * 20, "64,,128", "∞"])  # fmt: skip
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(BenchError, match="--slots"):
        sizes.parse(text, "slots")


@pytest.mark.parametrize("name", OPS)
def test_a_sweep_goes_from_inside_the_cache_to_beyond_it_or_to_its_limit_of_work(name: str) -> None:
    cache = 2**20
    points = sizes.points(OPS[name], {}, [], dtype(small(name)), cache, quick=False)
    swept = [getattr(p, p.swept) for p in points]
    assert swept == [swept[0] * 4**i for i in range(len(swept))]
    footprints = [sizes.data(p, dtype(p)) for p in points]
    assert all(f < sizes.BEYOND * cache for f in footprints[:-1])
    following = dataclasses.replace(points[-1], **{points[-1].swept: 4 * swept[-1]})
    assert footprints[-1] >= sizes.BEYOND * cache or following.least(8).flops > sizes.FLOPS
    quick = sizes.points(OPS[name], {}, [], dtype(small(name)), cache, quick=True)
    assert len(quick) <= sizes.QUICK
    assert quick[0] == points[0]


def test_sizes_asked_for_are_taken_as_a_grid_and_fields_that_an_op_lacks_left_out() -> None:
    asked = {"slots": [32, 64], "heads": [1, 2], "batch": [2]}
    points = sizes.points(OPS["lrua-scan"], asked, ["steps=3"], torch.float32, 2**20, False)
    assert [(p.slots, p.heads, p.batch, p.steps) for p in points] == [  # type: ignore[attr-defined]
        (32, 1, 2, 3), (32, 2, 2, 3), (64, 1, 2, 3), (64, 2, 2, 3)
    ]  # fmt: skip
    assert len(sizes.points(OPS["delta-update"], asked | {"width": [8]}, [], torch.float32, 2**20, False)) == 2
    for name in ("dnc-lstm-scan", "lrua-lstm-scan"):  # before any size is swept
        with pytest.raises(BenchError, match=f"{name}.units must be at least 1, not -1"):
            sizes.points(OPS[name], {}, ["units=-1"], torch.float32, 2**20, True)
    with pytest.raises(BenchError, match=r"lrua-scan.steps must be at least 1, not 0"):
        sizes.points(OPS["lrua-scan"], asked, ["steps=0"], torch.float32, 2**20, False)
