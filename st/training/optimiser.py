"""A step of the optimiser."""

from collections.abc import Sequence

import torch
from torch import Tensor

from st.training.recipe import Training


def descend(
    weights: Sequence[Tensor], momentum: Sequence[Tensor], recipe: Training, rate: float | Tensor
) -> None:
    """SGD with momentum and weight decay, as torch.optim.SGD (tests compare them), in one kernel.

    Not that class itself: its first use imports torch's compiler, a second of every job.
    """
    # a layer that no loss depends on has no gradient: it stays, as in torch.optim.SGD
    pairs = zip(weights, momentum, strict=True)
    moved, moments = zip(*(pair for pair in pairs if pair[0].grad is not None), strict=True)
    with torch.no_grad():
        torch._fused_sgd_(
            moved, [w.grad for w in moved], moments if recipe.momentum else (),
            weight_decay=recipe.weight_decay, momentum=recipe.momentum, lr=rate,
            dampening=0.0, nesterov=recipe.nesterov, maximize=False, is_first_step=False,
        )  # fmt: skip
    for weight in weights:
        weight.grad = None
