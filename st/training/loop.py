"""The training loop: one for supernets and subnets. What differs is the objective."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from st.core.device import Device
from st.core.errors import StError
from st.core.seeds import derive
from st.core.shares import SHARE
from st.data.augment import Augment
from st.data.images import Images, Resident, Streamed
from st.data.views import mixed, mixed_labels
from st.networks.layers import Executable, counts
from st.training.accuracy import accuracy, predictions
from st.training.copies import Copies
from st.training.objective import Objective, Outputs
from st.training.optimiser import descend, moments
from st.training.parallel import Group, normalise_together
from st.training.recipe import Training, learning_rate
from st.training.teacher import Teacher, as_float, observe


class Trained(Protocol):
    """What st.resume and a step of SGD need of a training, or of a search that trains."""

    recipe: Training
    epochs: int
    modules: dict[str, nn.Module]
    weights: list[nn.Parameter]
    moments: list[Tensor]  # the optimiser's
    history: list[dict[str, Any]]
    early: dict[str, np.ndarray]


@dataclass
class Run:
    """Everything that one training needs; `fit` runs it."""

    network: Executable
    images: Images
    recipe: Training
    epochs: int
    objective: Objective
    augment: Augment
    seed: int
    device: Device
    teacher: Executable | None = None
    sparsity: float = 0.0
    group: Group | None = None  # the processes, if several compute this training
    told: bool = True  # whether the history says what each loss contributes to the gradient

    def __post_init__(self):
        if self.objective.adaptive:
            sample = self.images.plain(self.images.train_images[:2])

            def look(network: nn.Module) -> Outputs:
                # in evaluation mode: a look must not change running statistics
                return observe(network.eval(), sample, self.objective.taps, self.device)

            student, teacher = look(self.network), look(self.teacher) if self.teacher else None
            self.objective.adapt(student, teacher, self.seed, self.device)
        # what is trained, and so kept by st.training.resume
        self.modules: dict[str, nn.Module] = {
            "weight": self.network,
            "adapter": self.objective.adapters,
        }
        self.weights = [w for module in self.modules.values() for w in module.parameters()]
        self.moments = moments(self.weights, self.recipe)
        self.scales = [self.network.get_parameter(name) for name in self.network.st_scales]
        if self.sparsity and not self.scales:
            raise StError(
                "the L1 penalty (sparsity) is one on the scales of batch normalisations, and the "
                "network has none that are trained; leave it out (sparse: false)"
            )
        if self.group:
            normalise_together(self.network, self.device)
        self.history: list[dict[str, Any]] = []
        self.early: dict[str, np.ndarray] = {}  # the weights at the rewind epoch

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return self.group.rank if self.group else 0

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def generator(self, *labels: str | int) -> torch.Generator:
        """A generator of the training's own, for what the labels name."""
        return torch.Generator().manual_seed(derive(self.seed, *labels))


class Step:
    """One step of a training, called without arguments.

    All that differs between steps is put on the device once an epoch, and read there by the step's
    number, which the step counts up; what it adds up stays there until the epoch ends. So no step
    waits for the device, and memory stays in place: a GPU can capture a step once and replay it.
    """

    def __init__(self, run: Run, batch_size: int, steps: int):
        self.run, self.steps = run, steps
        self._network = run.group.share(run.network) if run.group else run.network
        self.teacher = None
        if run.objective.teacher:
            assert run.teacher is not None
            self.teacher = Teacher(
                run.teacher, run.objective.taps, run.images, run.augment, run.epochs, run.device
            )
        self._part = run.group.part(batch_size) if run.group else slice(None)
        self._show = partial(run.augment.apply, size=run.images.size)
        self._ahead: Iterator[Tensor] | None = None  # batches, if they come from elsewhere
        self._batch: Tensor | None = None  # the one of this step
        self._counts = counts(run.network)
        self._copies = Copies(run.network) if run.device.half and not run.group else None
        where = run.images.train_labels.device
        self._views = torch.zeros(len(run.images.train_labels), dtype=torch.int64, device=where)
        self._order = torch.zeros(steps, batch_size, dtype=torch.int64, device=where)
        self._rates = torch.zeros(steps, device=where)
        self._mixing = torch.zeros(steps, 6, device=where) if run.augment.mixes else None
        self._number = torch.zeros(1, dtype=torch.int64, device=where)
        self._names = ["loss", *run.objective.terms, "train_accuracy"]
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=where)

    def begin(self, epoch: int) -> float:
        """Prepare an epoch; returns the learning rate of its last step."""
        run, (steps, batch_size) = self.run, self._order.shape
        total = len(self._views)
        order = torch.randperm(total, generator=run.generator("order", epoch))
        rates = [
            learning_rate(run.recipe, (epoch + step / steps) / run.epochs) for step in range(steps)
        ]
        views = run.augment.draw(total, run.seed, epoch)
        order = order[: steps * batch_size].view(steps, batch_size)
        if isinstance(run.images.train_images, Streamed):
            batches = [self._own(index) for index in order]
            self._ahead = run.images.train_images.batches(batches, self._show, views)
        self._views.copy_(views)
        self._order.copy_(order)
        self._rates.copy_(torch.tensor(rates))
        if self._mixing is not None:
            self._mixing.copy_(run.augment.mixing(steps, run.seed, epoch, run.images.size))
        self._number.zero_()
        self._sums.zero_()
        if self._copies:
            self._copies.refresh()
        return rates[-1]

    def fetch(self) -> None:
        """Take the next batch, if images come from elsewhere; before each step, and apart from it,
        because a GPU that replays a step reads the same memory again."""
        if self._ahead is None:
            return
        batch = next(self._ahead)
        if self._batch is None or not self.run.device.is_cuda:
            self._batch = batch
        else:
            self._batch.copy_(batch)

    def _own(self, index: Tensor) -> Tensor:
        """Of a batch's images those that this process shows; with mixing first the one before them,
        because each is mixed with the one before it."""
        own = index[self._part]
        return own if self._mixing is None else torch.cat([index.roll(1)[self._part][:1], own])

    def __call__(self) -> None:
        """Train on the epoch's next batch."""
        run, group = self.run, self.run.group
        for weight in run.weights:  # a capture that failed leaves some behind
            weight.grad = None
        index = self._order.index_select(0, self._number).squeeze(0)
        terms, correct, _ = self._forward(self._copies or self._network, index, self._number)
        terms["loss"].backward()
        if self._copies:
            self._copies.hand_over()
        if self._counts:
            torch._foreach_add_(self._counts, 1)
        if group:
            group.lead(run.objective.adapters.parameters())
        if run.sparsity:
            _add_sparsity(run)
        descend(run.weights, run.moments, run.recipe, self._rates.index_select(0, self._number))
        if self._copies:
            self._copies.refresh()
        self._sums += torch.stack([*(terms[name].detach() for name in self._names[:-1]), correct])
        self._number += 1

    def _forward(
        self, network: Callable, index: Tensor, number: Tensor
    ) -> tuple[Outputs, Tensor, Tensor]:
        """The objective's terms for the images `index` of step `number`, the accuracy in percent,
        and, of the part of them that this process computes, the tap through which the gradients of
        all terms go."""
        run, images, group = self.run, self.run.images, self.run.group
        labels, own = images.train_labels[index], self._own(index)
        if isinstance(images.train_images, Resident):
            shown = self._show(images.train_images[own], self._views[own])
        else:
            assert self._batch is not None
            shown = self._batch
        if self._mixing is not None:
            others, row = index.roll(1), self._mixing.index_select(0, number).squeeze(0)
            labels = mixed_labels(labels, images.train_labels[others], images.classes, row)
            own, shown = own[1:], mixed(shown[1:], shown[:-1], row)
        batch = images.normalise(shown)
        supervision = self.teacher(batch, own, self._views[own]) if self.teacher else None
        with run.device.autocast():
            outputs = network(batch, run.objective.taps)
        first = outputs[run.objective.first]
        outputs = as_float(outputs)
        if group:
            outputs = group.gather(outputs, len(labels))
            supervision = supervision and group.gather(supervision, len(labels))
        predicted = outputs["logits"].detach().argmax(1)
        right = labels.gather(1, predicted[:, None]) if labels.dim() > 1 else predicted == labels
        return run.objective(outputs, supervision, labels), 100 * right.double().mean(), first

    def shares(self) -> dict[str, float]:
        """What each term of an objective with several contributes to the gradient, in percent.

        The norm of the weighted term's gradient with respect to the student's earliest tap that a
        loss reads (the features, for kd and cc), as a part of the sum of all terms' norms: for the
        epoch's last batch, with the weights that the epoch ends with. Changes nothing of the run.
        """
        run = self.run
        if len(run.objective.terms) == 1:
            return {}
        buffers = [(b, b.clone()) for module in run.modules.values() for b in module.buffers()]
        values, _, first = self._forward(run.network, self._order[-1], self._number - 1)
        squares = []
        for term in run.objective.weighted(values).values():
            (gradient,) = torch.autograd.grad(term, first, retain_graph=True, allow_unused=True)
            squares.append(
                (first.new_zeros(1) if gradient is None else gradient).float().square().sum()
            )
        for buffer, before in buffers:  # running statistics saw the batch once more
            buffer.copy_(before)
        own = torch.stack(squares)
        norms = (run.group.add(own) if run.group else own).sqrt()
        shares = (100 * norms / norms.sum().clamp_min(1e-30)).tolist()
        return {SHARE + name: part for name, part in zip(run.objective.terms, shares, strict=True)}

    def means(self) -> dict[str, float]:
        """Means over the epoch's steps, of the loss, its terms and the accuracy in percent."""
        return dict(zip(self._names, (self._sums / self.steps).tolist(), strict=True))


def fit(run: Run, after_epoch: Callable[[Run, float], None]) -> None:
    """Train `run.network` from where `run.history` ends to the last epoch.

    `after_epoch(run, images_per_second)` is called when an epoch's row has been added to the
    history. Accuracies are in percent; the training accuracy is that of the augmented batches while
    the network was learning them; of mixed images, the predicted class's part. Raises StError if
    the loss is no longer finite.
    """
    recipe, total = run.recipe, len(run.images.train_labels)
    if not run.epochs:  # weights that are taken as they are
        predicted = predictions(run.network, run.images, run.device)
        reached = accuracy(predicted, run.images.test_labels)
        empty = dict.fromkeys(("lr", "loss", "train_accuracy"))
        run.history[:] = [{"epoch": 0, **empty, "test_accuracy": reached}]
        return
    batch_size = min(recipe.batch_size, total)
    if batch_size < 2:
        raise StError("one training image is too few: batch normalisation needs two; add images")
    step = Step(run, batch_size, steps=total // batch_size)
    # not with several processes: what they send each other is not captured
    repeat = step if run.group else run.device.repeatable(step)
    for epoch in range(len(run.history), run.epochs):
        run.network.train()
        run.device.wait()
        started = time.perf_counter()
        rate = step.begin(epoch)
        for number in range(step.steps):
            if run.network.st_random:
                torch.manual_seed(derive(run.seed, "noise", epoch, number, run.rank))
            step.fetch()
            repeat()
        means = step.means()
        speed = step.steps * batch_size / (time.perf_counter() - started)
        check_finite(means["loss"], run, epoch, "training.lr or the losses' weights")
        last = epoch + 1 == run.epochs
        measure = last or (recipe.test_every and (epoch + 1) % recipe.test_every == 0)
        train_accuracy = means.pop("train_accuracy")
        shares = step.shares() if run.told else {}
        row: dict[str, Any] = {"epoch": epoch + 1, "lr": rate, **means, **shares}
        row["train_accuracy"] = train_accuracy
        measure = measure and run.leads
        row["test_accuracy"] = None
        if measure:
            predicted = predictions(run.network, run.images, run.device)
            row["test_accuracy"] = accuracy(predicted, run.images.test_labels)
        run.history.append(row)
        after_epoch(run, speed)


def check_finite(loss: float, run: Trained, epoch: int, lower: str) -> None:
    """Stop a training that went astray: raises StError that says what to lower.

    The weights are looked at too, because the last step may ruin them after a finite loss. Once an
    epoch, before anything of it is kept: looking at every step would make a GPU wait.
    """
    problem = None if math.isfinite(loss) else f"the loss is {loss}"
    tensors = [t for m in run.modules.values() for t in _learned(m)]
    # one answer for all: each that is asked for makes a GPU wait
    if not problem and not torch.stack([t.isfinite().all() for t in tensors]).all():
        problem = "the weights are no longer finite"
    if problem:
        raise StError(f"{problem} in epoch {epoch + 1}; lower {lower}")


def _learned(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and running statistics. Other buffers may be infinite, such as masks."""
    yield from module.parameters()
    statistics = ("running_mean", "running_var")
    yield from (value for name, value in module.named_buffers() if name.endswith(statistics))


def _add_sparsity(run: Run) -> None:
    """Network slimming's subgradient: lambda sign(gamma) on every BatchNorm scale."""
    scales = [scale for scale in run.scales if scale.grad is not None]  # all that are used
    signs = torch._foreach_sign([scale.detach() for scale in scales])
    gradients: Any = [scale.grad for scale in scales]
    torch._foreach_add_(gradients, signs, alpha=run.sparsity)
