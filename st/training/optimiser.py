"""Steps of the optimisers: SGD or AdamW for weights, Adam for TAS's probabilities.

Not torch.optim's classes: their first use imports torch's compiler. To import torch and make one
step takes 1.7 s with torch.optim.SGD and 1.0 s without (medians of six on a CPU core), and every
job pays it. Tests compare all with torch's classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from st.training.recipe import Training


def moments(weights: Sequence[Tensor], recipe: Training) -> list[Tensor]:
    """What the recipe's optimiser keeps between steps, zero before the first: the momentum of each
    weight; for AdamW the first moment of each, then the second of each, then the steps done."""
    kinds = 1 if recipe.optimiser == "sgd" else 2
    found = [torch.zeros_like(weight) for _ in range(kinds) for weight in weights]
    return found if recipe.optimiser == "sgd" else [*found, weights[0].new_zeros(())]


def descend(
    weights: Sequence[Tensor], kept: Sequence[Tensor], recipe: Training, rate: float | Tensor
) -> None:
    """A step of SGD with momentum and weight decay, as torch.optim.SGD, or of torch.optim.AdamW, in
    one kernel. `kept`: see `moments`. Gradients are used up: afterwards there are none."""
    # a layer that no loss depends on has no gradient: it stays, as in torch's classes
    used = [number for number, weight in enumerate(weights) if weight.grad is not None]
    moved, first = [weights[n] for n in used], [kept[n] for n in used]
    gradients: list[Any] = [weights[n].grad for n in used]
    speed: Any = rate  # torch's stubs know one of the two types
    with torch.no_grad():
        if recipe.optimiser == "sgd":
            torch._fused_sgd_(
                moved, gradients, first if recipe.momentum else (),
                weight_decay=recipe.weight_decay, momentum=recipe.momentum, lr=speed,
                dampening=0.0, nesterov=recipe.nesterov, maximize=False, is_first_step=False,
            )  # fmt: skip
        else:
            second, steps = [kept[len(weights) + n] for n in used], kept[-1]
            steps += 1
            torch._fused_adamw_(
                moved, gradients, first, second, [], [steps] * len(used),
                lr=speed, beta1=0.9, beta2=0.999, weight_decay=recipe.weight_decay, eps=1e-8,
                amsgrad=False, maximize=False,
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
