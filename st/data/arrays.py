"""Images that come as arrays: numpy's, or tensors of torch."""

from typing import Any

import numpy as np

CHANNELS = (1, 3)  # by which an axis of channels is known


def is_array(value: Any) -> bool:
    """Whether it is numpy's or torch's."""
    return hasattr(value, "ndim") and hasattr(value, "dtype")


def plain(array: Any) -> np.ndarray:
    """Its values, on the CPU; raises ValueError or TypeError if it is no array."""
    if hasattr(array, "detach"):  # torch's; numpy has no bfloat16
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array
    return np.asarray(array)


def channels_first(array: Any) -> np.ndarray:
    """(..., channels, height, width). Torch's arrays have that already, as torchvision makes them;
    numpy's may have their channels last, as Pillow makes them, if these are 1 or 3."""
    found = plain(array)
    last = found.shape[-1] in CHANNELS and found.shape[-3] not in CHANNELS
    return found if hasattr(array, "detach") or not last else np.moveaxis(found, -1, -3)


def eight_bits(array: np.ndarray) -> np.ndarray:
    """Pixels as uint8 of 0 to 255: of integers of these values, or of floats of 0 to 1, which are
    rounded. Raises ValueError that says what the values are instead."""
    kind = array.dtype.kind
    if kind not in "uif":
        raise ValueError(f"must be numbers, not {array.dtype}")
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= (1 if kind == "f" else 255)):  # also what is not a number
        raise ValueError(
            f"its values are {array.dtype} of {low:.4g} to {high:.4g}; give integers of 0 to "
            "255 or floats of 0 to 1, before any normalisation"
        )
    if kind == "f":
        array = np.rint(array * np.float32(255))
    return np.ascontiguousarray(array, dtype=np.uint8)
