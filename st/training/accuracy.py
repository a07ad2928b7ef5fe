"""How often a network is right."""

import torch
from torch import Tensor, nn

from st.core.device import Device
from st.data.images import Images


@torch.inference_mode()
def predictions(network: nn.Module, images: Images, device: Device) -> Tensor:
    """The class that the network gives each test image in evaluation mode, shape (n,), int64."""
    network.eval()
    found = []
    height, width = images.test_images.shape[2:]
    # larger images in smaller batches: maps that take as much memory as those of 512 small ones
    size = min(512, max(1, 512 * 32 * 32 // (height * width)))
    for batch in images.test_images.batches(torch.arange(len(images.test_images)).split(size)):
        with device.autocast():
            found.append(network(images.normalise(batch)).argmax(1))
    return torch.cat(found)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Percentage of the images whose class was predicted."""
    return 100 * (predicted == labels).sum().item() / len(labels)


def by_class(predicted: Tensor, labels: Tensor, classes: list[str]) -> dict[str, float | None]:
    """The same for the images of each class; None for a class of which there are none."""
    found: dict[str, float | None] = {}
    for label, name in enumerate(classes):
        here = labels == label
        found[name] = accuracy(predicted[here], labels[here]) if here.any() else None
    return found
