"""What tests share: small networks of every family, random structures and weights, a tiny grid."""

import copy
import logging
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

import numpy as np
import pytest
import yaml
from hypothesis import settings

from st.core import progress
from st.data.dataset import Data
from st.networks.graph import draw
from st.networks.structure import Structure

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")

# (family, options): each drawing feature at least once, small enough to run many times
SMALL = {
    "vgg": ("vgg", {"layers": [6, 8, "M", 10, "M", 12]}),
    "vgg-hidden": ("vgg", {"layers": [6, "M", 8], "hidden": 9}),
    "resnet": ("resnet", {"depth": 14, "width": 0.5}),
    "preresnet": ("preresnet", {"depth": 11, "width": 0.25}),
    "preresnet-basic": ("preresnet", {"depth": 8, "width": 0.5, "bottleneck": False}),
    "densenet": ("densenet", {"depth": 10, "growth": 4}),
    "densenet-bc": ("densenet", {"depth": 10, "growth": 3, "bottleneck": True, "compression": 0.5}),
}

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


@pytest.fixture
def tiny() -> dict:
    """A complete params.yaml as data, to be changed at will."""
    return copy.deepcopy(yaml.safe_load(TINY))


@pytest.fixture(params=SMALL)
def small(request) -> Structure:
    """The full network of each entry of SMALL, for gray 9x11 images and 5 classes."""
    return small_structure(request.param)


@pytest.fixture(autouse=True)
def as_found():
    """Put back what a phase changes in its process: signal handlers and log handlers."""
    found = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGURG)}
    handlers = list(logging.getLogger("st").handlers)
    yield
    for number, handler in found.items():
        signal.signal(number, handler)
    progress.logger.handlers[:] = handlers


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(job, folder, runs, table) of a synthetic results tree."""
    from synthetic import make_job, write_results

    from st.report import tables  # with pandas, which few tests need

    folder, job = tmp_path_factory.mktemp("results"), make_job()
    write_results(folder, job)
    runs = tables.collect(job, folder)
    return job, folder, runs, tables.aggregate(runs)


def small_structure(name: str, input_shape=(1, 9, 11), classes: int = 5) -> Structure:
    family, options = SMALL[name]
    return Structure(family, options, input_shape, classes)


def full_cost(family: str, options: dict, input_shape=(3, 32, 32), classes: int = 10):
    graph = draw(family, options, input_shape, classes)
    return graph.cost(graph.widths({}))


def random_keep(structure: Structure, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Of each group any channels, one or more; of some groups all."""
    keep = {}
    for name, group in structure.graph.groups.items():
        amount = rng.integers(1, group.size + 1)
        if rng.random() < 0.8:
            keep[name] = np.sort(rng.permutation(group.size)[:amount])
    return keep


def pruned(structure: Structure, keep) -> Structure:
    return Structure(
        structure.family, structure.options, structure.input_shape, structure.classes, keep
    )


def random_tensors(structure: Structure, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights of no special form: nothing is zero, one, or the same for two channels."""
    widths, result = structure.graph.widths(structure.keep), {}
    for tensor in structure.graph.tensors():
        shape = [widths[g] if g else n for n, g in zip(tensor.shape, tensor.groups, strict=True)]
        if tensor.role == "count":
            value = np.asarray(rng.integers(1, 99), dtype=np.int64)
        elif tensor.role == "variance":
            value = rng.uniform(0.5, 2, shape).astype(np.float32)
        else:
            scale = 1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
            value = (scale * rng.standard_normal(shape)).astype(np.float32)
        result[tensor.name] = value
    return result


def stripes(images: int = 40, classes: int = 3, side: int = 8, seed: int = 0) -> Data:
    """Gray images that a network learns at once: lines down, lines across, a chessboard."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((side, side)) % 2
    patterns = [column, row, row ^ column]

    def part():
        labels = np.arange(images) % classes
        pixels = rng.integers(0, 80, (images, 1, side, side))
        pixels[:, 0] += 150 * np.stack([patterns[label] for label in labels])
        return pixels.astype(np.uint8), labels.astype(np.int64)

    return Data(*part(), *part(), [f"class{n}" for n in range(classes)])
