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
    found = [tensors.get(name) for name in ("predicted", "labels")]
    sound = all(v is not None and v.ndim == 1 and v.dtype.kind == "u" and len(v) for v in found)
    if not sound or len(found[0]) != len(found[1]):
        raise StError(f"{path}: does not hold a class for each image; evaluate it again")
    return found[0], found[1]
