"""Images that a network learns at once."""

from pathlib import Path

import numpy as np
from PIL import Image

from st.data.dataset import Data


def stripes(images: int = 40, classes: int = 3, side: int = 8, seed: int = 0) -> Data:
    """Gray images that a network learns at once: lines down, lines across, a chessboard."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((side, side)) % 2
    patterns = [column, row, row ^ column]

    def part():
        labels = np.arange(images) % classes
        pixels = rng.integers(0, 80, (images, 1, side, side))
        pixels[:, 0] += 150 * np.stack([patterns[label] for label in labels])
        return pixels.astype(np.uint8), labels.astype(np.int64)

    return Data(*part(), *part(), [f"class{n}" for n in range(classes)])


def write_folder(root: Path, data: Data, kind: str = "png", **options) -> Path:
    """The images of a data set as files of class folders, in train/ and test/."""
    parts = {
        "train": (data.train_images, data.train_labels),
        "test": (data.test_images, data.test_labels),
    }
    for part, (images, labels) in parts.items():
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / part / data.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = image.transpose(1, 2, 0) if len(image) > 1 else image[0]
            Image.fromarray(pixels).save(folder / f"{number:04}.{kind}", **options)
    return root
