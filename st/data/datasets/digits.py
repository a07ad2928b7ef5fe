"""Handwritten digits, 8x8, embedded in scikit-learn: real data without a download."""

import numpy as np

from st.core.registry import datasets
from st.core.seeds import stream
from st.data.dataset import Data
from st.data.datasets import fixed


@datasets.register
def digits() -> Data:
    """1,797 images (Alpaydin & Kaynak 1998), 897 to train and 900 to test, split class by class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = found.target.astype(np.int64)
    # Classes in turn, each in a random order: then any cut leaves all of them on both sides.
    order = stream(0, "digits").permutation(len(labels))
    place = np.empty(len(labels))
    for label in range(10):
        members = order[labels[order] == label]
        place[members] = np.arange(len(members)) / len(members)
    order = np.argsort(place, kind="stable")
    test, train = np.sort(order[:900]), np.sort(order[900:])
    return Data(
        images[train], labels[train], images[test], labels[test], [str(n) for n in range(10)]
    )


digits.shape = fixed(1, 8, 10)
