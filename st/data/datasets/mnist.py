"""MNIST, through torchvision."""

from st.core.registry import datasets
from st.core.types import Flag
from st.data.dataset import Data
from st.data.datasets import below, fixed, torchvision_data


@datasets.register
def mnist(*, root: str = "data", download: Flag = False) -> Data:
    """Read from `root`; downloaded only if `download` says so."""
    return torchvision_data("MNIST", root, download)


mnist.shape = fixed(1, 28, 10)
mnist.paths = below("MNIST/raw")
mnist.where = ("root", "download")
