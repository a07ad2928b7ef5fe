"""CIFAR-100, through torchvision."""

from st.core.registry import datasets
from st.core.types import Flag
from st.data.dataset import Data
from st.data.datasets import below, fixed, torchvision_data


@datasets.register
def cifar100(*, root: str = "data", download: Flag = False) -> Data:
    """Read from `root`; downloaded only if `download` says so."""
    return torchvision_data("CIFAR100", root, download)


cifar100.shape = fixed(3, 32, 100)
cifar100.paths = below("cifar-100-python")
cifar100.where = ("root", "download")
