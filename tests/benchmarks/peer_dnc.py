"""A script for another Python, one that has the package dnc (and pyflann-ibeis for its sparse memories).

It makes a training step of one of the package's networks for each line on standard input, and answers each with a line:
first what it is, as JSON, then "done" a step. A network that cannot be trained says why instead, and that is all.
"""

import json
import sys
from importlib.metadata import version

import torch
from torch.nn import functional as F

variant, sizes = sys.argv[1], json.loads(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
answers, sys.stdout = sys.stdout, sys.stderr  # the package prints to standard output


def answer(text):
    """One line."""
    print(text, file=answers, flush=True)


try:
    import pyflann_ibeis

    sys.modules["pyflann"] = pyflann_ibeis  # a maintained build of the package that dnc imports by its old name
except ImportError:
    pass
import dnc  # noqa: E402

more = {} if variant == "DNC" else {"sparse_reads": sizes["k"]}
network = getattr(dnc, variant)(
    input_size=sizes["input"], hidden_size=sizes["hidden"], rnn_type="lstm", num_layers=1, num_hidden_layers=1,
    nr_cells=sizes["slots"], cell_size=sizes["width"], read_heads=sizes["reads"], gpu_id=-1, **more,
)  # fmt: skip
optimiser = torch.optim.Adam(network.parameters())
x = torch.rand(sizes["batch"], sizes["steps"], sizes["input"])
y = torch.randint(0, sizes["classes"], (sizes["batch"], sizes["steps"]))


def step():
    """Forward, backward, optimiser. The package's output is as wide as its input: the first numbers are the classes."""
    output, _ = network(x, (None, None, None), reset_experience=True, pass_through_memory=True)
    loss = F.cross_entropy(output[..., : sizes["classes"]].flatten(0, 1), y.flatten())
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


told = {"packages": {"dnc": version("dnc")}, "parameters": sum(p.numel() for p in network.parameters())}
try:
    step()
except Exception as error:
    answer(json.dumps(told | {"fails": f"{type(error).__name__}: {error}"}))
    sys.exit()
answer(json.dumps(told))
for _ in sys.stdin:
    step()
    answer("done")
