"""A whole training: from data and first weights to the model and its history on the disk."""

from collections.abc import Iterable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st.core import provenance, registry, sources
from st.core.device import Device, choose
from st.core.errors import StError
from st.core.files import write_csv
from st.core.job import STATE, Job
from st.core.progress import say
from st.core.shares import inert
from st.data.augment import Augment
from st.data.dataset import Data
from st.data.images import Images
from st.networks import network
from st.networks.checkpoint import Checkpoint, save_model
from st.networks.structure import Structure
from st.training.launch import Member
from st.training.loop import Run, fit
from st.training.objective import Objective
from st.training.parallel import Group
from st.training.progress import Progress
from st.training.recipe import Training, learning_rate
from st.training.resume import Resume


@dataclass(frozen=True)
class Work:
    """What is trained: a structure from the weights `initial`, for so many `epochs`.

    `objective`: the losses' weights and options by name; `teacher`: the network that they learn
    from; `sparsity`: the weight of the L1 penalty on BatchNorm scales; `rewind`: a file, and the
    epoch whose weights it gets (0: the caller has written it).
    """

    structure: Structure
    initial: dict[str, np.ndarray]
    objective: dict[str, dict]
    epochs: int
    teacher: Checkpoint | None = None
    sparsity: float = 0.0
    rewind: tuple[Path, int] | None = None


@dataclass(frozen=True)
class Place:
    """Where it is trained: the files that it makes, the device by name, the number of CPU threads
    (0: torch's default), and which of the training's processes this is, if there are several."""

    model: Path
    history: Path
    device: str
    threads: int
    member: Member | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.member is None or self.member.rank == 0


def code(structure: Structure, objective: Iterable[str]) -> str:
    """A name for the code that a training consists of: a state that other code left is of no use.
    `objective`: the names of the losses."""
    family = registry.architectures.module(structure.family)
    return sources.digest(__name__, family, *map(registry.losses.module, objective))


def begin(job: Job, data: Data, work: Work, where: Device, group: Group | None = None) -> Run:
    """The training that `job` describes, at its beginning. `job`: has the seed, the recipe and the
    augmentation. Raises StError if the data does not fit the network."""
    structure = work.structure
    data.check_fits(structure.input_shape, structure.classes)
    recipe, augment = Training(**job["training"]), Augment(**job["augment"])
    for key, problem in augment.misfits(data.input_shape):  # only now is every shape known
        raise StError(f"augment.{key}: {problem}")
    images = len(data.train_labels)
    if work.epochs and recipe.batch_size > images:
        say(
            f"training.batch_size: {recipe.batch_size}, but there are {images} training images: "
            "each step takes all of them"
        )
    return Run(
        network=where.place(network.build(structure, work.initial)),
        images=Images(data, where),
        recipe=recipe,
        epochs=work.epochs,
        objective=Objective(work.objective, structure.graph.taps, recipe),
        augment=augment,
        seed=job["seed"],
        device=where,
        teacher=where.place(network.load(work.teacher)) if work.teacher else None,
        sparsity=work.sparsity,
        group=group,
    )


def facts(job: Job, data: Data, run: Run) -> dict[str, Any]:
    """What a trained network's file says beside its structure and weights."""
    where, group = run.device, run.group
    described = f"{group.size} x {where.describe()}" if group else where.describe()
    return {
        "job": job,
        "epochs": run.epochs,
        "environment": provenance.here(described, where.threads, where.computes),
        "classes": data.classes,
        "normalisation": data.told(),
        "resize": data.resize,
    }


def say_too_weak(run: Run, images: int) -> None:
    """Name an L1 penalty that cannot bring a usual BatchNorm scale to zero within the training,
    whatever the labels do. In each step its gradient is `sparsity`, so that SGD moves a scale by
    that times the sum of the learning rates, and by momentum 1 / (1 - momentum) as far."""
    recipe = run.recipe
    if not (run.sparsity and run.scales and run.epochs) or recipe.optimiser != "sgd":
        return
    steps = run.epochs * (images // min(recipe.batch_size, images))
    rate = np.mean([learning_rate(recipe, (n + 0.5) / 1000) for n in range(1000)])
    reach = run.sparsity * float(rate) * steps / (1 - recipe.momentum)
    begin = float(torch.cat([scale.detach().abs().flatten() for scale in run.scales]).median())
    if reach < begin:
        say(
            f"the L1 penalty can lower a BatchNorm scale by {reach:.2g} in this training, and they "
            f"begin at {begin:.2g}, so it makes none of them zero; raise the architecture's "
            "`sparsity`, or train for longer"
        )


def say_inert(run: Run) -> None:
    """Name the losses that did next to nothing."""
    columns = {key: [row[key] for row in run.history] for key in run.history[0]}
    for name, share in inert(columns).items():
        say(
            f"the loss '{name}' did next to nothing: its share of the gradient was {share:.2g} % "
            "(median of the epochs); raise its weight, or leave it out"
        )


def fit_and_save(job: Job, data: Data, work: Work, place: Place, depends_on: Job) -> None:
    """Train, going on from an interruption if there was one, and write model and history.

    `job`: as `begin` takes it; `depends_on`: all that the result depends on, but for the code.
    Raises StError if the data does not fit the network or the training diverges, Interrupted if it
    was told to stop.
    """
    structure, member = work.structure, place.member
    local = member.local if member else None
    precision = Training(**job["training"]).precision
    where = choose(place.device, place.threads, local, precision)
    group = Group(member, where) if member else None
    try:
        training = begin(job, data, work, where, group)
    except StError as error:
        raise StError(f"{place.model}: {error}") from error
    if place.leads:
        say_too_weak(training, len(data.train_labels))
    rewind, rewind_epoch = work.rewind or (None, 0)
    state = place.model.with_name(STATE)
    depends_on = {**depends_on, "code": code(structure, work.objective)}
    reading = closing(training.images)
    with reading, group or nullcontext(), Resume(state, depends_on, where, group) as resume:
        resume.restore(training)
        if group:
            about = f"{resume.key} {resume.made} {len(training.history)}"
            group.verify(about, training.modules.values())
        progress = Progress(work.epochs, done=len(training.history))

        def after_epoch(run: Run, speed: float) -> None:
            progress.epoch(run.history[-1], speed)
            if rewind_epoch and len(run.history) == rewind_epoch:
                run.early = network.tensors(run.network)
            resume.after_epoch(run)

        fit(training, after_epoch)
        if not place.leads:
            return
        if rewind and rewind_epoch:  # only now: the workflow deletes what an unfinished job wrote
            save_model(rewind, structure, training.early, epochs=rewind_epoch)
        say_inert(training)
        if where.is_cuda:
            say(f"took {where.memory() / 1e9:.2f} GB of the GPU's memory")
        write_csv(place.history, training.history)
        weights = network.tensors(training.network)
        save_model(place.model, structure, weights, **facts(job, data, training))
        resume.finish()
