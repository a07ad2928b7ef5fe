"""What a grid will cost, before anything of it is run: jobs, hours, disk.

Trainings are all that takes long, so a few steps of each kind of training are measured, on this
device and as many at a time as jobs will be. Structures are not known before the search: a network
whose layers all keep the same share of their channels, as much as the budget pays for, stands for
each; the time of the largest that a search may find, between those of that network and of the
supernet by its MACs, is told too.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from st.config.check import load
from st.config.grid import Grid
from st.core import registry
from st.core.errors import StError
from st.core.files import read_json, write_json
from st.core.progress import duration
from st.estimate.calibrate import START, calibrate
from st.estimate.trainings import Rates, Sample, Training, datasets, shape_of, trainings
from st.networks.structure import Structure


@dataclass(frozen=True)
class Phase:
    """Its number of jobs, the seconds they take together, and the bytes that they leave."""

    jobs: int
    seconds: float
    bytes: int


def predict(
    grid: Grid, data: dict[str, Sample], rates: Rates, most: bool = False
) -> tuple[dict[str, Phase], float]:
    """Cost by phase, and the seconds of the longest chain of jobs that wait for each other.

    `most`: if searches find networks with as many MACs as their budgets allow. Imports, files for
    other programs and the report are left out. Raises StError if `rates` lack a training.
    """
    params = grid.params
    if not {*START} <= rates.start.keys():
        raise StError("the rates do not say how long jobs take to start; measure again")
    cost: dict[str, list[tuple[float, int]]] = {
        name: [] for name in ("prepare", "pretrain", "search", "initialize", "train", "evaluate")
    }
    chain = 0.0
    for dataset, sample in data.items():
        size = sample.train
        test = sample.test / 3  # a forward pass is about a third of a training step
        read = 2 * rates.start["initialize"] + sample.read
        cost["prepare"].append((read, sample.bytes))
        shapes = {dataset: shape_of(sample.data)}
        measured = trainings(grid, shapes)
        kinds = trainings(grid, shapes, most) if most else measured

        def seconds(key: str, measured=measured, kinds=kinds, size=size, test=test) -> float:
            if key not in rates.image or key not in rates.setup:
                raise StError(f"the rates do not say how long {key} takes; measure again")
            if rates.keeps.get(key, measured[key].keeps) != measured[key].keeps:
                raise StError(
                    f"the rates of {key} are of other epochs: its teacher's outputs are kept for "
                    "one number and computed again for the other; measure again"
                )
            epochs, every = kinds[key].epochs, kinds[key].job["training"]["test_every"]
            tests = max(1, math.ceil(epochs / every)) if every else 1
            image = _image(rates, key, measured[key].structure, kinds[key])
            images = epochs * size + tests * test
            return rates.start["train"] + size * rates.setup[key] + images * image

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
                supernet = kinds[key].supernet
                if spec.search not in searched:
                    epochs = search_epochs(grid, spec.search, kinds[supernet].epochs, size)
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


def _image(rates: Rates, key: str, measured: Structure, kind: Training) -> float:
    """Seconds for an image. Of a structure with more MACs than the `measured` one they lie between
    that one's and those of the whole network, whose teacher takes a third as long as its training.
    """
    seconds, least = rates.image[key], measured.cost()[1]
    more = kind.structure.cost()[1] - least
    if more <= 0:
        return seconds
    whole = rates.image[kind.supernet] * (4 / 3 if kind.teacher else 1)
    return seconds + max(0.0, whole - seconds) * more / (measured.full.cost()[1] - least)


def search_epochs(grid: Grid, name: str, supernet: int, size: int) -> float:
    """The epochs of the supernet's training, of `size` images, that a search takes as long as,
    about."""
    search = grid.params.searches[name]
    if not grid.search_needs_data(name):
        return 0
    options = registry.criteria.check(search.criterion, search.options)
    looks = registry.criteria.get(search.criterion).data
    own = options.get("epochs", min(1.0, options.get("images", size) / size)) if looks else 0
    return (search.rounds - 1) * supernet + own


def _values(training: Training) -> int:
    """Numbers in a model's file: parameters, and the running statistics of BatchNorm."""
    return sum(math.prod(shape) for shape in training.structure.shapes().values())


def run(
    params: str, jobs: int, device: str, rates: Path | None, save: Path | None,
    say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Print the estimate. `rates`: a file that `save` named before, on the machine in question."""
    grid = Grid(load(params))
    data = datasets(grid)
    if rates:
        try:
            known = TypeAdapter(Rates).validate_python(read_json(rates))
        except ValidationError:
            raise StError(f"{rates}: is not a rates file; make one with --save") from None
    else:
        known = calibrate(params, data, jobs, device)
    phases, chain = predict(grid, data, known)
    say(f"{'':12}{'jobs':>6}{'job-hours':>12}{'MB':>10}")
    for name, phase in {**phases, "all": _sum(phases)}.items():
        say(f"{name:12}{phase.jobs:6}{phase.seconds / 3600:12.3f}{phase.bytes / 1e6:10.1f}")
    say(f"{_wall(phases, chain, jobs)}; the report, a minute or less, comes on top")
    others = {"draw": "imports of networks", "deploy": "files for other programs"}
    counts = {what: len(grid.experiments(phase)) for phase, what in others.items()}
    if any(counts.values()):
        told = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        say(f"not measured: {told}")
    largest, longest = predict(grid, data, known, most=True)
    if _sum(largest).seconds > 1.01 * _sum(phases).seconds:
        hours = largest["train"].seconds / 3600
        say(
            "if searches find networks with all the MACs that budgets allow, train takes "
            f"{hours:.3f} job-hours; {_wall(largest, longest, jobs)}"
        )
    if save:
        write_json(save, asdict(known))


def _sum(phases: dict[str, Phase]) -> Phase:
    parts = phases.values()
    return Phase(
        sum(p.jobs for p in parts), sum(p.seconds for p in parts), sum(p.bytes for p in parts)
    )


def _wall(phases: dict[str, Phase], chain: float, jobs: int) -> str:
    """Between all work spread evenly, or the longest chain, and both."""
    even = _sum(phases).seconds / jobs
    low, high = max(chain, even), even + chain * (1 - 1 / jobs)
    span = f"{duration(low)} to {duration(high)}" if jobs > 1 else duration(low)
    return f"with {jobs} at a time: {span}"
