"""How often a network is right."""

import torch
from torch import nn

from st.core.device import Device
from st.data.images import Images


@torch.inference_mode()
def accuracy(network: nn.Module, images: Images, device: Device) -> float:
    """Percentage of the test images whose class the network gives, in evaluation mode."""
    network.eval()
    correct = torch.zeros((), dtype=torch.int64, device=images.test_labels.device)
    for batch, labels in zip(
        images.test_images.split(512), images.test_labels.split(512), strict=True
    ):
        with device.autocast():
            logits = network(images.normalise(batch))
        correct += (logits.argmax(1) == labels).sum()
    return 100 * correct.item() / len(images.test_labels)
