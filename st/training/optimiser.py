"""Steps of the optimisers: SGD for weights, Adam for TAS's probabilities.

Not torch.optim's classes: their first use imports torch's compiler. To import torch and make one
step takes 1.7 s with torch.optim.SGD and 1.0 s without (medians of six on a CPU core), and every
job pays it. Tests compare both optimisers with torch's classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from st.training.recipe import Training


def descend(
    weights: Sequence[Tensor], momentum: Sequence[Tensor], recipe: Training, rate: float | Tensor
) -> None:
    """A step of SGD with momentum and weight decay, as torch.optim.SGD, in one kernel. Gradients
    are used up: afterwards there are none."""
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


def adam(
    value: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    step: int,
    rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.5, 0.999),
) -> None:
    """Step number `step`, from 1 on, of torch.optim.Adam (Kingma & Ba 2015), in place. `first` and
    `second`: the gradient's moments, of its shape, zero before the first step."""
    with torch.no_grad():
        gradient = gradient + weight_decay * value
        first.lerp_(gradient, 1 - betas[0])
        second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
        scale = (second / (1 - betas[1] ** step)).sqrt().add_(1e-8)
        value.addcdiv_(first, scale, value=-rate / (1 - betas[0] ** step))
