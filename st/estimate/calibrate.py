"""How long trainings take on this device, measured: for st/estimate/predict.py."""

import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from st.config.check import load
from st.config.grid import Grid
from st.core import mps, slots
from st.core.errors import StError
from st.data.dataset import Data, chosen
from st.estimate.trainings import Rates, Sample, Training, batch, shape_of, to_measure, trainings

SECONDS = 1.0  # at least, for each kind
START = ("initialize", "train", "evaluate")  # the phases whose start is measured


def calibrate(params: str, data: dict[str, Sample], jobs: int, device: str) -> Rates:
    """Measure, in `jobs` processes at once. They are new ones, as those of jobs are, and have GPUs
    by the workflow's slots."""
    gpus = [] if device == "cpu" else slots.here()
    if gpus and device == "auto":
        each = math.ceil(jobs / len(gpus))
        os.environ |= {slots.SLOTS: str(each), slots.VISIBLE: ",".join(gpus)}
        if each > 1:
            mps.start()
    start = {
        phase: _start(phase, jobs, device if gpus and phase != "initialize" else "cpu")
        for phase in START
    }
    totals, parts = {}, {}
    grid = Grid(load(params))
    for name, sample in data.items():
        totals[name] = sample.train
        images = to_measure(shape_of(sample.data), batch(grid, name), gpus=bool(gpus))
        parts[name] = _part(sample.data, images)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        arguments = (params, parts, totals, device)
        measured = list(pool.map(_measure_all, [arguments] * jobs, chunksize=1))
    image, setup = (
        {key: statistics.mean(one[key] for one in kind) for key in kind[0]}
        for kind in zip(*measured, strict=True)
    )
    shapes = {name: shape_of(sample.data) for name, sample in data.items()}
    keeps = {key: training.keeps for key, training in trainings(grid, shapes).items()}
    return Rates(start, image, setup, keeps)


def idle_job(phase: str, device: str = "cpu") -> list[str]:
    """The command of a job that starts and ends as those of the phase do, and does nothing."""
    used = f"from st.core.device import choose; choose('{device}').wait(); "
    program = (
        "from st.core import process; from st.phases.command import load_phase; "
        f"load_phase('{phase}'); {used if device != 'cpu' else ''}process.leave(0)"
    )
    return [sys.executable, "-c", program]


def _start(phase: str, jobs: int, device: str) -> float:
    """Seconds of an idle job, from the start of its process to the end."""
    for _ in range(2):  # the first time python may have to compile
        started = time.perf_counter()
        processes = [subprocess.Popen(idle_job(phase, device)) for _ in range(jobs)]
        statuses = [process.wait() for process in processes]
        if any(statuses):
            raise StError(f"a process that only imports st.phases.{phase} failed, see above")
        seconds = time.perf_counter() - started
    return seconds


def _part(data: Data, images: int) -> Data:
    """The first images, and as large a part of the test images."""
    share = min(1.0, images / len(data.train_labels))
    test = max(1, round(share * len(data.test_labels)))
    return replace(
        data,
        train_images=chosen(data.train_images, slice(images)),
        train_labels=data.train_labels[:images],
        test_images=chosen(data.test_images, slice(test)), test_labels=data.test_labels[:test],
        files=None, as_test=None,
    )  # fmt: skip


def _measure_all(arguments: tuple) -> tuple[dict[str, float], dict[str, float]]:
    """In a process of its own: `image` and `setup` of every kind of training, on a part of the
    data."""
    params, parts, totals, device = arguments
    from st.core.device import choose
    from st.data import images
    from st.training import teacher

    where = choose(device, threads=1)
    modules: tuple[Any, ...] = images, teacher
    rooms = {module: module.room(where) for module in modules}
    image, setup = {}, {}
    grid = Grid(load(params))
    for key, spec in trainings(
        grid, {name: shape_of(part) for name, part in parts.items()}
    ).items():
        dataset = key.split("/")[1]
        size = len(parts[dataset].train_labels)
        # whether images are on the device and a teacher's outputs are kept is decided as for all
        for module, room in rooms.items():
            module.room = _always(room * (size / totals[dataset]))
        run = _run(spec, parts[dataset], where)
        image[key], setup[key] = _measure(run) / size, _keep_outputs(run) / size
        run.images.close()
    return image, setup


def _always(room: float) -> Any:
    return lambda device: room


def _run(spec: Training, data: Data, where) -> Any:
    """The `st.training.loop.Run` of a training, from weights as torch initialises them."""
    from st.data.augment import Augment
    from st.data.images import Images
    from st.networks.network import bare
    from st.training.loop import Run
    from st.training.objective import Objective
    from st.training.recipe import Training as Recipe

    # Weights that nobody chose must not diverge while they are timed; tests are counted apart.
    recipe = Recipe(**{**spec.job["training"], "lr": 1e-6, "test_every": 0})
    where = where.using(recipe.precision)
    return Run(
        network=where.place(_filled(bare(spec.structure))),
        images=Images(data, where),
        recipe=recipe,
        epochs=spec.epochs or 1,  # of none, what an image costs is still asked
        objective=Objective(spec.objective, spec.structure.graph.taps, recipe),
        augment=Augment(**spec.job["augment"]),
        seed=0,
        device=where,
        teacher=where.place(_filled(bare(spec.teacher))) if spec.teacher else None,
        sparsity=spec.job.get("sparsity", 0.0),
        told=False,
    )


def _filled(network: Any) -> Any:
    """A bare network without parameters that are all zero: what divides by their norm, as weight
    normalisation does, would not be finite."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if not weight.any():
                weight.normal_(0, 0.02, generator=generator)
    return network


class _Enough(Exception):
    pass


def _keep_outputs(run) -> float:
    """Seconds for what of a teacher is computed before the first epoch; 0 if nothing is."""
    from st.training.teacher import Teacher

    if not run.objective.teacher:
        return 0.0
    seconds = 0.0
    for _ in range(2):  # the first time kernels are chosen
        started = time.perf_counter()
        teacher = Teacher(
            run.teacher, run.objective.taps, run.images, run.augment, run.epochs, run.device
        )
        run.device.wait()
        seconds = time.perf_counter() - started
    return seconds if teacher.keeps else 0.0


def _measure(run) -> float:
    """Seconds for an epoch. The training is run again until it took long enough; its first time is
    not counted."""
    from st.training.loop import fit

    epochs: list[float] = []
    for again in range(1_000):
        stamps = [time.perf_counter()]

        def after_epoch(run, speed, stamps=stamps, again=again):
            stamps.append(time.perf_counter())
            late = stamps[-1] - stamps[0] > SECONDS
            if (late and again == 0) or (len(stamps) > 3 and (late or again == 0)):
                raise _Enough

        run.history = []
        with suppress(_Enough):
            fit(run, after_epoch)
        if again:
            epochs += list(np.diff(stamps)[1:] if len(stamps) > 2 else np.diff(stamps))
            if sum(epochs) > SECONDS:
                break
    return statistics.median(epochs)
