"""Images that a network learns at once."""

import numpy as np

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
