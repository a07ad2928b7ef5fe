"""Random views of training images: crops, flips, colours, mixtures; of a batch at once.

A view is a number. Where there are few, as of crops and flips, it counts them; where they are
endless, it is the seed of all that is random about them. Either way an image looks the same
wherever its view is shown: to student and teacher, in any batch, before and after an interruption.
"""

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from st.core.seeds import derive, stream
from st.core.types import Finite, Flag, Fraction, Section, Whole

# torch is imported in the methods, because params.yaml is checked without it.

ENDLESS = 2**62
Strength = Annotated[float, Finite(ge=0, le=10)]
Size = tuple[int, int]  # (height, width)


class ResizedCrop(Section):
    """A random part of the image, scaled to the network's size; as torchvision's
    RandomResizedCrop."""

    scale: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        [0.08, 1.0], description="From and to which part of the image's area."
    )
    ratio: Annotated[
        list[Annotated[float, Finite(ge=0.01, le=100)]], Field(min_length=2, max_length=2)
    ] = Field([3 / 4, 4 / 3], description="From and to which width over height.")


class Jitter(Section):
    """Random changes of colours, in a random order; as torchvision's ColorJitter. 0: none."""

    brightness: Strength = Field(0.0, description="b: times 1 - b (at least 0) to 1 + b.")
    contrast: Strength = Field(0.0, description="The same of the distance to the mean gray.")
    saturation: Strength = Field(0.0, description="The same of the distance to gray.")
    hue: Annotated[float, Finite(ge=0, le=0.5)] = Field(
        0.0, description="By so much of the colour circle, back or forth."
    )

    @property
    def active(self) -> dict[str, float]:
        """The changes that are made, with their strength."""
        return {name: strength for name, strength in self if strength}


class Augment(Section):
    """Random changes of the training images."""

    crop: Annotated[Whole, Field(ge=0, le=64)] = Field(
        0,
        description="Crop at random from the image and so many pixels around it: what is stored "
        "there, where training images are stored larger than networks see them, else zeros.",
    )
    flip: Flag = Field(False, description="Mirror half of the images left to right.")
    resized_crop: ResizedCrop | None = Field(
        None, description="Show a random part of each image, scaled; {} for the usual bounds."
    )
    jitter: Jitter = Field(Jitter(), description="Change colours at random.")
    mixup: Strength = Field(
        0.0,
        description="Above 0: blend every image, and its label, with another of its batch. Shares "
        "are drawn from Beta(mixup, mixup), once a batch.",
    )
    cutmix: Strength = Field(
        0.0,
        description="Above 0: replace a rectangle of every image by that of another of its batch, "
        "and so much of the label. The rectangle's share of the area is drawn from Beta(cutmix, "
        "cutmix). Beside mixup each batch gets one of the two.",
    )

    @property
    def mixes(self) -> bool:
        """Whether images, and their labels, are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def views(self) -> int:
        """How many versions of an image there are: (2 crop + 1)^2, twice as many with flips;
        ENDLESS with what is not counted."""
        if self.resized_crop or self.jitter.active or self.mixes:
            return ENDLESS
        return (2 * self.crop + 1) ** 2 * (2 if self.flip else 1)

    def repeats(self, epochs: int) -> bool:
        """Whether so many epochs show some version of an image again."""
        return self.views < epochs

    def misfits(self, shape: tuple[int, int, int] | None = None) -> Iterator[tuple[str, str]]:
        """What is impossible or without effect, for images of that shape (channels, height, width)
        or for any: keys, and what is wrong."""
        if self.resized_crop:
            if self.crop:
                yield "crop", "has no effect beside resized_crop; leave one of them out"
            for key, bounds in self.resized_crop:
                if bounds[0] > bounds[1]:
                    yield f"resized_crop.{key}", f"must go from low to high, not {bounds}"
        if shape is None:
            return
        channels, side = shape[0], min(shape[1:])
        if self.crop >= side:
            yield "crop", f"{self.crop} is as large as the images, {side} pixels"
        for name in self.jitter.active:
            if channels not in (1, 3):
                yield f"jitter.{name}", f"needs RGB or gray images, not {channels} channels"
            elif channels == 1 and name in ("saturation", "hue"):
                yield f"jitter.{name}", "has no effect on gray images; leave it out"

    def draw(self, images: int, seed: int, epoch: int):
        """The number of the view of each image in an epoch, a tensor of shape (images,) on the CPU.

        A function of (seed, epoch) alone, so a resumed training continues as if it had never
        stopped.
        """
        import torch

        generator = torch.Generator().manual_seed(derive(seed, "augment", epoch))
        return torch.randint(self.views, (images,), generator=generator)

    def apply(self, images, views, size: Size | None = None):
        """`images` (n, c, h, w), each in the view that `views` (n,) names, of `size`, by default
        theirs. Values stay in 0...255; of the same type but with `jitter`, which returns float32
        and rounds nothing. Pixels from beyond the border are 0."""
        import torch

        from st.data import views as shown
        from st.data.images import centred

        size = size or images.shape[2:]
        number, flip = views, None
        if self.flip:
            flip, views = views % 2 == 1, views // 2
        if self.resized_crop:
            box = shown.boxes(number, images.shape[2:], **self.resized_crop.model_dump())
            images = shown.resized(images, box, flip, size)
        else:
            images = centred(images, size, self.crop)
            side = 2 * self.crop + 1
            if self.crop:
                images = shown.cropped(images, views // side % side, views % side, flip, size)
            elif flip is not None:
                images = torch.where(flip[:, None, None, None], images.flip(3), images)
        if self.jitter.active:
            images = shown.jittered(images, number, self.jitter.active)
        return images

    def mixing(self, steps: int, seed: int, epoch: int, size: Size):
        """How the batches of an epoch are mixed: a tensor (steps, 6) on the CPU, rows for
        `st.data.views.mixed`. A function of (seed, epoch) alone."""
        import torch

        rng, (height, width) = stream(seed, "mix", epoch), size
        kinds = [name for name in ("mixup", "cutmix") if getattr(self, name)]
        rows = []
        for _ in range(steps):
            kind = kinds[int(rng.integers(len(kinds)))]
            share = rng.beta(getattr(self, kind), getattr(self, kind))
            if kind == "mixup":
                rows.append([0, 0, 0, 0, share, share])
                continue
            box = []
            for length in size:  # its centre is anywhere, so the border may cut the box
                centre, half = int(rng.integers(length)), int(0.5 * math.sqrt(1 - share) * length)
                box += [max(0, centre - half), min(length, centre + half)]
            top, bottom, left, right = box
            share = 1 - (bottom - top) * (right - left) / (height * width)
            rows.append([top, bottom, left, right, 1, share])
        return torch.tensor(rows, dtype=torch.float32)
