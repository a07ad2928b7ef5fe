"""`st.train` and `st.evaluate`: the workflow's training and measure of accuracy, without files."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from st.api.checks import data_of, fits, network_of, same_classes, seed_of
from st.config import jobs
from st.config.params import objective as losses_of
from st.config.parts import objective_problems, recipe_problems, section
from st.core import registry
from st.core.device import apart, choose
from st.core.errors import StError
from st.core.job import ordered
from st.core.registry import closest
from st.data.augment import Augment
from st.data.dataset import Data
from st.data.images import Images
from st.deploy.model import Model, checkpoint
from st.networks import network as networks
from st.networks.checkpoint import Checkpoint
from st.training import accuracy
from st.training.loop import Run, fit
from st.training.losses import taps_of
from st.training.progress import Progress
from st.training.recipe import Training
from st.training.trainer import Work, begin, facts, say_inert


@apart()
def train(
    network: Model,
    data: Data,
    objective: Mapping[str, Any] | None = None,
    *,
    teacher: Model | None = None,
    epochs: int = 160,
    seed: int = 0,
    sparsity: float = 0.0,
    augment: Mapping[str, Any] | None = None,
    device: str = "auto",
    threads: int = 0,
    **recipe: Any,
) -> Model:
    """A trained copy of a network; `network` and `teacher` stay as they are.

    `data`: of `st.dataset`; its test images choose nothing, their accuracies are for the `history`.
    `objective`: a weighted sum of losses, {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}};
    default: {"ce": 1}, cross-entropy with the labels; `st.losses.names()` lists all. `teacher`:
    what distillation losses learn from, such as the supernet. `epochs`: 0 takes weights as they
    are. `seed`: of the images' order and views. `sparsity`: the weight of network slimming's L1
    penalty on BatchNorm scales, which prepares a search by bn_scale. `augment`: as a data set's in
    params.yaml, {"crop": 4, "flip": True}. `recipe`: the keys of `training` there: lr, batch_size,
    schedule, optimiser, weight_decay, ... `device`: auto, cpu, cuda, cuda:1, ...; `threads`: of the
    CPU, 0: torch's default.

    Images are normalised as the network says, if it says it, otherwise by their own mean and
    deviation. The result is on the CPU in float32; its `history` has a row for each epoch (losses,
    accuracies in percent, learning rate). Progress goes to the logger `st`. It is the workflow's
    loop: the same settings, seed and threads give the same bits. Source: `st/training/loop.py`;
    each loss names its paper.

    Raises StError if an argument is wrong, the data do not fit the network, or the loss is no
    longer finite.
    """
    student, images, seed = network_of(network), data_of(data), seed_of(seed)
    settings = section(Training, {"epochs": epochs, **recipe})
    views = section(Augment, augment or {}, "augment")
    losses = _losses(student, objective, teacher, views)
    for problem in recipe_problems(settings, [(settings, losses)]):
        raise StError(problem)
    if not (isinstance(sparsity, int | float) and 0 <= sparsity <= 1):
        raise StError(f"sparsity: must be a number of 0 to 1, not {sparsity!r}")
    frozen = [
        name for name, weight in student.network.named_parameters() if not weight.requires_grad
    ]
    if frozen:
        raise StError(
            f"network: {frozen[0]} is frozen, but would be trained; freeze it in the module before "
            "st.supernet, or not at all"
        )
    fits(student, images)
    images = _normalised(student, images)
    if teacher is not None:
        fits(network_of(teacher, "teacher"), images)
        same_classes(teacher, images, "teacher")
        _normalised(teacher, replace(images, normalisation=_statistics(images)), "teacher")
    penalty = {"sparsity": sparsity} if sparsity else {}
    job = ordered(jobs.train(seed, losses, settings, views) | penalty)
    start = checkpoint(student)
    work = Work(
        start.structure, start.tensors, job["objective"], settings.epochs,
        teacher=None if teacher is None else checkpoint(teacher), sparsity=float(sparsity),
    )  # fmt: skip
    where = choose(device, threads, precision=settings.precision)
    run = begin(job, images, work, where)
    progress = Progress(work.epochs)

    def after_epoch(run: Run, speed: float) -> None:
        progress.epoch(run.history[-1], speed)

    with closing(run.images):
        fit(run, after_epoch)
    say_inert(run)
    about = facts(job, images, run)
    tensors = networks.tensors(run.network)
    result = Model(Checkpoint(start.structure.label, tensors, start.structure, about))
    result.history = run.history
    return result


def _losses(
    student: Model, objective: Mapping[str, Any] | None, teacher: Any, views: Augment
) -> dict[str, dict[str, Any]]:
    """The objective completed; raises StError if it does not suit the network and the teacher."""
    if not isinstance(objective, Mapping | None):
        raise StError(f"objective: must map losses to weights, not {objective!r}")
    losses = losses_of({"ce": 1.0} if objective is None else objective)
    for problem in objective_problems(losses, "augment" if views.mixes else None):
        raise StError(f"objective: {problem}")
    for name, given in losses.items():
        options = {key: value for key, value in given.items() if key != "weight"}
        read = taps_of(name, options, student.structure.graph.taps)
        if registry.losses.get(name).teacher and isinstance(teacher, Model):
            for tap in read:
                if tap not in teacher.structure.graph.taps:
                    told = closest(tap, teacher.structure.graph.taps)
                    raise StError(f"teacher: has no '{tap}', which the loss '{name}' reads; {told}")
    taught = [name for name in losses if registry.losses.get(name).teacher]
    if taught and teacher is None:
        raise StError(f"teacher: is missing; the loss '{taught[0]}' learns from one")
    if teacher is not None and not taught:
        raise StError(
            f"teacher: no loss of the objective ({', '.join(losses)}) learns from one; add a loss "
            "such as kd, or leave it out"
        )
    return losses


def _statistics(data: Data) -> tuple[list[float], list[float]]:
    mean, deviation = data.statistics()
    return mean.tolist(), deviation.tolist()


def _normalised(network: Model, data: Data, name: str = "network") -> Data:
    """The data as the network's weights are used to see them, if it says how."""
    own = network.normalisation
    if own is None:
        return data
    if all(np.allclose(own[key], told, rtol=1e-9) for key, told in data.told().items()):
        return data  # to the bit as it is
    if data.normalisation is not None:
        raise StError(
            f"{name}: was trained on images that were normalised with {own}, not with "
            f"{data.told()}; give that to st.dataset(normalisation=...)"
        )
    return data.normalised(**own)


@apart()
def evaluate(
    network: Model, data: Data, *, device: str = "auto", threads: int = 0
) -> dict[str, Any]:
    """How good and how large a network is, on the test images of `data`.

    Returns accuracy (percent), class_accuracy (percent by class; None where a class has no images),
    params, macs (multiply-accumulates for one image), params_kept and macs_kept (as fractions of
    the network that it was pruned from). Images are normalised as for `st.train`. `device`,
    `threads`: as there. Raises StError if the data do not fit the network.
    """
    model, images = network_of(network), data_of(data)
    fits(model, images)
    same_classes(model, images)
    images = _normalised(model, images)
    trained = model.provenance.get("environment") or {}
    where = choose(device, threads, precision=trained.get("precision") or "auto")
    file = checkpoint(model)
    built = where.place(networks.load(file))
    with closing(Images(images, where)) as placed:
        predicted = accuracy.predictions(built, placed, where)
        labels = placed.test_labels
        found = {
            "accuracy": accuracy.accuracy(predicted, labels),
            "class_accuracy": accuracy.by_class(predicted, labels, images.classes),
        }
    (params, macs), (all_params, all_macs) = file.structure.cost(), file.structure.full.cost()
    kept = {"params_kept": params / all_params, "macs_kept": macs / all_macs}
    return {**found, "params": params, "macs": macs, **kept}
