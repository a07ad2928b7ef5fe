"""CIFAR-10, through torchvision."""

from st.core.registry import datasets
from st.core.types import Flag
from st.data.dataset import Data
from st.data.datasets import below, fixed, torchvision_data


@datasets.register
def cifar10(*, root: str = "data", download: Flag = False) -> Data:
    """Read from `root`; downloaded only if `download` says so."""
    return torchvision_data("CIFAR10", root, download)


cifar10.shape = fixed(3, 32, 10)
cifar10.paths = below("cifar-10-batches-py")
cifar10.where = ("root", "download")
