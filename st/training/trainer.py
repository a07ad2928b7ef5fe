"""A whole training: from data and first weights to the model and its history on the disk."""

from pathlib import Path

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


def fit_and_save(
    job: Job,
    data: Data,
    structure: Structure,
    initial: dict,
    objective: dict,
    epochs: int,
    depends_on: dict,
    model: Path,
    history: Path,
    device_name: str,
    threads: int,
    member: Member | None = None,
    teacher: Checkpoint | None = None,
    sparsity: float = 0.0,
    rewind: tuple[Path, int] | None = None,
) -> None:
    """Train, going on from an interruption if there was one, and write model and history.

    `member`: which of the training's processes this is, if there are several.
    """
    if data.input_shape != tuple(structure.input_shape) or len(data.classes) != structure.classes:
        raise StError(f"{model}: the data's image shape or classes are not those of the network")
    recipe = Training(**job["training"])
    where = device.choose(device_name, threads, member.rank if member else None, recipe.precision)
    group = Group(member, where) if member else None
    training = Run(
        network=where.place(network.build(structure, initial)),
        images=Images(data, where),
        recipe=recipe,
        epochs=epochs,
        objective=Objective(objective, structure.graph.taps),
        augment=Augment(**job["augment"]),
        seed=job["seed"],
        device=where,
        teacher=where.place(network.load(teacher)) if teacher else None,
        sparsity=sparsity,
        group=group,
    )
    with Resume(model.with_name("resume.safetensors"), depends_on, group) as resume:
        resume.restore(training)
        if group:
            group.verify(f"{resume.key} {len(training.history)}", training.modules.values())
        progress = Progress(epochs, done=len(training.history))

        def after_epoch(run: Run, speed: float) -> None:
            progress.epoch(run.history[-1], speed)
            if rewind and len(run.history) == rewind[1]:
                run.early = network.tensors(run.network)
            resume.after_epoch(run)

        fit(training, after_epoch)
        if not training.leads:
            return
        if rewind and rewind[1]:  # only now: the workflow deletes what an unfinished job wrote
            save_model(rewind[0], structure, training.early, epochs=rewind[1])
        for name, share in inert(
            {key: [row[key] for row in training.history] for key in training.history[0]}
        ).items():
            say(
                f"the loss '{name}' did next to nothing: its share of the gradient was never above "
                f"{share:.2g} %; raise its weight, or leave it out"
            )
        write_csv(history, training.history)
        described = f"{group.size} x {where.describe()}" if group else where.describe()
        save_model(
            model, structure, network.tensors(training.network),
            job=job, epochs=epochs, environment=provenance.here(described, where.threads),
        )  # fmt: skip
        resume.finish()
