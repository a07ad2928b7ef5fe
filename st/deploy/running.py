"""Exported files at work: what they say of test images, and how they are called to be timed."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from st.core.errors import StError
from st.core.registry import targets
from st.data.images import Images
from st.deploy.targets import parts

AT_ONCE = 256  # images of a batch


class Exported:
    """A file of the target `to`, on the CPU. `raw`: whether it takes pixels, as `images` has them;
    otherwise they are normalised. `threads`: 0 for all."""

    def __init__(self, path: Path, to: str, raw: bool, images: Images, threads: int):
        kind = targets.get(to)
        self._raw, self._images = raw, images
        files = parts(kind, path)
        for file in files:
            if not file.is_file():
                raise StError(f"{file}: is missing; the phase `deploy` makes it")
        self.bytes = sum(file.stat().st_size for file in files)
        self.device = f"CPU ({kind.runtime})"
        self.precision = "float32" if kind.exact else to
        self._run = kind.run(path, threads)

    def predictions(self) -> Tensor:
        """The class of each test image, shape (n,), int64."""
        images = self._images.test_images
        parts = images.batches(torch.arange(len(images)).split(AT_ONCE))
        found = [self._run(self._taken(part)).argmax(1) for part in parts]
        return torch.from_numpy(np.concatenate(found)).to(self._images.test_labels.device)

    def call(self, pixels: Tensor) -> Callable[[], object]:
        """A call with these images, uint8 (n, c, h, w)."""
        return partial(self._run, self._taken(pixels))

    def _taken(self, pixels: Tensor) -> np.ndarray:
        given = pixels if self._raw else self._images.normalise(pixels)
        return given.cpu().contiguous().numpy()
