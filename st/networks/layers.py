"""What executable networks of drawn and of imported architectures have in common."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from st.core.errors import StError
from st.networks.structure import Structure


class Executable(nn.Module):
    """The network of a structure. Layers with weights are modules, children that their names say
    (`stage1.block2.conv1`); what lies between them is not.

    Called with a batch and names of taps: the logits, (n, classes), or with taps a dict of these
    intermediate values. Its own attributes begin with `st_`: parts of imported networks keep their
    names, which may be any others.
    """

    def __init__(self, structure: Structure):
        super().__init__()
        self.st_structure = structure
        # whether torch's random numbers are drawn in training, as by dropout
        self.st_random = False
        # batch normalisations that are no layers, which several processes can't compute together
        self.st_loose_norms = False
        # batch normalisations' scales by name, those that are trained
        self.st_scales: list[str] = []
        self.st_layers: dict[str, nn.Module] = {}
        # layers, each with the batch normalisation that alone reads it
        self.st_foldable: list[tuple[str, str]] = []

    def st_parent(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds what has this name, and the last part of the name."""
        *path, last = name.split(".")
        parent: nn.Module = self
        for part in path:
            if part not in parent._modules:
                self.st_check(parent, part, name)
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        return parent, last

    def st_check(self, parent: nn.Module, part: str, name: str) -> None:
        """Raise StError if `parent` cannot hold a part of this name."""
        if part not in parent._modules and hasattr(parent, part):
            raise StError(
                f"architecture '{self.st_structure.family}': layer '{name}': torch's modules have "
                f"an attribute '{part}'; give the layer another name"
            )

    def st_attach(self, name: str, layer: nn.Module) -> None:
        """Make `layer` the one of this name."""
        parent, last = self.st_parent(name)
        self.st_check(parent, last, name)
        parent.add_module(last, layer)
        self.st_layers[name] = layer

    def st_exchange(self, change: Callable[[nn.Module], nn.Module]) -> None:
        """Put `change(layer)` in the place of every layer."""
        for name, layer in list(self.st_layers.items()):
            self.st_attach(name, change(layer))


class Uncounted(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation that leaves counting its batches to the training (`counts`): on a GPU
    each layer's own count is a kernel."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As torch's, whose running averages don't depend on the count."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self.momentum, self.eps,
        )  # fmt: skip


class BatchNorm1d(Uncounted, nn.BatchNorm1d):
    """Of shape (n, channels)."""


class BatchNorm2d(Uncounted, nn.BatchNorm2d):
    """Of shape (n, channels, height, width)."""


def counts(network: nn.Module) -> list[Tensor]:
    """The numbers of batches that normalisations have seen, where they don't count themselves."""
    return [m.num_batches_tracked for m in network.modules() if isinstance(m, Uncounted)]
