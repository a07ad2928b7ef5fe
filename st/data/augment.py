"""Random crops and flips, of a batch at once."""

from typing import Annotated

from pydantic import Field

from st.core.seeds import derive
from st.core.types import Flag, Section, Whole

# torch is imported in the methods, because params.yaml is checked without it.


class Augment(Section):
    """Random changes of the training images."""

    crop: Annotated[Whole, Field(ge=0, le=64)] = Field(
        0, description="Pad by so many pixels and crop back at random."
    )
    flip: Flag = Field(False, description="Mirror half of the images left to right.")

    @property
    def views(self) -> int:
        """How many versions of an image there are: (2 crop + 1)^2, twice as many with flips."""
        return (2 * self.crop + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, images: int, seed: int, epoch: int):
        """The number of the view of each image in an epoch, a tensor of shape (images,) on the CPU.

        A function of (seed, epoch) alone, so a resumed training continues as if it had never
        stopped.
        """
        import torch

        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        return torch.randint(self.views, (images,), generator=generator)

    def apply(self, images, views):
        """`images` (n, c, h, w), any type, each in the view that `views` (n,) names. Pixels from
        beyond the border are 0."""
        import torch
        from torch.nn.functional import pad

        n, _, height, width = images.shape
        if self.flip:
            flip, views = views % 2 == 1, views // 2
            images = torch.where(flip[:, None, None, None], images.flip(3), images)
        if self.crop:
            side = 2 * self.crop + 1
            windows = pad(images, (self.crop,) * 4).unfold(2, height, 1).unfold(3, width, 1)
            index = torch.arange(n, device=images.device)
            images = windows[index, :, views // side, views % side]
        return images
