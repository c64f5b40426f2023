"""The ops of the memories, as `bench profile` times them: what is computed, on what, and the least that it costs.

`dense` touches every slot, `sparse` a few, `scans` run whole sequences, `sequences` with the LSTM before them. Faster
kernels register themselves as variants (`bench.api.variant`), from wherever they live. In what follows B is the batch,
N slots, W width, R heads.
"""

from mann.ops import cpu, dense, gpu, scans, sequences, sparse

__all__ = ["cpu", "dense", "gpu", "scans", "sequences", "sparse"]
