"""Small spaces of Transformable Architecture Search."""

import torch

from st.core.registry import architectures, criteria
from st.networks.structure import Structure

WIDTHS = criteria.check("tas", {})["widths"]


NETWORKS = {
    "vgg": ("vgg", {"layers": [16, 16, "M", 32, 32, "M", 48, 48], "hidden": 20}),
    "resnet-8": ("resnet", {"depth": 8, "width": 0.75}),
    "resnet-14": ("resnet", {"depth": 14, "width": 0.75}),
}


def supernet(name: str, input_shape=(1, 8, 8), classes=3) -> Structure:
    family, options = NETWORKS[name] if isinstance(name, str) else name
    return Structure(family, architectures.check(family, options), input_shape, classes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
