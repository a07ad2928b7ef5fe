"""Pruned structures as Li et al. (2017) published them."""

from typing import Any, Literal

import numpy as np

from st.core.errors import StError
from st.core.registry import architectures, criteria
from st.networks.structure import Structure
from st.pruning.criteria import Subject, per_channel
from st.pruning.selection import Budget

# Family, options, and what remains per layer. ResNets: the skipped layers and the pruning ratio of
# each stage. Layers are numbered as there: the first convolution of the network is 1, the first
# ones of the blocks are 2, 4, 6, ...
PUBLISHED: dict[str, tuple[Any, ...]] = {
    "vgg16-a": ("vgg", {"depth": 16, "hidden": 512}),
    "resnet56-a": ("resnet", {"depth": 56}, {16, 20, 38, 54}, (0.1, 0.1, 0.1)),
    "resnet56-b": ("resnet", {"depth": 56}, {16, 18, 20, 34, 38, 54}, (0.6, 0.3, 0.1)),
    "resnet110-a": ("resnet", {"depth": 110}, {36}, (0.5, 0.0, 0.0)),
    "resnet110-b": ("resnet", {"depth": 110}, {36, 38, 74}, (0.5, 0.4, 0.3)),
}
VGG16_A = {"conv1": 32, **{f"conv{number}": 256 for number in range(8, 14)}}
Name = Literal["vgg16-a", "resnet56-a", "resnet56-b", "resnet110-a", "resnet110-b"]


@criteria.register
def published(subject: Subject, *, name: Name) -> Structure:
    """The published number of channels per layer; within a layer, the filters with the largest
    L1 norm in this supernet.

    Raises StError if the supernet is not the published one.
    """
    full = subject.structure
    suits(full, subject.budget, name=name)
    sums = per_channel(subject, lambda rows: np.abs(rows).sum(axis=1, dtype=np.float64))
    keep = {
        group: np.sort(np.argsort(-sums[group], kind="stable")[:amount])
        for group, amount in widths(name).items()
    }
    return full.with_keep(keep)


def widths(name: str) -> dict[str, int]:
    """Channels per pruned group; the others stay whole."""
    _, options, *rule = PUBLISHED[name]
    if not rule:
        return VGG16_A
    skip, ratios = rule
    blocks = (options["depth"] - 2) // 6
    result: dict[str, int] = {}
    for stage, ratio in enumerate(ratios, start=1):
        for block in range(1, blocks + 1):
            if ratio and 2 * ((stage - 1) * blocks + block) not in skip:
                left = int(16 * 2 ** (stage - 1) * (1 - ratio))
                result[f"stage{stage}.block{block}.conv1"] = left
    return result


def suits(full: Structure, budget: Budget, *, name: str) -> None:
    """Raise StError if a supernet is not what the structure was published for."""
    if full.keep:
        raise StError("criterion 'published': takes a whole network, not one that was pruned")
    family, options, *_ = PUBLISHED[name]
    complete = architectures.check(family, options)
    if full.family != family or architectures.check(family, dict(full.options)) != complete:
        wanted = ", ".join(f"{key} {value}" for key, value in options.items())
        raise StError(f"criterion 'published': '{name}' is a structure of a {family} of {wanted}")


published.ranks = False
published.drawn = True
published.budget = False
published.suits = suits
