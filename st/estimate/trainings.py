"""The trainings of a grid: what is measured, and what it cost."""

import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from st.config.changes import is_made, whole
from st.config.grid import Grid
from st.config.layout import DATA, Experiment, place
from st.config.supernets import drawn, told_shape
from st.core import registry, slots
from st.core.errors import StError
from st.core.job import Job
from st.core.types import Finite
from st.data.augment import Augment
from st.data.dataset import Data, Shape, load_data
from st.networks.structure import Structure
from st.pruning.criteria import Subject
from st.pruning.criteria.published import widths as published_widths
from st.pruning.search import searched
from st.pruning.selection import Budget, macs_per_parameter, select_channels
from st.training.epochs import scaled_epochs

STEPS = 16  # of an epoch that is measured, of images of 32 x 32
# times these on a GPU: beside its captured steps it has one that is not
MORE_STEPS = 8


Seconds = Annotated[float, Finite(ge=0)]


@dataclass(frozen=True)
class Training:
    """A training that every seed has: how it is computed, and its size."""

    structure: Structure
    job: Job
    epochs: int
    objective: dict[str, Any]
    teacher: Structure | None = None
    supernet: str = ""  # the key of the training that its structure comes from

    @property
    def keeps(self) -> bool:
        """Whether its teacher's outputs are worth keeping."""
        return self.teacher is not None and Augment(**self.job["augment"]).repeats(self.epochs)


@dataclass(frozen=True)
class Rates:
    """What was measured. Seconds: `start` by phase of a job that does nothing, `image` by training
    for an image in an epoch, `setup` by training and image before the first. `keeps`: by training
    whether its epochs were so many that its teacher's outputs are worth keeping."""

    start: dict[str, Seconds]
    image: dict[str, Seconds]
    setup: dict[str, Seconds]
    keeps: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Of a data set: images to measure with, in `data`; how many training and test images there
    are in all, and their bytes on the disk; seconds that reading them takes."""

    data: Data
    train: int
    test: int
    bytes: int
    read: float


def datasets(grid: Grid) -> dict[str, Sample]:
    """The data sets: prepared ones, or else read as prepare would, large ones in part."""
    return {name: _sample(grid, name) for name in grid.params.datasets}


def _sample(grid: Grid, name: str) -> Sample:
    prepared = Path(DATA.format(dataset=name))
    spec, job = grid.params.datasets[name], grid.prepare(name)
    if is_made(job, prepared):
        return sample_of(load_data(prepared)[0])
    source, options, held = registry.datasets.get(spec.source), whole(job), job["holdout"]
    if not source.sample:
        data = source(**options)
        return sample_of(data.holdout(held) if held else data)
    started = time.perf_counter()
    shape = told_shape(spec.source, options)
    most = to_measure(shape or ((1, 32, 32), 1), batch(grid, name), gpus=bool(slots.here()))
    data, train, test = source.sample(math.ceil(most / (1 - held)), **options)
    there = len(data.train_labels) + len(data.test_labels)
    rate = (time.perf_counter() - started) / there
    size = (data.train_images.nbytes + data.test_images.nbytes) / there
    total = train + test
    if held:
        data = data.holdout(held)
        train, test = train - round(held * train), round(held * train)
    bytes_ = round(size * (train + test))
    # prepare has a process for each core, up to eight
    return Sample(data, train, test, bytes_, rate * total / min(8, os.cpu_count() or 1))


def to_measure(shape: Shape, batch: int, gpus: bool) -> int:
    """Images of an epoch that is measured: fewer batches of larger images, at least two; more on
    GPUs, where the first steps are not captured."""
    (_, height, width), _ = shape
    steps = min(STEPS, max(2, STEPS * 32 * 32 // (height * width)))
    return batch * steps * (MORE_STEPS if gpus else 1)


def sample_of(data: Data) -> Sample:
    """All of a data set, which is read at once."""
    size = data.train_images.nbytes + data.test_images.nbytes
    return Sample(data, len(data.train_labels), len(data.test_labels), size, read=0.0)


def batch(grid: Grid, dataset: str) -> int:
    """Images of the largest batch that is trained with."""
    seed, found = grid.params.seeds[0], []
    for name in grid.params.architectures:
        jobs = [grid.pretrain(dataset, name, seed, one) for one in grid.supernets(name)]
        jobs += [grid.train(dataset, name, seed, one) for one in grid.methods(name)]
        found += [job["training"]["batch_size"] for job in jobs]
    return max(found)


def trainings(grid: Grid, shapes: dict[str, Shape], most: bool = False) -> dict[str, Training]:
    """By phase/data set/architecture/name. `most`: of what searches may find, the largest."""
    found, seed = {}, grid.params.seeds[0]
    for dataset, shape in shapes.items():
        for architecture in grid.params.architectures:
            where = f"{dataset}/{architecture}"
            for name in grid.supernets(architecture):
                job = grid.pretrain(dataset, architecture, seed, name)
                full = supernet(grid, Experiment(dataset, architecture), job, shape)
                found[f"pretrain/{where}/{name}"] = Training(
                    full, job, job["training"]["epochs"], {"ce": {"weight": 1.0}}
                )
            for name in grid.methods(architecture):
                method = grid.params.methods[name]
                job = grid.train(dataset, architecture, seed, name)
                search = grid.search(dataset, architecture, seed, method.search)
                part = stand_in(full, search, most)
                teacher = full if grid.needs_teacher(name) else None
                found[f"train/{where}/{name}"] = Training(
                    part, job, scaled_epochs(job, part), job["objective"], teacher,
                    f"pretrain/{where}/{grid.teacher(name)}",
                )  # fmt: skip
    return found


def supernet(grid: Grid, experiment: Experiment, job: Job, shape: Shape) -> Structure:
    """The network of pretrain's job; raises StError if it is to be imported and was not yet."""
    if experiment.architecture not in grid.imported():
        return Structure(job["family"], job["options"], *shape)
    drawing = Path(place("draw", "drawing", experiment))
    spec = grid.params.architectures[experiment.architecture]
    found = drawn(experiment.dataset, experiment.architecture, spec)
    if not found:
        raise StError(
            f"{drawing}: is missing or of another network, and says what {experiment.architecture} "
            "costs; make it with `snakemake --cores 1 phase_prepare` and the same --configfile"
        )
    return found


def stand_in(full: Structure, search: Job, most: bool = False) -> Structure:
    """A structure of about the cost of the one that the search will find: the same share of every
    layer's channels; or the one with the `most` MACs that the search may find."""
    budget = Budget(**search["budget"])
    if search["criterion"] == "published":  # whatever the weights, so many channels of each layer
        widths = full.widths | published_widths(**search["options"])
        return full.with_keep({name: np.arange(widths[name]) for name in full.graph.groups})
    if budget == Budget():
        return full
    if budget.macs is None:  # a call's time stands for its work, unless that is bounded itself
        budget = replace(budget, macs=budget.latency)
    budget = replace(budget, latency=None)
    if search["criterion"] in ("uniform", "tapered"):  # they look at no weights
        return searched(search, Subject(full, {}, budget, search["seed"]))

    def found(ranking: str, worth: dict[str, float]) -> Structure:
        scores = {name: np.full(group.size, worth[name]) for name, group in graph.groups.items()}
        limits = search["min_channels"], search["round_to"]
        return full.with_keep(select_channels(graph, scores, budget, ranking, *limits))

    graph = full.graph
    even = found("local", dict.fromkeys(graph.groups, 0.0))
    if not most or search["ranking"] == "local":
        return even
    largest = found("global", macs_per_parameter(graph))
    return max(even, largest, key=lambda structure: structure.cost()[1])


def shape_of(data: Data) -> Shape:
    """What the cost of a network depends on: input shape and number of classes."""
    return data.input_shape, len(data.classes)
