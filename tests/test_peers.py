"""Our memories against implementations that nobody here wrote, each run by a Python of its own.

`BENCH_PEER_PYTHON` names a Python that has torch, numpy and the registry's `dnc==1.1.0` (without its dependency
flann, which its DNC does not use). With `BENCH_RECORDS=results` the outcome becomes a record there.
"""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import benchmarks, environment
from mann.dnc import DNC, DNCState

pytestmark = pytest.mark.long

SLOTS, WIDTH, READS, BATCH, STEPS, HIDDEN = 16, 8, 3, 4, 20, 10
PEER = """
import sys
from importlib.metadata import version
import torch
from dnc.memory import Memory

given = torch.load(sys.argv[1])
_, reads, slots = given["read"].shape
memory = Memory(given["hidden"].shape[2], slots, given["memory"].shape[2], reads, independent_linears=False).double()
memory.I = memory.I.double()
memory.interface_weights.load_state_dict({"weight": given["weight"], "bias": given["bias"]})
hidden = given["hidden"].requires_grad_()
state = {
    "memory": given["memory"], "link_matrix": given["links"].unsqueeze(1), "precedence": given["precedence"],
    "read_weights": given["read"], "write_weights": given["written"], "usage_vector": given["usage"],
}
outputs = []
for step in hidden:
    output, state = memory(step, state)
    outputs.append(output.flatten(1))
outputs = torch.stack(outputs)
(outputs * given["loss"]).sum().backward()
torch.save({
    "reads": outputs.detach(), "memory": state["memory"].detach(), "usage": state["usage_vector"].detach(),
    "links": state["link_matrix"].squeeze(1).detach(), "precedence": state["precedence"].detach(),
    "read": state["read_weights"].detach(), "written": state["write_weights"].detach(),
    "gradient of hidden": hidden.grad, "gradient of weight": memory.interface_weights.weight.grad,
    "gradient of bias": memory.interface_weights.bias.grad, "version": version("dnc"),
}, sys.argv[2])
"""


def peer_python() -> str:
    path = os.environ.get("BENCH_PEER_PYTHON", "")
    if not path:
        pytest.skip("BENCH_PEER_PYTHON is not set: it names a Python that has the package dnc")
    if not Path(path).exists():
        pytest.skip(f"BENCH_PEER_PYTHON={path} does not exist")
    return path


def a_state() -> DNCState:
    """Anything that could come about in the middle of a sequence, no two slots alike."""
    links = torch.rand(BATCH, SLOTS, SLOTS).double() / SLOTS
    links = torch.diagonal_scatter(links, torch.zeros(BATCH, SLOTS).double(), 0, 1, 2)
    return DNCState(
        torch.randn(BATCH, SLOTS, WIDTH).double(),
        torch.rand(BATCH, SLOTS).double(),
        links,
        torch.randn(BATCH, 1, SLOTS).double().softmax(2),
        torch.randn(BATCH, READS, SLOTS).double().softmax(2),
        torch.randn(BATCH, 1, SLOTS).double().softmax(2),
    )


def translated(theirs: Tensor) -> Tensor:
    """Their interface, [batch, size], as ours: the same controls once each has squashed its own."""
    sizes = [READS * WIDTH, READS, WIDTH, 1, WIDTH, WIDTH, READS, 1, 1, 3 * READS]
    keys, strengths, key, strength, erase, value, free, allocate, write, modes = theirs.split(sizes, 1)
    # 1 + softplus(ours) = softplus(theirs)
    strengths = torch.nn.functional.softplus(torch.cat((strengths, strength), 1)) - 1
    backward, forward, content = modes.unflatten(1, (READS, 3)).unbind(2)
    ours = (keys.tanh(), key.tanh(), value.tanh(), strengths.expm1().log(), erase, free, allocate, write)
    return torch.cat((*ours, torch.stack((backward, content, forward), 2).flatten(1)), 1)


def test_dnc_equals_the_package_dnc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Values and gradients over 20 steps in float64, from the same state, by the same linear map of the same vectors.

    Where the equations do not agree, and what is done about it here:

    - Strengths are softplus there, 1 + softplus here and in the paper; keys and the write vector go through tanh there
      and as they are here and in the paper; the modes come in another order. `translated` undoes all three; the biases
      of the strengths are large enough for softplus to be above 1.
    - A cosine is k·m / (|k||m| + 1e-6) there, and has the squares of lengths softened by 1e-6 here.
    - Usage is scaled into [1e-6, 1] for allocation there, and is as it is here. Neither of the two is undone: rows of
      the memory are about 3 long, and no slot is unused. From an empty memory the two put first writes into other
      slots, for theirs leaves a trace of 1e-6, 1e-12, ... in the slots that come next.

    The package's network around the memory is not compared: it draws the controller's first hidden state at random at
    each call.
    """
    python = peer_python()
    torch.manual_seed(0)
    memory = DNC(slots=SLOTS, width=WIDTH, reads=READS)
    linear = torch.nn.Linear(HIDDEN, memory.interface_size).double()
    with torch.no_grad():
        linear.bias[READS * WIDTH : READS * WIDTH + READS] = 4.0
        linear.bias[READS * WIDTH + READS + WIDTH] = 4.0
    hidden = torch.randn(STEPS, BATCH, HIDDEN).double().requires_grad_()
    loss = torch.randn(STEPS, BATCH, READS * WIDTH).double()
    start = a_state()
    given = {key: part.clone() for key, part in start._asdict().items()} | {
        "weight": linear.weight.detach(), "bias": linear.bias.detach(), "hidden": hidden.detach(), "loss": loss,
    }  # fmt: skip
    torch.save(given, tmp_path / "given.pt")
    files = [str(tmp_path / "given.pt"), str(tmp_path / "theirs.pt")]
    done = subprocess.run([python, "-I", "-c", PEER, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    theirs = torch.load(files[1])
    package = theirs.pop("version")

    reads, state = [], start
    for step in hidden:
        read, state = memory(translated(linear(step)), state)
        reads.append(read)
    (torch.stack(reads) * loss).sum().backward()
    trained = {"hidden": hidden, **dict(linear.named_parameters())}
    ours = {"reads": torch.stack(reads)} | state._asdict()
    ours |= {f"gradient of {key}": value.grad for key, value in trained.items()}
    assert ours.keys() == theirs.keys()
    differences = {key: float((ours[key].detach() - theirs[key]).abs().max()) for key in theirs}
    with capsys.disabled():
        print(f"\nlargest differences from dnc {package}:", {key: f"{value:.1e}" for key, value in differences.items()})
    scales = {key: float(value.abs().max()) for key, value in theirs.items()}
    for key, scale in scales.items():
        assert differences[key] < 1e-5 * max(scale, 1), key
        assert scale > 0.01, f"{key} is too small to compare"
    if "BENCH_RECORDS" in os.environ:
        keep(differences, scales, package)


def keep(differences: dict[str, float], scales: dict[str, float], package: str) -> None:
    """Write the outcome as a benchmark record, where the test is told to."""
    group = f"DNC beside the package dnc {package}: {STEPS} steps from one state, float64"
    entries = [
        benchmarks.measured(group, key, [value], "largest difference", extra={"largest value": scales[key]})
        for key, value in differences.items()
    ]
    env = environment.describe("cpu", torch.get_num_threads()) | {"precision": "float64"}
    env["dirty"] = env["dirty"] or environment.uncommitted("tests/test_peers.py")
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    note = "What is left: 1e-6 is added to |k||m| and to usage there, to squared lengths here. See tests/test_peers.py."
    record = benchmarks.record("peer-dnc", entries, env, made, {"dnc": package}, [note])
    print("wrote", benchmarks.write(Path(os.environ["BENCH_RECORDS"]), record))
