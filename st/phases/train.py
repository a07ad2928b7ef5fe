"""Train: the subnet learns from the labels and from the frozen supernet at once."""

from pathlib import Path

from st import environment
from st.augment import Augment
from st.checkpoint import Checkpoint, load_model, save_model
from st.data import Data, load_data
from st.errors import StError
from st.files import write_csv
from st.job import Job
from st.launch import Member
from st.losses import inert
from st.progress import Progress, say
from st.recipe import Training
from st.structure import Structure


def run(
    job: Job,
    data: Path,
    init: Path,
    teacher: Path | None,
    model: Path,
    history: Path,
    device: str,
    threads: int,
    member: Member | None = None,
) -> None:
    """Write the trained subnet to `model`. `teacher`: the supernet, if the objective needs one."""
    images, digest = load_data(data)
    start = load_model(init)
    supernet = load_model(teacher) if teacher else None
    epochs = scaled_epochs(job, start.structure)
    depends_on = {
        "job": job,
        "data": digest,
        "init": start.digest(),
        "teacher": supernet.digest() if supernet else None,
    }
    fit_and_save(
        job, images, start.structure, start.tensors, job["objective"], epochs,
        depends_on, model, history, device, threads, member,
        teacher=supernet,
    )  # fmt: skip


def scaled_epochs(job: Job, structure: Structure) -> int:
    """The epochs of a subnet's training.

    By computation (Scratch-B, Liu et al. 2019): so many more as it needs fewer MACs than its
    supernet, int(epochs x full / pruned), with a stated limit to the factor.
    """
    epochs = job["training"]["epochs"]
    if job["epoch_rule"] == "same":
        return epochs
    factor = structure.full.cost()[1] / structure.cost()[1]
    return int(epochs * min(factor, job["max_epoch_factor"] or factor))


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
    from st import device, network
    from st.images import Images
    from st.parallel import Group
    from st.resume import Resume
    from st.training import Objective, Run, fit

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
            job=job, epochs=epochs, environment=environment.here(described, where.threads),
        )  # fmt: skip
        resume.finish()
