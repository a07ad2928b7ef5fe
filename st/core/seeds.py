"""Every random choice has a generator of its own, named after what it decides.

A stream depends on the experiment's seed and its labels alone: not on what was drawn before it, the
number of processes, or the machine. That is what makes resuming exact, and two methods that start
from the same structure and seed start from the same weights. Parts that must not share what they
draw, as a subnet's fresh weights and its supernet's, have seeds of their own (`derive`).
"""

import zlib

import numpy as np


def stream(seed: int, *labels: str | int) -> np.random.Generator:
    """The generator of `labels` under `seed`."""
    words = [label if isinstance(label, int) else zlib.crc32(label.encode()) for label in labels]
    return np.random.default_rng([seed, *words])


def derive(seed: int, *labels: str | int) -> int:
    """A seed that follows from `seed` and `labels`: for torch.Generator, or for a part of the
    experiment whose streams must be others than those of its other parts."""
    return int(stream(seed, *labels).integers(2**63 - 1))
