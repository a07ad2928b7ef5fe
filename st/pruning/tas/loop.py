"""TAS's loop: the weights and the probabilities of widths and depths are trained in turns."""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from st.core import registry, sources
from st.core.device import Device, choose
from st.core.errors import StError
from st.core.progress import say
from st.core.seeds import derive, stream
from st.data.augment import Augment
from st.data.dataset import Data, opened
from st.data.images import Images
from st.networks.structure import Structure
from st.pruning.tas.network import Choice, Supernet, sample
from st.pruning.tas.space import TOLERANCE, Space
from st.training.loop import check_finite
from st.training.optimiser import adam, descend, moments
from st.training.progress import Progress
from st.training.recipe import Training, learning_rate
from st.training.resume import Resume


def cost(expected: Tensor, current: float, target: float) -> Tensor:
    """+log of the expected MACs if the likeliest network has more than the target, -log if it has
    less than 95 % of it, else 0. In units of the target, which changes no gradient."""
    if current > target:
        return torch.log(expected / target)
    if current < (1 - TOLERANCE) * target:
        return -torch.log(expected / target)
    return torch.zeros(())


@dataclass
class Search:
    """Everything that one search needs; `fit` runs it. For `Resume` it looks like a training."""

    network: Supernet
    images: Images
    recipe: Training
    target: float
    options: dict[str, Any]
    augment: Augment
    seed: int
    device: Device
    history: list[dict[str, Any]] = field(default_factory=list)
    early: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        named = self.network.named_parameters()
        self.weights = [weight for name, weight in named if name != "architecture"]
        self.moments = moments(self.weights, self.recipe)
        self.epochs = self.recipe.epochs
        self.modules: dict[str, nn.Module] = {"weight": self.network}

    def outputs(self, batch: Tensor, choice: Choice) -> Tensor:
        """The network's logits for uint8 images, under a choice."""
        with self.device.autocast():
            return self.network(self.images.normalise(batch), choice).float()

    def temperature(self, epoch: int) -> float:
        """Of the Gumbel-softmax: it falls by a cosine, as in the authors' code."""
        hot, cold = self.options["temperature"]
        return cold + (hot - cold) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2


def fit(run: Search, after_epoch: Callable[[Search, float], None]) -> None:
    """Train from where `run.history` ends: in turns a batch of one half of the training images for
    the weights, and one of the other half for the architecture parameters."""
    network, images, options = run.network, run.images, run.options
    total = len(images.train_labels)
    halves = np.array_split(stream(run.seed, "tas", "halves").permutation(total), 2)
    batch_size = min(run.recipe.batch_size, total // 2)
    if batch_size < 2:
        raise StError(f"criterion 'tas': needs 4 training images or more, not {total}; add images")
    if batch_size < run.recipe.batch_size:
        say(
            f"criterion 'tas': batch_size {run.recipe.batch_size}, but each half of the training "
            f"images has {batch_size}: each step takes all of one"
        )
    steps = total // 2 // batch_size
    for epoch in range(len(run.history), run.epochs):
        network.train()
        started = time.perf_counter()
        views = run.augment.draw(total, run.seed, epoch)
        rng = stream(run.seed, "tas", "order", epoch)
        orders = [torch.from_numpy(rng.permutation(half)) for half in halves]
        # a batch of one half, a batch of the other
        parts = [
            order[step * batch_size : (step + 1) * batch_size]
            for step in range(steps)
            for order in orders
        ]
        show = partial(run.augment.apply, size=images.size)
        batches = images.train_images.batches(parts, show, views)
        labels_of = iter([images.train_labels[run.device.tensor(part.numpy())] for part in parts])
        noise = torch.Generator().manual_seed(derive(run.seed, "tas", "noise", epoch))
        draws = (len(network.space.layers), run.temperature(epoch), noise)
        sums: dict[str, Any] = dict.fromkeys(("ce", "architecture_ce", "correct"), 0)
        for step in range(steps):
            labels = next(labels_of)
            choice = sample(network.logits().detach(), *draws)
            outputs = run.outputs(next(batches), choice)
            ce = F.cross_entropy(outputs, labels)
            ce.backward()
            rate = learning_rate(run.recipe, (epoch + step / steps) / run.epochs)
            descend(run.weights, run.moments, run.recipe, rate)
            sums["ce"] += ce.detach()
            sums["correct"] += (outputs.detach().argmax(1) == labels).sum()

            choice = sample(network.logits(), *draws)
            outputs = run.outputs(next(batches), choice)
            ce = F.cross_entropy(outputs, next(labels_of))
            macs = network.space.chosen_macs(network.likeliest())
            penalty = options["macs_weight"] * cost(network.expected_macs(), macs, run.target)
            objective = ce + penalty.to(ce.device)
            (gradient,) = torch.autograd.grad(objective, network.architecture)
            adam(
                network.architecture, gradient, network.first_moment, network.second_moment,
                epoch * steps + step + 1, options["architecture_lr"],
                options["architecture_weight_decay"],
            )  # fmt: skip
            sums["architecture_ce"] += ce.detach()
        speed = 2 * steps * batch_size / (time.perf_counter() - started)
        means = {name: float(value) / steps for name, value in sums.items()}
        check_finite(means["ce"] + means["architecture_ce"], run, epoch, "the option 'lr'")
        run.history.append(
            {
                "epoch": epoch + 1,
                "loss": means["ce"],
                "architecture_loss": means["architecture_ce"],
                "train_accuracy": 100 * means["correct"] / batch_size,
                "test_accuracy": None,
                "expected_macs": network.expected_macs().item(),
                "macs": network.space.chosen_macs(network.likeliest()),
            }
        )
        after_epoch(run, speed)


def search(
    full: Structure,
    space: Space,
    target: float,
    options: dict[str, Any],
    data: Data | Path,
    seed: int,
    device: str,
    threads: int,
    state: Path | None,
) -> list[np.ndarray]:
    """Log-probabilities of the candidates, of each layer, then each stage."""
    images, digest = opened(data)
    images.check_fits(full.input_shape, full.classes)
    where = choose(device, threads)
    recipe = Training(
        schedule="cosine",
        nesterov=True,
        **{k: options[k] for k in ("epochs", "batch_size", "lr", "weight_decay")},
    )
    augment = Augment(crop=options["crop"], flip=options["flip"])
    network = where.place(Supernet(full, space, seed))
    run = Search(network, Images(images, where), recipe, target, options, augment, seed, where)
    depends_on = {
        "search": "tas", "structure": full.to_json(), "options": options, "target": target,
        "seed": seed, "data": digest,
        "code": sources.digest(__name__, registry.architectures.module(full.family)),
    }  # fmt: skip
    reading = closing(run.images)
    with reading, Resume(state, depends_on, where) if state else nullcontext() as resume:
        if resume:
            resume.restore(run)
        progress = Progress(run.epochs, done=len(run.history))

        def after_epoch(run: Search, speed: float) -> None:
            progress.epoch(run.history[-1], speed)
            if resume:
                resume.after_epoch(run)

        fit(run, after_epoch)
        if resume:
            resume.finish()
    logits = network.logits().detach().log_softmax(1).double().numpy()
    return [row[:count] for row, count in zip(logits, space.candidates, strict=True)]
