"""MNIST, through torchvision."""

from st.data import Data
from st.datasets import fixed, torchvision_data
from st.registry import datasets


@datasets.register
def mnist(*, root: str = "data", download: bool = False) -> Data:
    """Read from `root`; downloaded only if `download` says so."""
    return torchvision_data("MNIST", root, download)


mnist.shape = fixed(1, 28, 10)
