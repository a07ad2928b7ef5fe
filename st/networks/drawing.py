"""What is known of a network before any tensor exists, whoever drew it.

`Graph` (graph.py) is drawn by an architecture's function, `Program` (program.py) is imported from a
torch module. Searches, inits, files and reports know this interface only.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Self

import numpy as np

Keep = Mapping[str, np.ndarray]  # group -> sorted indices of the kept channels
Axis = Hashable  # names a list of channels that axes of tensors have; all of it or a part is kept


@dataclass
class Group:
    """Channels that live and die together: one index set of structure.json.

    `kind`: `filters`, the output channels of a convolution; `selection`, what one consumer takes
    from a residual or dense stream that itself keeps its width (network slimming's channel
    selection); `channels`, those of an imported network. `norms`: the scales that channels are
    normalised with. `members`: weights, each with the axis along which the group's channels lie,
    that tell how much a channel matters.
    """

    name: str
    kind: str
    size: int
    norms: list[str] = field(default_factory=list)
    members: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Tensor:
    """A parameter or buffer of the full network. `axes`: what pruning takes of each of its axes,
    None where everything stays.

    `role`: convolution, linear, bias, scale and shift (of normalisations), parameter (any other);
    mean, variance and count (of BatchNorm), buffer (any other that is not trained).
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[Axis | None, ...]
    role: str
    dtype: str = "float32"

    @property
    def trained(self) -> bool:
        """Whether it is a parameter; the others are buffers."""
        return self.role not in ("mean", "variance", "count", "buffer")


@dataclass(frozen=True)
class Extent:
    """The length of an axis: what is always there, and so often each group's width."""

    fixed: int
    groups: Mapping[str, int]


@dataclass(frozen=True)
class Term:
    """A part of the cost: `params` and `macs` times the product of the lengths of `axes`."""

    layer: str
    params: int
    macs: int
    axes: tuple[Axis, ...]

    def cost(self, sizes: Mapping[Any, int]) -> tuple[int, int]:
        """(parameters, MACs) with these lengths."""
        factor = prod(sizes[axis] for axis in self.axes)
        return self.params * factor, self.macs * factor


class Drawing(ABC):
    """A network without its tensors. `taps`: the intermediate values that losses can ask for."""

    input_shape: tuple[int, int, int]
    classes: int
    groups: dict[str, Group]
    taps: dict[str, Any]

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """Every parameter and buffer of the full network, named as in its checkpoints."""

    @abstractmethod
    def terms(self) -> list[Term]:
        """What it costs, for one image."""

    @abstractmethod
    def extents(self) -> dict[Any, Extent]:
        """The lengths of all axes that pruning shortens."""

    @abstractmethod
    def positions(self, keep: Keep) -> Mapping[Any, np.ndarray]:
        """What is kept of these axes: sorted indices."""

    @abstractmethod
    def places(self, axis: Axis, group: str, keep: Keep) -> np.ndarray:
        """Where a group's kept channels lie along a kept axis, shape (channels, times)."""

    @abstractmethod
    def heads(self) -> list[str]:
        """The tensors of the layers that make the output, and of what follows these layers: those
        that depend on the number of classes are among them."""

    def widths(self, keep: Keep) -> dict[str, int]:
        """Channels per group, all of them where `keep` does not name the group."""
        return {
            g.name: len(keep[g.name]) if g.name in keep else g.size for g in self.groups.values()
        }

    def sizes(self, widths: Mapping[str, int]) -> dict[Any, int]:
        """The lengths of all axes with these group widths."""
        return {
            axis: extent.fixed + sum(n * widths[group] for group, n in extent.groups.items())
            for axis, extent in self.extents().items()
        }

    def cost(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """(parameters, MACs) with these group widths.

        Parameters count what is trained: not BatchNorm's running statistics, not the indices of a
        selection. MACs count multiply-accumulates of convolutions, linear layers and matrix
        products for one image.
        """
        sizes = self.sizes(widths)
        params = macs = 0
        for term in self.terms():
            term_params, term_macs = term.cost(sizes)
            params += term_params
            macs += term_macs
        return params, macs

    def tapped(self, taps: Mapping[str, Any]) -> Self:
        """The same network with further taps."""
        result = copy.copy(self)
        result.taps = {**self.taps, **taps}
        return result


def layer_costs(terms: Iterable[Term], sizes: Mapping[Any, int]) -> dict[str, tuple[int, int]]:
    """(parameters, MACs) of each layer with these lengths of axes."""
    found: dict[str, tuple[int, int]] = {}
    for term in terms:
        params, macs = found.get(term.layer, (0, 0))
        more_params, more_macs = term.cost(sizes)
        found[term.layer] = params + more_params, macs + more_macs
    return found
