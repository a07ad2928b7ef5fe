"""Images and labels of all kinds as the same data."""

import numpy as np
import pytest
import torch
from helpers.images import stripes, write_folder
from PIL import Image
from torch.utils.data import TensorDataset

import st
from st.core.registry import datasets
from st.data.dataset import save_data
from st.data.shards import Shards
from st.phases import prepare

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 5, 4)).astype(np.uint8)
LABELS = np.arange(6) % 3
PICTURES = [Image.fromarray(image.transpose(1, 2, 0)) for image in PIXELS]


class Samples(list):
    """A Dataset as torchvision's, which names its classes."""

    classes = ("a", "b", "c")


@pytest.mark.parametrize(
    "part",
    [
        (PIXELS, LABELS),
        (PIXELS.transpose(0, 2, 3, 1), list(LABELS)),
        (torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
        (PIXELS.astype(np.int64), LABELS.astype(np.uint8)),
        (PIXELS / 255, LABELS),
        ((PIXELS / 255).astype(np.float32).tolist(), LABELS.tolist()),
        ((torch.from_numpy(PIXELS) / 255).requires_grad_(), torch.from_numpy(LABELS)),
        TensorDataset(torch.from_numpy(PIXELS) / 255, torch.from_numpy(LABELS)),
        [(picture, int(n)) for picture, n in zip(PICTURES, LABELS, strict=True)],
        [(image, n) for image, n in zip(PIXELS, LABELS, strict=True)],
    ],
    ids=[
        "arrays",
        "channels last",
        "tensors",
        "integers",
        "float64",
        "lists",
        "floats",
        "dataset",
        "pictures",
        "samples",
    ],
)
def test_the_same_of_all_kinds(part):
    data = st.dataset(part, part)
    for images, labels in data.parts():
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        np.testing.assert_array_equal(images, PIXELS)
        np.testing.assert_array_equal(labels, LABELS)
    assert data.classes == ["0", "1", "2"] and data.input_shape == (3, 5, 4)
    assert repr(data) == "Data(6 training and 6 test images, 3 x 5 x 4, 3 classes)"


def test_gray_images_have_one_channel():
    gray = PIXELS[:, 0]
    pictures = [(Image.fromarray(image), 0) for image in gray]
    for images in ((gray, LABELS), (torch.from_numpy(gray), LABELS), pictures):
        data = st.dataset(images, images, classes=3)
        np.testing.assert_array_equal(data.train_images, gray[:, None])


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0]])
def test_one_image_in_colour_makes_all_so(order):
    gray = Image.fromarray(PIXELS[0, 0])
    pictures = [gray, gray, PICTURES[1]]
    part = [(pictures[n], n) for n in order]
    data = st.dataset(part, part, classes=3)
    assert data.input_shape == (3, 5, 4)
    for n, image in zip(order, data.train_images, strict=True):
        same = PIXELS[1] if n == 2 else np.repeat(PIXELS[0, :1], 3, axis=0)
        np.testing.assert_array_equal(image, same)


def test_names_of_classes():
    part = Samples([(image, n) for image, n in zip(PIXELS, LABELS, strict=True)])
    assert st.dataset(part, part).classes == ["a", "b", "c"]
    assert st.dataset(part, part, classes=4).classes == list("0123")
    assert st.dataset(part, part, classes=list("xyz")).classes == list("xyz")


def test_a_part_is_held_out_as_the_workflow_does():
    found = stripes()
    train, test = found.parts()
    wanted, expected = st.dataset(train, holdout=0.25), found.holdout(0.25)
    both = st.dataset(train, test, holdout=0.25)
    for data in (wanted, both):
        for ours, theirs in zip(data.parts(), expected.parts(), strict=True):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])


def test_images_that_stay_compressed(tmp_path):
    """In a file that was prepared of a folder: searched, trained on and evaluated as others."""
    root = write_folder(tmp_path / "images", stripes(side=16), "jpg")
    job = {"source": "imagefolder", "holdout": 0.0}
    job["options"] = datasets.check("imagefolder", {"root": str(root), "size": 16, "store": "jpeg"})
    prepare.run(job, tmp_path / "data.safetensors", threads=1)
    data = st.dataset(tmp_path / "data.safetensors")
    assert isinstance(data.train_images, Shards) and data.input_shape == (3, 16, 16)
    options = {"layers": [4, "M", 4]}
    network = st.supernet("vgg", data.input_shape, data.classes, options=options)
    network = st.train(network, data, epochs=1, batch_size=8, device="cpu", threads=1)
    found = st.search(network, {"macs": 0.6}, "taylor", data=data, device="cpu")
    assert found.cost()[1] <= 0.6 * network.structure.cost()[1]
    accuracy = st.evaluate(network, data, device="cpu")["accuracy"]
    assert accuracy == network.history[-1]["test_accuracy"]


def test_sources_and_files_by_name(tmp_path):
    save_data(tmp_path / "data.safetensors", datasets.get("digits")(), {})
    for data in (st.dataset("digits"), st.dataset(tmp_path / "data.safetensors")):
        assert data.input_shape == (1, 8, 8) and len(data.train_labels) == 897
        assert len(data.classes) == 10
    rule = {"mean": [0.1], "std": [0.2]}
    told = st.dataset("digits", normalisation=rule).told()
    assert {name: np.round(values, 12).tolist() for name, values in told.items()} == rule
