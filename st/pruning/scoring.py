"""Running a supernet on training images, for criteria that need more than its weights."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from st.core.device import Device, choose
from st.core.errors import StError
from st.core.seeds import stream
from st.data.dataset import opened
from st.data.images import Images
from st.networks import network
from st.networks.layers import Executable
from st.pruning.criteria import Subject


def build(subject: Subject, taps: Mapping[str, Any] | None = None) -> tuple[Executable, Device]:
    """The subject's network in evaluation mode. `taps`: nodes whose values it can return, by name.

    Normalised with running statistics, so that an image's scores do not depend on its batch.
    """
    where = choose(subject.device, subject.threads)
    own = subject.structure.with_taps(taps or {})
    return where.place(network.build(own, subject.tensors)).eval(), where


def batches(
    subject: Subject, where: Device, images: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images and labels: so many training images (at most all), drawn by the seed and
    shown as they are. In float32 on every device."""
    if subject.data is None:
        raise StError("the criterion needs the prepared data; give --data")
    data, _ = opened(subject.data)
    data.check_fits(subject.structure.input_shape, subject.structure.classes)
    source = Images(data, where)
    order = stream(subject.seed, "criterion", "images").permutation(len(data.train_labels))
    chosen = torch.from_numpy(order[:images]).split(batch_size)
    for index, stored in zip(chosen, source.train_images.batches(chosen), strict=True):
        yield source.plain(stored), source.train_labels[index.to(where.name)]
