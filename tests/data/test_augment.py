"""Views: each is one crop and mirroring of an image, and all of them are drawn."""

import numpy as np
import pytest
import torch

from st.core.seeds import derive, stream
from st.data.augment import Augment


def all_views(image: np.ndarray, crop: int, flip: bool) -> list[np.ndarray]:
    """Every crop of the padded image, as it is and mirrored, in the order of view numbers."""
    _, height, width = image.shape
    found = []
    for down in range(2 * crop + 1):
        for right in range(2 * crop + 1):
            for mirrored in (image, image[:, :, ::-1]) if flip else (image,):
                padded = np.pad(mirrored, ((0, 0), (crop, crop), (crop, crop)))
                found.append(padded[:, down : down + height, right : right + width])
    return found


@pytest.mark.parametrize("crop", [0, 1, 2, 5])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7)])
def test_views_are_all_crops_and_flips(crop, flip, shape):
    augment = Augment(crop=crop, flip=flip)
    image = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    expected = all_views(image, crop, flip)
    assert augment.views == len(expected)
    batch = torch.from_numpy(image).expand(len(expected), *shape)
    seen = augment.apply(batch, torch.arange(augment.views))
    assert seen.dtype == torch.uint8
    np.testing.assert_array_equal(seen.numpy(), np.stack(expected))
    if crop < min(shape[1:]):
        assert len({view.tobytes() for view in expected}) == len(expected)


def test_each_image_has_its_own_view():
    augment = Augment(crop=1, flip=True)
    images = torch.from_numpy(np.random.default_rng(1).integers(1, 256, (6, 3, 5, 4)))
    views = torch.tensor([0, 17, 4, 9, 8, 17])
    seen = augment.apply(images, views)
    for image, view, result in zip(images.numpy(), views.tolist(), seen.numpy(), strict=True):
        np.testing.assert_array_equal(result, all_views(image, 1, True)[view])


def test_nothing_asked_nothing_done():
    images = torch.arange(24).reshape(2, 1, 3, 4)
    assert Augment().views == 1
    assert torch.equal(Augment().apply(images, Augment().draw(2, 0, 0)), images)
    # the middle crop that is not mirrored is the image itself
    assert torch.equal(Augment(crop=1, flip=True).apply(images, torch.tensor([8, 8])), images)


def test_draws_depend_on_seed_and_epoch_alone():
    augment = Augment(crop=1, flip=True)
    first = augment.draw(500, 3, 7)
    torch.manual_seed(99)
    torch.rand(5)
    assert torch.equal(first, augment.draw(500, 3, 7))
    assert not torch.equal(first, augment.draw(500, 3, 8))
    assert not torch.equal(first, augment.draw(500, 4, 7))
    assert first.shape == (500,)
    assert set(first.tolist()) == set(range(18))
    counts = torch.bincount(augment.draw(18_000, 0, 0), minlength=18)
    assert counts.min() > 800 and counts.max() < 1200


@pytest.mark.parametrize("augment", [Augment(), Augment(crop=1), Augment(crop=4, flip=True)])
def test_countable_views_are_drawn_as_ever(augment):
    """Results of earlier versions stay: their draws, written down."""
    generator = torch.Generator().manual_seed(derive(5, "augment", 2))
    drawn = torch.randint(augment.views, (50,), generator=generator)
    assert torch.equal(augment.draw(50, 5, 2), drawn)
    assert augment.views == (2 * augment.crop + 1) ** 2 * (1 + augment.flip)


def test_streams_have_names():
    drawn = {
        labels: stream(*labels).integers(2**62)
        for labels in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a", "b")]
    }
    assert len(set(drawn.values())) == len(drawn)
    assert all(stream(*labels).integers(2**62) == value for labels, value in drawn.items())
    assert 0 <= derive(0, "a") < 2**63 and derive(0, "a") != derive(0, "b")
