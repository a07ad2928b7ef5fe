"""The training loop: one for supernets and subnets. What differs is the objective."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from st.augment import Augment
from st.data import Data
from st.device import Device
from st.errors import StError
from st.objective import Objective
from st.recipe import Training, learning_rate
from st.seeds import torch_seed

CACHE_BYTES = 2**30  # what cached teacher outputs may take


class Images:
    """A data set on the device: images as uint8, labels as int64, normalised batch by batch."""

    def __init__(self, data: Data, device: Device):
        mean, deviation = data.statistics()
        self.train_images, self.train_labels = (
            device.tensor(data.train_images),
            device.tensor(data.train_labels),
        )
        self.test_images, self.test_labels = (
            device.tensor(data.test_images),
            device.tensor(data.test_labels),
        )
        self._mean = device.tensor(mean).float()[:, None, None]
        self._scale = (1 / device.tensor(deviation)).float()[:, None, None]

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 (n, c, h, w) to float32 with mean 0 and deviation 1 per channel, channels_last."""
        batch = batch.contiguous(memory_format=torch.channels_last)
        return (batch.float() - self._mean) * self._scale


class Teacher:
    """A frozen network's outputs for the batches that its student sees.

    With fewer views than epochs every view of every image would be computed more than once;
    then all are computed beforehand, if they fit.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: tuple[str, ...],
        images: Images,
        augment: Augment,
        epochs: int,
        device: Device,
    ):
        self.network, self.taps, self.device = network.eval(), taps, device
        self._cache = None
        sample = self._run(images.normalise(images.train_images[:2]))
        each = sum(value[0].numel() * value.element_size() for value in sample.values())
        if augment.views < epochs and each * augment.views * len(images.train_images) < CACHE_BYTES:
            parts = []
            for view in range(augment.views):
                for batch in images.train_images.split(512):
                    views = torch.full((len(batch),), view, device=batch.device)
                    parts.append(self._run(images.normalise(augment.apply(batch, views))))
            self._cache = {
                tap: torch.cat([part.pop(tap) for part in parts]).unflatten(0, (augment.views, -1))
                for tap in taps
            }

    def _run(self, batch: Tensor) -> dict[str, Tensor]:
        return observe(self.network, batch, self.taps, self.device)

    def __call__(self, batch: Tensor, index: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Outputs by tap for `batch`: the images `index`, each in the view `views[index]`."""
        if self._cache is None:
            return self._run(batch)
        return {tap: value[views[index], index] for tap, value in self._cache.items()}


def observe(
    network: nn.Module, batch: Tensor, taps: tuple[str, ...], device: Device
) -> dict[str, Tensor]:
    """A network's outputs by tap, without a graph for gradients."""
    # Not inference_mode: losses keep these tensors for their backward pass.
    with torch.no_grad(), device.autocast():
        return as_float(network(batch, taps))


def as_float(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses are computed in float32, whatever the network computes in."""
    return {tap: value.float() for tap, value in outputs.items()}


@torch.inference_mode()
def accuracy(network: nn.Module, images: Images, device: Device) -> float:
    """Percentage of the test images whose class the network gives, in evaluation mode."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=images.test_labels.device)
    for batch, labels in zip(
        images.test_images.split(512), images.test_labels.split(512), strict=True
    ):
        with device.autocast():
            logits = network(images.normalise(batch))
        correct += (logits.argmax(1) == labels).sum()
    return 100 * correct.item() / len(images.test_labels)


@dataclass
class Run:
    """Everything that one training needs; `fit` runs it."""

    network: nn.Module
    images: Images
    recipe: Training
    epochs: int
    objective: Objective
    augment: Augment
    seed: int
    device: Device
    teacher: nn.Module | None = None
    sparsity: float = 0.0

    def __post_init__(self):
        if self.objective.adaptive:
            sample = self.images.normalise(self.images.train_images[:2])
            student, teacher = (
                # in evaluation mode: a look must not change running statistics
                network and observe(network.eval(), sample, self.objective.taps, self.device)
                for network in (self.network, self.teacher)
            )
            self.objective.adapt(student, teacher, self.seed, self.device)
        # what is trained, and so kept by st.resume
        self.modules = {"weight": self.network, "adapter": self.objective.adapters}
        self.weights = [w for module in self.modules.values() for w in module.parameters()]
        self.momentum = [torch.zeros_like(weight) for weight in self.weights]
        self.scales = [
            module.weight
            for module in self.network.modules()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
        ]
        self.history: list[dict[str, Any]] = []
        self.early: dict[str, np.ndarray] = {}  # the weights at the rewind epoch

    def generator(self, *labels: str | int) -> torch.Generator:
        return torch.Generator().manual_seed(torch_seed(self.seed, *labels))


def fit(run: Run, after_epoch: Callable[[Run, float], None]) -> None:
    """Train `run.network` from where `run.history` ends to the last epoch.

    `after_epoch(run, images_per_second)` is called when an epoch's row has been added to the
    history. Accuracies are in percent; the training accuracy is that of the augmented batches while
    the network was learning them. Raises StError if the loss is no longer finite.
    """
    recipe, images = run.recipe, run.images
    total = len(images.train_labels)
    batch_size = min(recipe.batch_size, total)
    steps = total // batch_size
    teacher = None
    if run.objective.teacher:
        teacher = Teacher(
            run.teacher, run.objective.taps, images, run.augment, run.epochs, run.device
        )
    for epoch in range(len(run.history), run.epochs):
        run.network.train()
        run.device.wait()
        started = time.perf_counter()
        views = run.augment.draw(total, run.seed, epoch).to(images.train_labels.device)
        epoch_images = run.augment.apply(images.train_images, views)
        order = torch.randperm(total, generator=run.generator("order", epoch))
        order = order.to(images.train_labels.device)
        sums: dict[str, Tensor] = {}
        correct = torch.zeros((), dtype=torch.int64, device=order.device)
        for step in range(steps):
            index = order[step * batch_size : (step + 1) * batch_size]
            rate = learning_rate(recipe, (epoch + step / steps) / run.epochs)
            batch, labels = images.normalise(epoch_images[index]), images.train_labels[index]
            supervision = teacher(batch, index, views) if teacher else None
            with run.device.autocast():
                outputs = run.network(batch, run.objective.taps)
            outputs = as_float(outputs)
            terms = run.objective(outputs, supervision, labels)
            terms["loss"].backward()
            if run.sparsity:
                _add_sparsity(run)
            _descend(run, rate)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach()
            correct += (outputs["logits"].detach().argmax(1) == labels).sum()
        means = {name: value.item() / steps for name, value in sums.items()}
        speed = steps * batch_size / (time.perf_counter() - started)
        if not math.isfinite(means["loss"]):
            raise StError(
                f"the loss is {means['loss']} in epoch {epoch + 1}; lower training.lr or the "
                "losses' weights"
            )
        last = epoch + 1 == run.epochs
        measure = last or (recipe.test_every and (epoch + 1) % recipe.test_every == 0)
        row = {"epoch": epoch + 1, "lr": rate, **means}
        row["train_accuracy"] = 100 * correct.item() / (steps * batch_size)
        row["test_accuracy"] = accuracy(run.network, images, run.device) if measure else None
        run.history.append(row)
        after_epoch(run, speed)


def _descend(run: Run, rate: float) -> None:
    """SGD with momentum and weight decay, as torch.optim.SGD (tests compare them), in one kernel.

    Not that class itself: its first use imports torch's compiler, a second of every job.
    """
    # a layer that no loss depends on has no gradient: it stays, as in torch.optim.SGD
    pairs = zip(run.weights, run.momentum, strict=True)
    weights, momentum = zip(*(pair for pair in pairs if pair[0].grad is not None), strict=True)
    with torch.no_grad():
        torch._fused_sgd_(
            weights, [w.grad for w in weights], momentum if run.recipe.momentum else (),
            weight_decay=run.recipe.weight_decay, momentum=run.recipe.momentum, lr=rate,
            dampening=0.0, nesterov=run.recipe.nesterov, maximize=False, is_first_step=False,
        )  # fmt: skip
    for weight in run.weights:
        weight.grad = None


def _add_sparsity(run: Run) -> None:
    """Network slimming's subgradient: lambda sign(gamma) on every BatchNorm scale."""
    signs = torch._foreach_sign([scale.detach() for scale in run.scales])
    torch._foreach_add_([scale.grad for scale in run.scales], signs, alpha=run.sparsity)
