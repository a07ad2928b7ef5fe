"""Data sets: what is read, how it is split, and what is said when it can't be."""

import gzip
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.images import stripes
from torch import nn

from st.core.device import Device
from st.core.errors import StError
from st.core.registry import datasets
from st.core.tensors import read_tensors, write_tensors
from st.data.dataset import FORMAT, Data, load_data, save_data
from st.data.images import Images, Resident
from st.phases import prepare
from st.training.accuracy import predictions


def test_digits():
    data = datasets.get("digits")()
    assert data.train_images.shape == (897, 1, 8, 8) and data.test_images.shape == (900, 1, 8, 8)
    assert data.train_images.dtype == data.test_images.dtype == np.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64
    assert (data.train_images.min(), data.train_images.max()) == (0, 255)
    assert data.classes == [str(n) for n in range(10)]
    train, test = np.bincount(data.train_labels), np.bincount(data.test_labels)
    assert len(train) == len(test) == 10 and abs(train - test).max() <= 2
    assert datasets.get("digits").shape() == ((1, 8, 8), 10)


def test_digits_are_split_once_and_for_all():
    one, two = datasets.get("digits")(), datasets.get("digits")()
    assert one.train_images.tobytes() == two.train_images.tobytes()
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.round(found.images * 255 / 16).astype(np.uint8)
    everything = sorted(zip((x.tobytes() for x in pixels), found.target.tolist(), strict=True))
    parts = [(one.train_images, one.train_labels), (one.test_images, one.test_labels)]
    split = [
        (image.tobytes(), label)
        for images, labels in parts
        for image, label in zip(images, labels.tolist(), strict=True)
    ]
    assert sorted(split) == everything
    assert len(set(one.train_labels[:30].tolist())) > 5  # not sorted by class


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpys(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50, channels, 6, 5), dtype=np.uint8)
    images[:, 0] //= 3
    labels = np.zeros(50, dtype=np.int64)
    mean, deviation = Data(images, labels, images[:1] + 9, labels[:1], ["a"]).statistics()
    np.testing.assert_allclose(mean, images.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(deviation, images.std(axis=(0, 2, 3)), rtol=1e-12)
    flat = np.full((3, 1, 2, 2), 7, dtype=np.uint8)
    assert Data(flat, labels[:3], flat, labels[:3], ["a"]).statistics()[1] > 0


def test_a_digest_knows_images_labels_and_normalisation():
    data = datasets.get("digits")()
    digests = [
        replace(data, **changes).digest()
        for changes in (
            {}, {"train_images": data.train_images[::-1]}, {"test_labels": data.test_labels[::-1]},
            {"normalisation": ((0.5,), (0.5,))}, {"normalisation": ((0.5,), (0.25,))},
        )
    ]  # fmt: skip
    assert len(set(digests)) == len(digests) and digests[0] == data.digest()


def test_holdout():
    data = datasets.get("digits")()
    part = data.holdout(0.2)
    assert len(part.test_labels) + len(part.train_labels) == 897
    held = {image.tobytes() for image in part.test_images}
    assert not held & {image.tobytes() for image in data.test_images}
    both = np.concatenate([part.train_images, part.test_images])
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in data.train_images)
    again = data.holdout(0.2)
    assert again.test_images.tobytes() == part.test_images.tobytes()
    assert len(set(part.test_labels.tolist())) == 10
    assert np.bincount(part.test_labels).tolist() == [
        round(0.2 * count) for count in np.bincount(data.train_labels)
    ]
    assert np.bincount(data.holdout(1e-9).test_labels).tolist() == [1] * 10
    with pytest.raises(StError, match=r"class '0': 'holdout' .* leaves none of its"):
        data.holdout(0.99999)


def test_prepare_writes_what_was_read(tmp_path):
    job = {"source": "digits", "options": {}, "holdout": 0.0}
    prepare.run(job, tmp_path / "data")
    prepare.run(job, tmp_path / "again")
    data, digest = load_data(tmp_path / "data")
    read = datasets.get("digits")()
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(data, name), getattr(read, name))
    assert data.classes == read.classes and data.input_shape == (1, 8, 8)
    assert load_data(tmp_path / "again")[1] == digest
    prepare.run({**job, "holdout": 0.1}, tmp_path / "held")
    held, other = load_data(tmp_path / "held")
    assert len(held.test_labels) == 90 and other != digest


def test_data_files_that_are_something_else(tmp_path):
    path = tmp_path / "data"
    for content, words in [(None, "is missing"), (b"x", "damaged")]:
        if content:
            path.write_bytes(content)
        with pytest.raises(StError, match=words) as caught:
            load_data(path)
        assert str(caught.value).startswith(str(path))
    from st.core.tensors import VERSION, write_tensors

    header = {"format": "search-and-train data", "version": VERSION, "classes": [], "sha256": ""}
    write_tensors(path, {"train.images": np.zeros(1)}, header)
    with pytest.raises(StError, match=r"lacks 'train.labels'"):
        load_data(path)
    save_data(path, stripes(), {})
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(StError, match="damaged"):
        load_data(path)


def fake_torchvision(monkeypatch, kind: str) -> None:
    """Let torchvision take files that are not the published ones."""
    from torchvision import datasets as published

    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *arguments: True)
    if "MNIST" in kind:
        monkeypatch.setattr(getattr(published, kind), "_check_exists", lambda self: True)


def test_cifar10_is_read_as_it_is_stored(tmp_path, monkeypatch):
    rng, batches = np.random.default_rng(0), {}
    fake_torchvision(monkeypatch, "CIFAR10")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        pixels = rng.integers(0, 256, (4, 3072), dtype=np.uint8)
        labels = rng.integers(0, 10, 4).tolist()
        batches[name] = pixels, labels
        with open(folder / name, "wb") as file:
            pickle.dump({"data": pixels, "labels": labels}, file)
    names = {"label_names": [f"name{n}" for n in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    data = datasets.get("cifar10")(root=str(tmp_path))
    train = np.concatenate([batches[f"data_batch_{n}"][0] for n in range(1, 6)])
    np.testing.assert_array_equal(data.train_images, train.reshape(-1, 3, 32, 32))
    test_pixels, test_labels = batches["test_batch"]
    np.testing.assert_array_equal(data.test_images, test_pixels.reshape(-1, 3, 32, 32))
    assert data.test_labels.tolist() == test_labels and data.test_labels.dtype == np.int64
    assert data.classes == names["label_names"]
    assert (data.input_shape, 10) == datasets.get("cifar10").shape(root="", download=False)


@pytest.mark.parametrize("kind, published", [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_is_read_as_it_is_stored(tmp_path, monkeypatch, kind, published):
    rng, stored = np.random.default_rng(0), {}
    fake_torchvision(monkeypatch, published)
    raw = tmp_path / published / "raw"
    raw.mkdir(parents=True)
    for part, amount in (("train", 5), ("t10k", 3)):
        pixels = rng.integers(0, 256, (amount, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, amount, dtype=np.uint8)
        stored[part] = pixels, labels
        for name, values, magic in [("images-idx3", pixels, 2051), ("labels-idx1", labels, 2049)]:
            head = b"".join(n.to_bytes(4, "big") for n in (magic, *values.shape))
            (raw / f"{part}-{name}-ubyte").write_bytes(head + values.tobytes())
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + values.tobytes()))
    data = datasets.get(kind)(root=str(tmp_path))
    for (pixels, labels), found, numbers in [
        (stored["train"], data.train_images, data.train_labels),
        (stored["t10k"], data.test_images, data.test_labels),
    ]:
        np.testing.assert_array_equal(found, pixels[:, None])
        assert numbers.tolist() == labels.tolist() and numbers.dtype == np.int64
    assert len(data.classes) == 10
    assert (data.input_shape, 10) == datasets.get(kind).shape(root="", download=False)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_files_that_are_not_there(tmp_path, monkeypatch, kind):
    with pytest.raises(StError) as caught:
        datasets.get(kind)(root=str(tmp_path))
    message = str(caught.value)
    assert str(tmp_path) in message and "download: true" in message and "\n" not in message
    assert not list(tmp_path.iterdir())
    import torchvision.datasets.utils as utils

    def offline(*arguments, **options):
        raise OSError("no\nnetwork")

    for module in ("cifar", "mnist", "utils"):
        for name in ("download_and_extract_archive", "download_url"):
            monkeypatch.setattr(f"torchvision.datasets.{module}.{name}", offline, raising=False)
    assert utils.download_url is offline
    with pytest.raises(StError) as caught:
        datasets.get(kind)(root=str(tmp_path), download=True)
    assert "cannot be downloaded" in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_download(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"x")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz"):
        pass
    with pytest.raises(StError, match="CIFAR10: is not in"):
        datasets.get("cifar10")(root=str(tmp_path))


@pytest.mark.parametrize("name", datasets.names())
def test_every_data_set_tells_its_shape(name):
    assert callable(datasets.get(name).shape)


def test_prepared_images_are_mapped(tmp_path):
    """The arrays are the file's pages, which processes share; what one writes stays with it."""
    data = datasets.get("digits")()
    save_data(tmp_path / "data", data, {})
    content = (tmp_path / "data").read_bytes()
    found, digest = load_data(tmp_path / "data")
    base = found.train_images
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(data, name))
    np.testing.assert_array_equal(found.statistics(), data.statistics())
    found.train_images[:] = 0
    found.test_labels[:] = 0
    assert (tmp_path / "data").read_bytes() == content
    assert load_data(tmp_path / "data")[1] == digest


@pytest.mark.parametrize(
    "normalisation",
    [None, "x", [], [[1.0]], [[1.0], [0.0]], [[1.0], ["x"]], [[1.0] * 3, [1.0] * 3]],
)
def test_a_normalisation_that_fits_nothing_is_refused(tmp_path, normalisation):
    path = tmp_path / "data"
    save_data(path, stripes(), {})
    tensors, header = read_tensors(path, FORMAT)
    write_tensors(path, tensors, {**header, "normalisation": normalisation})
    with pytest.raises(StError, match="do not fit together"):
        load_data(path)


def test_large_images_are_evaluated_in_small_batches():
    taken = []

    class Net(nn.Module):
        def forward(self, batch):
            taken.append(len(batch))
            return torch.zeros(len(batch), 2)

    for side, size in ((8, 512), (32, 512), (64, 128), (224, 10), (1024, 1)):
        images = np.zeros((2, 1, side, side), dtype=np.uint8)
        labels = np.zeros(2, dtype=np.int64)
        held = Images(Data(images, labels, images, labels, ["a", "b"]), Device("cpu"))
        held.test_images = Resident(held.test_images[:1].expand(513, -1, -1, -1))
        taken.clear()
        if side == 1024:
            held.test_images = Resident(held.test_images[:3])
        predictions(Net(), held, Device("cpu"))
        assert taken[0] == size and sum(taken) == len(held.test_images)
