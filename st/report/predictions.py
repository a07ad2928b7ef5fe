"""What networks said of every test image: written by evaluate, read by the verdicts.

One safetensors file a network, with a checksum: `predicted` and `labels`, classes of shape (n,) in
the smallest unsigned type. 20 kB for 10,000 images.
"""

from pathlib import Path

import numpy as np

from st.core.errors import StError
from st.core.tensors import VERSION, read_tensors, write_tensors

FORMAT = "search-and-train predictions"


def save_predictions(path: str | Path, predicted: np.ndarray, labels: np.ndarray) -> None:
    """`predicted`, `labels`: classes, shape (n,)."""
    kind = np.min_scalar_type(int(max(predicted.max(), labels.max())))
    tensors = {"predicted": predicted.astype(kind), "labels": labels.astype(kind)}
    write_tensors(path, tensors, {"format": FORMAT, "version": VERSION})


def load_predictions(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """(predicted, labels), shape (n,) each; raises StError that names the file."""
    tensors, _ = read_tensors(path, FORMAT)
    none = np.empty(0, np.uint8)
    predicted, labels = tensors.get("predicted", none), tensors.get("labels", none)
    sound = all(v.ndim == 1 and v.dtype.kind == "u" and len(v) for v in (predicted, labels))
    if not sound or len(predicted) != len(labels):
        raise StError(f"{path}: does not hold a class for each image; evaluate it again")
    return predicted, labels
