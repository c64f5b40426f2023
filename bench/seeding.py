"""Counter-based randomness: every draw is a function of a key, so nothing random needs to be saved.

`generator("train", task, seed, step)` is the same stream on every call, in every process, whatever ran
before. A checkpoint is then model + optimiser + step, and a resumed run equals an uninterrupted one.
"""

import hashlib

import numpy as np

Key = str | int


def derive(*key: Key) -> int:
    """128-bit integer from a key of strings and integers (type-aware: 1 and "1" differ)."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")


def generator(*key: Key) -> np.random.Generator:
    """NumPy generator (Philox, counter-based) for a key."""
    return np.random.Generator(np.random.Philox(key=derive(*key)))


def torch_seed(*key: Key) -> int:
    """63-bit seed for `torch.manual_seed`: parameter initialisation and dropout draw from torch's own stream."""
    return derive(*key) >> 65
