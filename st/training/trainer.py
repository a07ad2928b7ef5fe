"""A whole training: from data and first weights to the model and its history on the disk."""

from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from st.core import device, provenance
from st.core.errors import StError
from st.core.files import write_csv
from st.core.job import Job
from st.core.progress import Progress, say
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
from st.training.recipe import Training
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


def fit_and_save(job: Job, data: Data, work: Work, place: Place, depends_on: Job) -> None:
    """Train, going on from an interruption if there was one, and write model and history.

    `job`: has the seed, the recipe and the augmentation; `depends_on`: all that the result depends
    on. Raises StError if the data does not fit the network or the training diverges, Interrupted
    if it was told to stop.
    """
    structure = work.structure
    if data.input_shape != tuple(structure.input_shape) or len(data.classes) != structure.classes:
        raise StError(
            f"{place.model}: the data's image shape or classes are not those of the network"
        )
    recipe, augment = Training(**job["training"]), Augment(**job["augment"])
    for key, problem in augment.misfits(data.input_shape[0]):  # only now is every shape known
        raise StError(f"{place.model}: augment.{key}: {problem}")
    member = place.member
    local = member.local if member else None
    where = device.choose(place.device, place.threads, local, recipe.precision)
    group = Group(member, where) if member else None
    training = Run(
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
    rewind, rewind_epoch = work.rewind or (None, 0)
    state = place.model.with_name("resume.safetensors")
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
        for name, share in inert(
            {key: [row[key] for row in training.history] for key in training.history[0]}
        ).items():
            say(
                f"the loss '{name}' did next to nothing: its share of the gradient was never above "
                f"{share:.2g} %; raise its weight, or leave it out"
            )
        write_csv(place.history, training.history)
        described = f"{group.size} x {where.describe()}" if group else where.describe()
        mean, deviation = data.statistics()
        made = provenance.here(described, where.threads, where.computes)
        save_model(
            place.model, structure, network.tensors(training.network), job=job,
            epochs=work.epochs, environment=made, classes=data.classes,
            normalisation={"mean": (mean / 255).tolist(), "std": (deviation / 255).tolist()},
            resize=data.resize,
        )  # fmt: skip
        resume.finish()
