"""What a grid will cost, before anything of it is run: jobs, hours, disk.

Trainings are all that takes long, so one step of each kind of training is measured, on this device
and as many at a time as jobs will be. Structures are not known before the search: a network whose
layers all keep the same share of their channels, as much as the budget pays for, stands for each.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from st import registry
from st.check import load
from st.criteria import Subject
from st.data import Data, Shape, load_data
from st.errors import StError
from st.files import read_json, write_json
from st.grid import DATA, Grid
from st.job import Job
from st.params import BudgetSection
from st.phases.train import scaled_epochs
from st.progress import duration
from st.search import Budget, select_channels
from st.structure import Structure


@dataclass(frozen=True)
class Training:
    """A training that every seed has: how it is computed, and its size."""

    structure: Structure
    job: Job
    epochs: int
    objective: dict[str, Any]
    teacher: Structure | None = None


@dataclass(frozen=True)
class Rates:
    """What was measured. Seconds: `start` by phase of a job that does nothing, `image` by training
    for an image in an epoch, `setup` by training and image before the first."""

    start: dict[str, float]
    image: dict[str, float]
    setup: dict[str, float]


@dataclass(frozen=True)
class Phase:
    """Its number of jobs, the seconds they take together, and the bytes that they leave."""

    jobs: int
    seconds: float
    bytes: int


def datasets(grid: Grid) -> dict[str, Data]:
    """The data sets: prepared ones, or else read as prepare would."""
    found = {}
    for name, spec in grid.params.datasets.items():
        prepared = Path(DATA.format(dataset=name))
        if prepared.exists():
            found[name] = load_data(prepared)[0]
            continue
        job = grid.prepare(name)
        data = registry.datasets.get(spec.source)(**job["options"])
        found[name] = data.holdout(job["holdout"]) if job["holdout"] else data
    return found


def trainings(grid: Grid, shapes: dict[str, Shape]) -> dict[str, Training]:
    """By phase/data set/architecture/name."""
    found, seed = {}, grid.params.seeds[0]
    for dataset, shape in shapes.items():
        for architecture in grid.params.architectures:
            where = f"{dataset}/{architecture}"
            for name in grid.supernets(architecture):
                job = grid.pretrain(dataset, architecture, seed, name)
                full = Structure(job["family"], job["options"], *shape)
                found[f"pretrain/{where}/{name}"] = Training(
                    full, job, job["training"]["epochs"], {"ce": {"weight": 1.0}}
                )
            for name in grid.methods(architecture):
                method = grid.params.methods[name]
                job = grid.train(dataset, architecture, seed, name)
                part = stand_in(full, grid.search(dataset, architecture, seed, method.search))
                teacher = full if grid.needs_teacher(name) else None
                found[f"train/{where}/{name}"] = Training(
                    part, job, scaled_epochs(job, part), job["objective"], teacher
                )
    return found


def stand_in(full: Structure, search: Job) -> Structure:
    """A structure of about the cost of the one that the search will find."""
    bounds = BudgetSection(**search["budget"])
    if bounds == BudgetSection():
        return full
    # a call's time stands for its work, which it bounds if nothing else does
    macs = bounds.latency if bounds.macs is None else bounds.macs
    budget = Budget(bounds.params, macs, channels=bounds.channels)
    if search["criterion"] == "uniform":
        subject = Subject(full, {}, budget, search["seed"])
        return registry.criteria.get("uniform")(subject)
    graph = full.graph
    scores = {name: np.arange(group.size) for name, group in graph.groups.items()}
    keep = select_channels(
        graph, scores, budget, "local", search["min_channels"], search["round_to"]
    )
    return replace(full, keep=keep)


def shape_of(data: Data) -> Shape:
    return data.input_shape, len(data.classes)


def predict(grid: Grid, data: dict[str, Data], rates: Rates) -> tuple[dict[str, Phase], float]:
    """Cost by phase, and the seconds of the longest chain of jobs that wait for each other.

    The report, which is made once, is left out. Raises StError if `rates` lack a training.
    """
    params = grid.params
    cost: dict[str, list[tuple[float, int]]] = {
        name: [] for name in ("prepare", "pretrain", "search", "initialize", "train", "evaluate")
    }
    chain = 0.0
    for dataset, whole in data.items():
        size = len(whole.train_labels)
        test = len(whole.test_labels) / 3  # a forward pass is about a third of a training step
        read = 2 * rates.start["initialize"]
        cost["prepare"].append((read, whole.train_images.nbytes + whole.test_images.nbytes))
        kinds = trainings(grid, {dataset: shape_of(whole)})

        def seconds(key: str, kinds=kinds, size=size, test=test) -> float:
            if key not in rates.image:
                raise StError(f"the rates do not say how long {key} takes; measure again")
            epochs, every = kinds[key].epochs, kinds[key].job["training"]["test_every"]
            tests = math.ceil(epochs / every) if every else 1
            images = epochs * size + tests * test
            return rates.start["train"] + size * rates.setup[key] + images * rates.image[key]

        for architecture in params.architectures:
            where = f"{dataset}/{architecture}"
            chains, models = [0.0], 0
            for name in grid.supernets(architecture):
                kind = kinds[f"pretrain/{where}/{name}"]
                # the model and its early weights
                cost["pretrain"].append((seconds(f"pretrain/{where}/{name}"), 8 * _values(kind)))
                models += 1
            searched = {}
            for name in grid.methods(architecture):
                spec, key = params.methods[name], f"train/{where}/{name}"
                supernet = f"pretrain/{where}/{grid.teacher(name)}"
                if spec.search not in searched:
                    epochs = search_epochs(grid, spec.search, kinds[supernet].epochs)
                    like = "train" if grid.search_uses_torch(spec.search) else "initialize"
                    searched[spec.search] = (
                        rates.start[like] + epochs * size * rates.image[supernet]
                    )
                    cost["search"].append((searched[spec.search], 0))
                weights = 4 * _values(kinds[key])
                cost["initialize"].append((rates.start["initialize"], weights))
                cost["train"].append((seconds(key), weights))
                chains.append(
                    seconds(supernet) + searched[spec.search] + rates.start["initialize"]
                    + seconds(key)
                )  # fmt: skip
                models += 1
            slowest = max((rates.image[key] for key in kinds if f"/{where}/" in key), default=0.0)
            tested = rates.start["evaluate"] + models * test * slowest
            cost["evaluate"].append((tested, 0))
            chain = max(chain, read + max(chains) + tested)
    seeds, phases = len(params.seeds), {}
    for name, parts in cost.items():
        times = 1 if name == "prepare" else seeds
        phases[name] = Phase(
            times * len(parts), times * sum(s for s, _ in parts), times * sum(b for _, b in parts)
        )
    return phases, chain


def search_epochs(grid: Grid, name: str, supernet: int) -> int:
    """The epochs of the supernet's training that a search takes as long as, about."""
    search = grid.params.searches[name]
    if not grid.search_needs_data(name):
        return 0
    options = registry.criteria.check(search.criterion, search.options)
    looks = registry.criteria.get(search.criterion)
    own = options.get("epochs", 1) if getattr(looks, "data", False) else 0
    return (search.rounds - 1) * supernet + own


def _values(training: Training) -> int:
    """Numbers in a model's file: parameters, and the running statistics of BatchNorm."""
    structure = training.structure
    widths = structure.graph.widths(structure.keep)
    return sum(
        int(np.prod([widths[g] if g else n for n, g in zip(t.shape, t.groups, strict=True)]))
        for t in structure.graph.tensors()
    )


def run(
    params: str, jobs: int, device: str, rates: Path | None, save: Path | None,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Print the estimate. `rates`: a file that `save` named before, on the machine in question."""
    grid = Grid(load(params))
    data = datasets(grid)
    if rates:
        try:
            known = Rates(**read_json(rates))
        except TypeError:
            raise StError(f"{rates}: is no file of rates; make one with --save") from None
    else:
        from st.calibrate import calibrate

        known = calibrate(params, data, jobs, device)
    if save:
        write_json(save, asdict(known))
    phases, chain = predict(grid, data, known)
    say(f"{'':12}{'jobs':>6}{'job-hours':>12}{'MB':>10}")
    total = Phase(
        sum(p.jobs for p in phases.values()),
        sum(p.seconds for p in phases.values()),
        sum(p.bytes for p in phases.values()),
    )
    for name, phase in {**phases, "all": total}.items():
        say(f"{name:12}{phase.jobs:6}{phase.seconds / 3600:12.3f}{phase.bytes / 1e6:10.1f}")
    low = max(chain, total.seconds / jobs)
    high = total.seconds / jobs + chain * (1 - 1 / jobs)
    say(
        f"with {jobs} at a time: {duration(low)} to {duration(high)}; "
        f"the report, a minute or less, comes on top"
    )
