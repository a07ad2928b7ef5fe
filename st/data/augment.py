"""Random crops and flips, of a batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from st.core.seeds import derive


@dataclass(frozen=True)
class Augment:
    """Pad by `crop` pixels (with zeros) and crop back at random; mirror at random.

    A *view* is one of the (2 crop + 1)^2 x (2 with flips) versions of an image. Which view of which
    image an epoch shows is a function of (seed, epoch) alone, so a resumed training continues as if
    it had never stopped.
    """

    crop: int = 0
    flip: bool = False

    @property
    def views(self) -> int:
        return (2 * self.crop + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, images: int, seed: int, epoch: int) -> Tensor:
        """The view number of each image, shape (images,), on the CPU."""
        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        return torch.randint(self.views, (images,), generator=generator)

    def apply(self, images: Tensor, views: Tensor) -> Tensor:
        """`images` (n, c, h, w), any type, each in the view that `views` (n,) names."""
        n, _, height, width = images.shape
        if self.flip:
            flip, views = views % 2 == 1, views // 2
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        if self.crop:
            side = 2 * self.crop + 1
            padded = F.pad(images, (self.crop,) * 4)
            windows = padded.unfold(2, height, 1).unfold(3, width, 1)
            index = torch.arange(n, device=images.device)
            images = windows[index, :, views // side, views % side]
        return images
