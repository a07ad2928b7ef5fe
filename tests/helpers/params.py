"""A tiny params.yaml, and ways to spoil one."""

import numpy as np

# Small enough to train in a moment; `vgg` learns it.
TINY = """
seeds: [0]
datasets:
  digits: {source: digits, augment: {crop: 1}}
architectures:
  vgg: {family: vgg, options: {layers: [8, M, 8]}, sparsity: 1e-3}
training: {epochs: 2, batch_size: 64, lr: 5e-2, schedule: onecycle}
supernets:
  sparse: {sparse: true, bn_scale: 0.5, rewind_epoch: 1}
searches:
  slimming: {supernet: sparse, criterion: bn_scale, budget: {params: 0.5}}
methods:
  st: {search: slimming, objective: {ce: 0.1, kd: {weight: 0.9, temperature: 4}, cc: 0.02}}
  lottery: {search: slimming, init: rewind}
evaluation: {latency_rounds: 2}
"""


class DROP:
    """The key is left out."""


def changed(data: dict, key: str, value) -> dict:
    *path, last = key.split(".")
    place = data
    for part in path:
        place = place.setdefault(part, {})
    if value is DROP:
        del place[last]
    else:
        place[last] = value
    return data


JUNK = [None, True, -1, 0, 7, 1.5, "x", "", [], {}, [0], [[0]], {"a": 1}, float("nan"), 10**30, "M"]


def mutate(value, rng):
    """The same JSON data with one thing in it replaced, removed or added."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        key = rng.choice(np.array(list(value), dtype=object)) if isinstance(value, dict) else None
        key = int(rng.integers(len(value))) if key is None else key
        copy = value.copy()
        if rng.random() < 0.15:
            del copy[key]
        else:
            copy[key] = mutate(value[key], rng)
        return copy
    return JUNK[rng.integers(len(JUNK))]
