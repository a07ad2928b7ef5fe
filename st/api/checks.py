"""Arguments that several functions take."""

import operator
from typing import Any

from torch import nn

from st.core.errors import StError, sizes
from st.data.dataset import Data, is_sound
from st.deploy.model import Model


def network_of(value: Any, name: str = "network") -> Model:
    """The network; raises StError if it is none that knows its structure."""
    if isinstance(value, Model):
        return value
    hint = "; st.supernet makes one of it" if isinstance(value, nn.Module) else ""
    raise StError(
        f"{name}: must come from st.supernet, st.prune, st.train or st.load, not "
        f"{type(value).__name__}{hint}"
    )


def data_of(value: Any) -> Data:
    """The data; raises StError if they are not st.dataset's."""
    if not isinstance(value, Data):
        raise StError(f"data: must come from st.dataset, not {type(value).__name__}")
    channels = value.train_images.shape[1]
    known = value if value.normalisation else value.normalised([0.0] * channels, [1.0] * channels)
    if not is_sound(known):
        raise StError(
            "data: images, labels and classes do not fit together; st.dataset says what is wrong"
        )
    return value


def shape_of(value: Any) -> tuple[int, int, int]:
    """(channels, height, width); raises StError if it is no such shape."""
    try:
        channels, height, width = (operator.index(number) for number in value)
    except (TypeError, ValueError):
        channels = height = width = 0
    if not all(0 < number <= 65536 for number in (channels, height, width)):
        raise StError(f"input_shape: must be (channels, height, width), not {value!r}")
    return channels, height, width


def seed_of(value: Any) -> int:
    """A seed; raises StError if it is not a whole number from 0 on."""
    try:
        seed = operator.index(value)
    except TypeError:
        seed = -1
    if isinstance(value, bool) or not 0 <= seed < 2**32:
        raise StError(f"seed: must be a whole number of 0 to 2**32 - 1, not {value!r}")
    return seed


def fits(network: Model, data: Data) -> None:
    """Raise StError unless the data are of the network's shape and number of classes."""
    if data.input_shape != tuple(network.input_shape):
        raise StError(
            f"data: images are {sizes(data.input_shape)} (channels, height, width), the network "
            f"takes {sizes(network.input_shape)}"
        )
    if len(data.classes) != len(network.classes):
        raise StError(
            f"data: there are {len(data.classes)} classes, but the network gives "
            f"{len(network.classes)}; name them all in st.dataset(classes=...), or import it with "
            f"classes={len(data.classes)}"
        )


def same_classes(network: Model, data: Data, name: str = "network") -> None:
    """Raise StError if both name their classes, and differently."""
    numbers = [str(number) for number in range(len(data.classes))]
    if network.classes != data.classes and numbers not in (network.classes, data.classes):
        one, other = next(
            pair for pair in zip(network.classes, data.classes, strict=True) if pair[0] != pair[1]
        )
        raise StError(
            f"{name}: has the class '{one}' where the data have '{other}'; they must have the same "
            "classes in the same order"
        )
