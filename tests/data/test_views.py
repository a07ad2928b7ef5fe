"""Random-resized crops and colour jitter against torchvision's own, image by image."""

import itertools
import types

import numpy as np
import pytest
import torch
from torchvision.transforms import transforms
from torchvision.transforms.v2 import functional as F

from st.data import views as shown
from st.data.augment import ENDLESS, Augment, Jitter, ResizedCrop
from st.data.images import centred

USUAL = {"scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3]}
JITTER = {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.2}


def some_images(count: int, *shape: int) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return torch.from_numpy(values)


def some_views(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(ENDLESS, (count,), generator=torch.Generator().manual_seed(seed))


def test_numbers_are_splitmix64s():
    def split_mix(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    views = [0, 1, 2, 12345678901234567, ENDLESS - 1]
    found = shown.uniform(torch.tensor(views), 3, 4)
    for row, view in zip(found.tolist(), views, strict=True):
        for place, value in enumerate(row, start=4):
            state = (view + place * 0x9E3779B97F4A7C15) % 2**64
            assert value == (split_mix(state) >> 11) / 2**53
    # the generator's published sequence from state 0
    assert split_mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def test_numbers_are_uniform_and_unrelated():
    drawn = shown.uniform(torch.arange(20_000), 0, 6)  # neighbouring views
    assert drawn.min() >= 0 and drawn.max() < 1
    counts = torch.stack([torch.histc(column, 10, 0, 1) for column in drawn.T])
    assert counts.min() > 1800 and counts.max() < 2200
    related = np.corrcoef(drawn.T.numpy())
    assert np.abs(related - np.eye(6)).max() < 0.03
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03


def torchvisions_box(image, scale, ratio, drawn, monkeypatch) -> tuple[int, ...]:
    """RandomResizedCrop.get_params with the given numbers of [0, 1) in place of its own."""
    tries = shown.TRIES
    areas, aspects, places = drawn[:tries], drawn[tries : 2 * tries], drawn[2 * tries :]
    parameters = iter([n for pair in zip(areas, aspects, strict=True) for n in pair])
    places = iter(places)

    class Drawn:
        def uniform_(self, low, high):
            low, high = float(low), float(high)
            return torch.tensor(low + (high - low) * next(parameters), dtype=torch.float64)

    def randint(low, high, size):
        return torch.tensor(int(next(places) * high))

    fake = {"empty": lambda size: Drawn(), "randint": randint}
    fake |= {name: getattr(torch, name) for name in ("log", "tensor", "exp")}
    # its logarithms and exponentials are float32's; these are as exact as ours
    fake["tensor"] = lambda values: torch.tensor(values, dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(transforms, "torch", types.SimpleNamespace(**fake))
        return transforms.RandomResizedCrop.get_params(image, scale, ratio)


@pytest.mark.parametrize("scale", [[0.08, 1.0], [0.5, 0.5], [0.9, 1.0]])
@pytest.mark.parametrize("ratio", [[3 / 4, 4 / 3], [1.0, 1.0], [3.0, 4.0], [0.2, 0.3]])
@pytest.mark.parametrize("size", [(32, 32), (20, 33), (64, 9)])
def test_boxes_are_torchvisions(scale, ratio, size, monkeypatch):
    """Those that fit at once, later, and never."""
    views = some_views(40)
    found = torch.stack(shown.boxes(views, size, scale, ratio), 1).long().tolist()
    drawn = shown.uniform(views, 0, 2 * shown.TRIES + 2).tolist()
    image = torch.zeros(3, *size)
    for box, numbers in zip(found, drawn, strict=True):
        assert tuple(box) == torchvisions_box(image, scale, ratio, numbers, monkeypatch)


def test_boxes_are_torchvisions_in_distribution():
    """The same without touching torchvision's draws."""
    torch.manual_seed(0)
    image, size, count = torch.zeros(3, 40, 30), (40, 30), 4000
    theirs = np.array(
        [
            transforms.RandomResizedCrop.get_params(image, USUAL["scale"], USUAL["ratio"])
            for _ in range(count)
        ]
    )
    ours = torch.stack(shown.boxes(some_views(count), size, **USUAL), 1).numpy()
    for column in range(4):
        values = np.union1d(ours[:, column], theirs[:, column])
        below = [
            np.searchsorted(np.sort(one[:, column]), values, side="right") / count
            for one in (ours, theirs)
        ]
        assert np.abs(below[0] - below[1]).max() < 0.036  # Kolmogorov and Smirnov's, at 1 %


@pytest.mark.parametrize("stored", [(24, 24), (40, 24), (7, 50)])
@pytest.mark.parametrize("size", [(24, 24), (5, 13), (60, 60)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resized_crops_are_torchvisions(stored, size, channels):
    """Up and down, with its antialiasing."""
    augment = Augment(resized_crop=ResizedCrop(), flip=True)
    images, views = some_images(12, channels, *stored), some_views(12)
    seen = augment.apply(images, views, size)
    assert seen.shape == (12, channels, *size) and seen.dtype == torch.uint8
    wide = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment.apply(wide, views, size), seen)  # as decoders lay images out
    boxes = torch.stack(shown.boxes(views, stored, **USUAL), 1).long().tolist()
    flipped = 0
    for image, view, box, result in zip(images, views.tolist(), boxes, seen, strict=True):
        expected = F.resized_crop(image, *box, list(size), antialias=True)
        if view % 2:
            flipped += 1
            expected = F.horizontal_flip(expected)
        assert torch.equal(result, expected)
    assert 0 < flipped < 12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", [{"resized_crop": {}}, {"crop": 3}, {"crop": 3, "flip": True}])
def test_all_at_once_is_as_one_by_one(channels, augment, monkeypatch):
    """What GPUs compute, against what CPUs do."""
    augment = Augment(**augment)
    images = some_images(20, channels, 24, 30)
    views = torch.randint(augment.views, (20,), generator=torch.Generator().manual_seed(0))
    seen = augment.apply(images, views, (20, 24))
    monkeypatch.setattr(shown, "one_by_one", lambda images: False)
    again = augment.apply(images, views, (20, 24))
    assert again.shape == seen.shape and again.dtype == seen.dtype
    difference = (again.int() - seen.int()).abs().max()
    # twice rounded, in whole numbers, where a crop is scaled; else the same
    assert difference <= (1 if augment.resized_crop else 0)


def test_the_whole_image_at_its_own_size_is_the_image():
    augment = Augment(resized_crop=ResizedCrop(scale=[1, 1], ratio=[1, 1]))
    images = some_images(5, 3, 16, 16)
    assert torch.equal(augment.apply(images, some_views(5)), images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", [*itertools.combinations(JITTER, 2), tuple(JITTER), ("hue",)])
def test_jitter_is_torchvisions(channels, names):
    """Each image's own factors, in its own order."""
    if channels == 1:
        names = [name for name in names if name in ("brightness", "contrast")]
        if not names:
            return
    strengths = {name: JITTER[name] for name in names}
    images, views = some_images(30, channels, 6, 7), some_views(30)
    images[0] = 0  # black, gray and primary colours, where hue is not defined or on an edge
    images[1] = 128
    images[2] = torch.tensor([255, 0, 0, 0, 255, 0][:channels])[:, None, None]
    seen = Augment(jitter=Jitter(**strengths)).apply(images, views)
    count = len(names)
    drawn = shown.uniform(views, 2 * shown.TRIES + 2, 2 * count)
    orders = drawn[:, count:].argsort(1).tolist()
    change = {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
        "hue": F.adjust_hue,
    }
    for image, numbers, order, result in zip(images, drawn.tolist(), orders, seen, strict=True):
        expected = image / 255
        for turn in order:
            name = names[turn]
            low, high = (-JITTER[name], JITTER[name])
            if name != "hue":
                low, high = 1 + low, 1 + high
            expected = change[name](expected, low + (high - low) * numbers[turn])
        torch.testing.assert_close(result / 255, expected, rtol=0, atol=2e-5)
    assert count == 1 or len({tuple(order) for order in orders}) > 1
    assert not torch.equal(seen, images.float())


def test_strong_factors_begin_at_0_as_torchvisions():
    """torchvision: from max(0, 1 - strength)."""
    images, views = some_images(200, 1, 2, 2).clamp_max(60), some_views(200)
    seen = Augment(jitter=Jitter(brightness=3)).apply(images, views)
    factors = seen.amax((1, 2, 3)) / images.amax((1, 2, 3))
    assert 0 <= factors.min() < 0.1 and 3.8 < factors.max() <= 4


@pytest.mark.parametrize("stored", [(12, 12), (13, 11), (10, 9)])
@pytest.mark.parametrize("crop", [0, 1, 4])
def test_crops_reach_into_what_is_stored_around_the_centre(stored, crop):
    size = (8, 8)
    augment, images = Augment(crop=crop), some_images(1, 3, *stored)
    views = torch.arange(augment.views)
    seen = augment.apply(images.expand(len(views), -1, -1, -1), views, size)
    whole = torch.nn.functional.pad(images, (20, 20, 20, 20))[0]
    top, left = (20 + round((side - 8) / 2) - crop for side in stored)
    for view, result in zip(views.tolist(), seen, strict=True):
        down, right = divmod(view, 2 * crop + 1)
        down, right = down + top, right + left
        assert torch.equal(result, whole[:, down : down + 8, right : right + 8])


@pytest.mark.parametrize("stored", [(5, 8), (8, 8), (9, 12), (31, 17)])
def test_centres_are_torchvisions(stored):
    images = some_images(2, 3, *stored)
    assert torch.equal(centred(images, (5, 8)), F.center_crop(images, [5, 8]))


FULL = Augment(crop=0, flip=True, resized_crop=ResizedCrop(), jitter=Jitter(**JITTER))


def test_a_view_is_a_function_of_its_number():
    """Alone or in a batch, among any others: so the teacher sees what the student sees."""
    images, views = some_images(6, 3, 20, 20), some_views(6)
    seen = FULL.apply(images, views, (16, 16))
    for n in range(6):
        alone = FULL.apply(images[n : n + 1], views[n : n + 1], (16, 16))[0]
        torch.testing.assert_close(alone, seen[n], rtol=0, atol=1e-3)
    order = torch.tensor([3, 0, 5])
    again = FULL.apply(images[order], views[order], (16, 16))
    torch.testing.assert_close(again, seen[order], rtol=0, atol=1e-3)


def test_endless_views_depend_on_seed_and_epoch_alone():
    assert FULL.views == Augment(jitter=Jitter(hue=0.1)).views == ENDLESS
    first = FULL.draw(500, 3, 7)
    assert torch.equal(first, FULL.draw(500, 3, 7)) and len(set(first.tolist())) == 500
    assert not torch.equal(first, FULL.draw(500, 3, 8))


def test_views_are_made_without_asking_for_a_value(monkeypatch):
    images, views = some_images(6, 3, 20, 20), some_views(6)

    monkeypatch.setattr(shown, "one_by_one", lambda images: False)  # as on a GPU

    def asked(*arguments):
        raise AssertionError("a view asks for a tensor's value")

    for name in ("item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    made = []
    # a tensor made of host values is copied to the device, which waits
    monkeypatch.setattr(torch, "tensor", lambda *values, **options: made.append(values))
    FULL.apply(images, views, (16, 16))
    assert not made
