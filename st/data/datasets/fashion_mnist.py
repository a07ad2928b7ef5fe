"""Fashion-MNIST, through torchvision."""

from st.core.registry import datasets
from st.core.types import Flag
from st.data.dataset import Data
from st.data.datasets import below, fixed, torchvision_data


@datasets.register
def fashion_mnist(*, root: str = "data", download: Flag = False) -> Data:
    """Read from `root`; downloaded only if `download` says so."""
    return torchvision_data("FashionMNIST", root, download)


fashion_mnist.shape = fixed(1, 28, 10)
fashion_mnist.paths = below("FashionMNIST/raw")
fashion_mnist.where = ("root", "download")
