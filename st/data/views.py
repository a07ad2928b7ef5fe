"""The arithmetic of random views, on the device: what `st.data.augment` decides, done.

Definitions are torchvision's. Its own transforms draw on the host and treat a whole batch alike;
here each image has its own parameters, which follow from the number of its view without asking the
device for a value, so that a GPU can capture all of it as a graph.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

# SplitMix64's constants (Steele et al. 2014), as signed numbers
_GAMMA, _MIX, _MIX_AGAIN = (
    number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
TRIES = 10  # torchvision's, for a crop that fits into the image


def uniform(views: Tensor, first: int, count: int) -> Tensor:
    """Numbers of [0, 1) that follow from `views` (n,), int64: number `first` of each and the next,
    (n, count), float64. SplitMix64 with the view as its state."""

    def shifted(value: Tensor, bits: int) -> Tensor:
        return (value >> bits) & (2 ** (64 - bits) - 1)  # torch's copies the sign

    place = torch.arange(first + 1, first + count + 1, device=views.device)
    state = views[:, None] + place * _GAMMA  # products wrap around
    state = (state ^ shifted(state, 30)) * _MIX
    state = (state ^ shifted(state, 27)) * _MIX_AGAIN
    return shifted(state ^ shifted(state, 31), 11).double() / 2**53


def one_by_one(images: Tensor) -> bool:
    """Whether images are cut out one after the other: the fastest way on a CPU. On a GPU it would
    wait for each place, and could not be captured."""
    return images.is_cpu


def boxes(
    views: Tensor, size: tuple[int, int], scale: list[float], ratio: list[float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width, each (n,), of torchvision's RandomResizedCrop in images of
    `size` (height, width): the first of ten random rectangles that fits, or the largest central one
    of an aspect ratio within `ratio`."""
    height, width = size
    low, high = (math.log(bound) for bound in ratio)
    drawn = uniform(views, 0, 2 * TRIES + 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * drawn[:, :TRIES])
    aspect = (low + (high - low) * drawn[:, TRIES : 2 * TRIES]).exp()
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first, any_fits = fits.int().argmax(1, keepdim=True), fits.any(1)
    nearest = min(max(width / height, ratio[0]), ratio[1])
    tall, wide = (
        torch.where(any_fits, found.gather(1, first).squeeze(1), whole)
        for found, whole in (
            (tall, min(height, round(width / nearest))),
            (wide, min(width, round(height * nearest))),
        )
    )
    top, left = (
        torch.where(any_fits, (place * (room + 1)).floor(), (room / 2).floor())
        for place, room in ((drawn[:, -2], height - tall), (drawn[:, -1], width - wide))
    )
    return top, left, tall, wide


def resized(
    images: Tensor,
    box: tuple[Tensor, Tensor, Tensor, Tensor],
    flip: Tensor | None,
    size: tuple[int, int],
) -> Tensor:
    """The box of each image (n, c, h, w), uint8, scaled to `size`, mirrored where `flip`, uint8:
    torchvision's resized_crop, bilinear and with antialiasing.

    On a CPU image by image, by the very function that torchvision calls; on a GPU all at once, with
    values that may differ by 1, where a CPU's arithmetic in whole numbers rounds twice.
    """
    top, left, tall, wide = box
    if one_by_one(images):
        found = _empty_as(images, size)
        places = torch.stack(box, 1).long().tolist()
        mirrored = [False] * len(images) if flip is None else flip.tolist()
        for number, (y, x, high, broad) in enumerate(places):
            part = images[number : number + 1, :, y : y + high, x : x + broad]
            part = interpolate(part, size, mode="bilinear", antialias=True)[0]
            found[number] = part.flip(2) if mirrored[number] else part
        return found
    rows = _weights(top, tall, images.shape[2], size[0], None)
    columns = _weights(left, wide, images.shape[3], size[1], flip)
    narrow = torch.einsum("nchw,npw->nchp", images.float(), columns)
    return torch.einsum("noh,nchp->ncop", rows, narrow).round().clamp(0, 255).to(images.dtype)


def cropped(
    images: Tensor, top: Tensor, left: Tensor, flip: Tensor | None, size: tuple[int, int]
) -> Tensor:
    """From each image (n, c, h, w) the part of `size` whose corner is at `top` and `left` (n,),
    once the image is mirrored where `flip`."""
    if one_by_one(images):  # copies of rows: a gather would take each pixel on its own
        found, width = _empty_as(images, size), images.shape[3]
        mirrored = [False] * len(images) if flip is None else flip.tolist()
        for number, (y, x) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            if mirrored[number]:
                x = width - x - size[1]
            part = images[number, :, y : y + size[0], x : x + size[1]]
            found[number] = part.flip(2) if mirrored[number] else part
        return found
    if flip is not None:
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def _empty_as(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Room for as many images of another size, in the same memory layout."""
    form = torch.contiguous_format if images.is_contiguous() else torch.channels_last
    shape = (len(images), images.shape[1], *size)
    return torch.empty(shape, dtype=images.dtype, memory_format=form)


def _weights(start: Tensor, length: Tensor, stored: int, shown: int, flip: Tensor | None) -> Tensor:
    """What each of `stored` pixels adds to each of `shown` ones, (n, shown, stored): a triangle
    around the pixel's centre, as wide as two pixels of the coarser grid, within the box."""
    start, length = start.float(), length.float()
    pixel = torch.arange(shown, device=start.device)[None]
    if flip is not None:
        pixel = torch.where(flip[:, None], shown - 1 - pixel, pixel)
    step = (length / shown)[:, None]
    centre = (pixel + 0.5) * step
    source = torch.arange(stored, device=start.device) - start[:, None]  # from the box's edge on
    distance = (source[:, None] + 0.5 - centre[:, :, None]).abs()
    weights = (1 - distance / step.clamp_min(1)[:, :, None]).clamp_min(0)
    inside = (source >= 0) & (source < length[:, None])
    weights = torch.where(inside[:, None], weights, 0.0)
    return weights / weights.sum(2, keepdim=True)


def jittered(images: Tensor, views: Tensor, strengths: dict[str, float]) -> Tensor:
    """Images of 0...255, gray or RGB, changed as torchvision's ColorJitter does, float32.

    `strengths`: of brightness, contrast, saturation and hue, those that are changed. Every image
    has its own factors and its own order.
    """
    names, count = list(strengths), len(strengths)
    drawn = uniform(views, 2 * TRIES + 2, 2 * count)
    factors = torch.stack(
        [
            strength * (2 * place - 1) if name == "hue" else _between(strength, place)
            for (name, strength), place in zip(strengths.items(), drawn.T, strict=False)
        ],
        dim=1,
    )
    images = images.float()
    for turn in drawn[:, count:].argsort(1).T:  # which change each image has now
        factor = factors.gather(1, turn[:, None]).float()[:, :, None, None]

        def now(name: str, turn: Tensor = turn) -> Tensor:
            number = names.index(name) if name in names else -1
            return (turn == number)[:, None, None, None]

        gray = _gray(images)
        other = torch.where(now("contrast"), gray.mean((1, 2, 3), keepdim=True), gray)
        other = torch.where(now("brightness"), 0.0, other)
        changed = (factor * images + (1 - factor) * other).clamp(0, 255)
        if "hue" in names:
            changed = torch.where(now("hue"), _turned(images, factor[:, 0]), changed)
        images = changed
    return images


def _between(strength: float, place: Tensor) -> Tensor:
    low = max(0.0, 1 - strength)
    return low + (1 + strength - low) * place


def _gray(images: Tensor) -> Tensor:
    """Luma (ITU-R 601), (n, 1, h, w)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _turned(images: Tensor, part: Tensor) -> Tensor:
    """RGB images with colours turned by so much of the circle, through hue, chroma and value."""
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    unit = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / unit,
        torch.where(value == green, 2 + (blue - red) / unit, 4 + (red - green) / unit),
    )  # in sixths of the circle
    hue = hue + 6 * part
    channels = []
    for offset in (5, 3, 1):  # of red, green, blue: where each is least
        place = (offset + hue) % 6
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, 1)


def mixed(images: Tensor, others: Tensor, row: Tensor) -> Tensor:
    """Images (n, c, h, w) mixed with `others`, float32. `row` (6,): top, bottom, left and right of
    a box in which the others lie, the images' share of the pixels outside it, and of the label."""
    top, bottom, left, right, outside, _ = row
    down, across = (torch.arange(length, device=row.device) for length in images.shape[2:])
    inside = ((down >= top) & (down < bottom))[:, None] & (across >= left) & (across < right)
    share = torch.where(inside, 0.0, outside)
    return share * images.float() + (1 - share) * others.float()


def mixed_labels(labels: Tensor, others: Tensor, classes: int, row: Tensor) -> Tensor:
    """The probability of each class, (n, classes), of images mixed with `others`."""
    known = torch.arange(classes, device=labels.device)
    own, second = ((part[:, None] == known).float() for part in (labels, others))
    return row[5] * own + (1 - row[5]) * second
