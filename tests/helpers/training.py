"""Trainings that take a moment."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from helpers.images import stripes
from helpers.networks import random_tensors
from st.core.device import choose
from st.core.registry import inits
from st.data.augment import Augment
from st.data.images import Images
from st.networks import network
from st.networks.structure import Structure
from st.phases import pretrain
from st.training.loop import Run, fit
from st.training.objective import Objective
from st.training.progress import Progress
from st.training.recipe import Training
from st.training.resume import Interrupted

CE = {"ce": {"weight": 1.0}}


ALL = {"ce": {"weight": 0.1}, "kd": {"weight": 0.9, "temperature": 4.0}, "cc": {"weight": 0.02}}


STRUCTURE = Structure("vgg", {"layers": [6, "M", 8], "hidden": 5}, (1, 8, 8), 3)


def a_run(epochs=2, objective=None, teacher=None, augment=None, seed=0, sparsity=0.0, **recipe):
    recipe = Training(**{"batch_size": 8, "lr": 0.05, "schedule": "constant", **recipe})
    where = choose("cpu", threads=1, precision=recipe.precision)
    return Run(
        network=where.place(network.build(STRUCTURE, inits.get("random")(STRUCTURE, None, seed))),
        images=Images(stripes(), where),
        recipe=recipe,
        epochs=epochs,
        objective=Objective(objective or CE, recipe=recipe),
        augment=augment or Augment(),
        seed=seed,
        device=where,
        teacher=teacher,
        sparsity=sparsity,
    )


def a_teacher():
    full = Structure("vgg", {"layers": [9, "M", 12]}, (1, 8, 8), 3)
    return network.build(full, random_tensors(full, np.random.default_rng(0)))


def trained(run: Run) -> Run:
    fit(run, lambda run, speed: None)
    return run


EPOCHS = 5


RECIPE = Training(
    epochs=EPOCHS, batch_size=8, lr=0.05, schedule="onecycle", nesterov=True, test_every=2
).model_dump()


def interrupt_after(monkeypatch, *epochs: int, number=signal.SIGTERM) -> None:
    """Send this process a signal while each of these epochs ends."""
    told = Progress.epoch

    def signalled(self, row, speed):
        told(self, row, speed)
        if row["epoch"] in epochs:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Progress, "epoch", signalled)


JOB = {
    "seed": 0,
    "family": "vgg",
    "options": {"layers": [6, "M", 8]},
    "init_options": {"bn_scale": 0.5},
    "rewind_epoch": 2,
    "sparsity": 1e-3,
    "augment": {"crop": 1, "flip": True},
    "training": RECIPE,
}


NAMES = ("model", "rewind", "history")


def run(folder: Path, job: dict = JOB) -> dict[str, bytes]:
    """Pretrain in `folder`; what is in its files then."""
    files = {name: folder / name for name in NAMES}
    pretrain.run(job, folder.parent / "data", **files, device="cpu", threads=1)
    return {name: path.read_bytes() for name, path in files.items()}


def run_interrupted(monkeypatch, folder: Path, job: dict, epoch: int) -> None:
    """The same, stopped when this epoch ends."""
    with monkeypatch.context() as patch:
        interrupt_after(patch, epoch)
        with pytest.raises(Interrupted):
            run(folder, job)
