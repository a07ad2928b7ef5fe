"""Data sets: each module registers a function that returns a `st.data.dataset.Data`.

Its attribute `shape` tells ((channels, height, width), classes) from the options alone, without
reading any image, or None where only the images tell. Budgets can then be checked before any job.
Its attribute `paths` tells from the options which files and folders it reads, so that changes of
them are noticed; a source without it is taken never to change. Beside it, `where` names the options
that only say where these are: the same files elsewhere are the same images.
"""

from pathlib import Path

from st.core.errors import StError, one_line
from st.data.dataset import Data, Shape
from st.data.folder import expanded


def torchvision_data(kind: str, root: str, download: bool) -> Data:
    """A torchvision data set as arrays; `kind` is its class's name."""
    import numpy as np
    from torchvision import datasets

    arrays = []
    for train in (True, False):
        try:
            part = getattr(datasets, kind)(root, train=train, download=download)
        except Exception as error:  # torchvision raises anything, from OSError to zipfile's own
            if download:
                raise StError(
                    f"{kind}: cannot be downloaded to '{root}' "
                    f"({type(error).__name__}: {one_line(error)})"
                ) from error
            raise StError(
                f"{kind}: is not in '{root}'; put torchvision's files there, or let them be "
                "downloaded with the option 'download: true'"
            ) from error
        images = np.asarray(part.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        arrays += [np.ascontiguousarray(images), np.asarray(part.targets, dtype=np.int64)]
    classes = [str(name) for name in part.classes]
    train_images, train_labels, test_images, test_labels = arrays
    return Data(train_images, train_labels, test_images, test_labels, classes)


def fixed(channels: int, side: int, classes: int):
    """A `shape` that does not depend on options."""

    def shape(**options) -> Shape:
        return (channels, side, side), classes

    return shape


def below(folder: str):
    """A `paths` of a folder below the option `root`."""

    def paths(*, root: str, **others) -> list[Path]:
        return [expanded(root) / folder]

    return paths
