"""Images that stay compressed: what is kept, how it is made, resumed and refused."""

import io
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers.images import stripes, write_folder
from helpers.project import wait_until
from PIL import Image

from st.core.errors import StError
from st.core.process import in_order
from st.core.registry import datasets
from st.core.tensors import read_tensors, write_tensors
from st.data import shards
from st.data.dataset import FORMAT, load_data, save_data
from st.data.datasets import imagefolder as source
from st.data.decode import decode, make
from st.data.shards import Shards, Writer
from st.phases import prepare

NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def folder_of(tmp_path, images=40, side=16, **options):
    return write_folder(tmp_path / "images", stripes(images, side=side), **options)


def prepared(root, path, store, holdout=None, **options):
    """A folder, prepared by this process alone."""
    options = datasets.check("imagefolder", {"root": str(root), "store": store, **options})
    prepare.run({"source": "imagefolder", "options": options, "holdout": holdout}, path, 1)
    return load_data(path)[0]


def same(one, other) -> None:
    """Labels, pixels, classes and normalisation, to the bit."""
    assert one.classes == other.classes and one.normalisation == other.normalisation
    for part in ("train", "test"):
        for kind in ("labels", "images"):
            values = [getattr(data, f"{part}_{kind}")[:] for data in (one, other)]
            np.testing.assert_array_equal(*values)


def stored(tmp_path, monkeypatch, image, name="x.jpg", size=None, gray=False, resize=None, **save):
    """What is kept of an image file, its pixels from there, and the file."""
    file = tmp_path / name
    image.save(file, **save)
    maker = partial(
        make, size=size, grayscale=gray, resize=resize, compressed=True, by_contents=False
    )
    with Writer(tmp_path / "shards", name) as writer:
        (made,) = writer.made([str(file)], maker)
        assert not made.error
        images = writer.part(made.shape)
    return images.payload(0), images[0], file


@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True},
     {"quality": 30}, {"restart_marker_rows": 1}, {"keep_rgb": True}],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_jpeg_files_are_kept_as_they_are(tmp_path, monkeypatch, mode, options):
    image = Image.fromarray(NOISE).convert(mode)
    payload, pixels, file = stored(tmp_path, monkeypatch, image, gray=mode == "L", **options)
    assert payload == file.read_bytes()
    np.testing.assert_array_equal(pixels, decode(file, None, mode == "L")[0])


def test_what_the_library_forgives_at_first_it_forgives_later(tmp_path, monkeypatch):
    """A file without its end marker: what prepared it must not fail in training."""
    Image.fromarray(NOISE).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    assert whole.endswith(b"\xff\xd9")
    (tmp_path / "x.jpg").write_bytes(whole[:-2])
    maker = partial(
        make, size=None, grayscale=False, resize=None, compressed=True, by_contents=False
    )
    with Writer(tmp_path / "shards", "key") as writer:
        (made,) = writer.made([str(tmp_path / "x.jpg")], maker)
        if not made.error:  # else it is refused as damaged at once
            np.testing.assert_array_equal(
                writer.part(made.shape)[0], decode(tmp_path / "x.jpg", None, False)[0]
            )


@pytest.mark.parametrize("resize", [None, 12])
@pytest.mark.parametrize("kind", ["turned", "CMYK", "scaled", "gray wanted", "gray file"])
def test_other_jpeg_files_are_made_anew(tmp_path, monkeypatch, kind, resize):
    smooth = Image.fromarray(NOISE[:6, :6]).resize((24, 24), Image.Resampling.BICUBIC)
    save, gray, size = {}, False, None if resize is None else 10
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        save = {"exif": exif}
    elif kind == "CMYK":
        smooth = smooth.convert("CMYK")
    elif kind == "scaled":
        size = size or 14
    elif kind == "gray wanted":
        gray = True
    else:
        smooth = smooth.convert("L")
    payload, pixels, file = stored(
        tmp_path, monkeypatch, smooth, size=size, gray=gray, resize=resize, quality=98, **save
    )
    expected, _ = decode(file, size, gray, resize)
    assert payload.startswith(b"\xff\xd8") and payload != file.read_bytes()
    assert Image.open(io.BytesIO(payload)).getexif() == {}
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 3


@pytest.mark.parametrize("size", [None, 9])
@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(
    "mode, name",
    [("RGB", "x.png"), ("L", "x.png"), ("P", "x.gif"), ("1", "x.bmp"), ("RGBA", "x.png"),
     ("LA", "x.png"), ("CMYK", "x.tif"), ("RGB", "x.webp"), ("YCbCr", "x.tif")],
)  # fmt: skip
def test_all_else_is_kept_without_loss(tmp_path, monkeypatch, mode, name, gray, size):
    image = Image.fromarray(NOISE)
    image.putalpha(100)
    image = image.convert(mode)
    payload, pixels, file = stored(tmp_path, monkeypatch, image, name, size=size, gray=gray)
    assert payload.startswith(b"\x89PNG")
    np.testing.assert_array_equal(pixels, decode(file, size, gray)[0])


VARIANTS = [
    {},
    {"size": 16},
    {"size": 12, "train_size": 14, "test_resize": 13},
    {"size": 12, "train_size": 14, "holdout": 0.25},
    {"size": 12, "holdout": 0.25, "grayscale": True},
    {"size": 12, "per_class": 5},
    {"size": 12, "test_resize": 15, "skip_damaged": True, "per_class": 5},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_both_stores_have_the_same_images(tmp_path, options, monkeypatch):
    monkeypatch.setattr(shards, "IMAGES", 7)
    root = folder_of(tmp_path)
    if "skip_damaged" in options:
        (root / "train/class0/0003.png").write_bytes(b"x")
        (root / "test/class1/0001.png").write_bytes(b"x")
    kept = prepared(root, tmp_path / "kept" / "data", "jpeg", **options)
    assert isinstance(kept.train_images, Shards) and isinstance(kept.test_images, Shards)
    same(prepared(root, tmp_path / "plain", "pixels", **options), kept)
    made = [f for f in (tmp_path / "kept").rglob("*") if f.is_file()]
    beside = {f.name for f in made if f.suffix != ".bin"}
    assert beside == {"data", "source.json"} and len(made) > 6


@pytest.mark.parametrize("options", [{}, {"size": 12, "train_size": 14}])
def test_split_and_images_on_both_sides(tmp_path, options, caplog):
    """What is told of them is the same."""
    caplog.set_level("INFO", logger="st")
    root = folder_of(tmp_path) / "train"
    first = root / "class0" / "0000.png"
    for number in range(6):
        (root / "class1" / f"9{number}.png").write_bytes(first.read_bytes())
    told = []
    for store in ("pixels", "jpeg"):
        caplog.clear()
        data = prepared(root, tmp_path / store, store, test_fraction=0.5, **options)
        told.append([m for m in caplog.messages if " is " in m and "class" in m])
    assert told[0] == told[1] and told[0]
    same(data, prepared(root, tmp_path / "pixels", "pixels", test_fraction=0.5, **options))


def test_an_index_is_an_arrays(tmp_path):
    data = prepared(folder_of(tmp_path), tmp_path / "data", "jpeg", grayscale=True)
    images, whole = data.train_images, data.train_images[:]
    assert images.shape == whole.shape == (40, 1, 16, 16)
    assert images.size == whole.size and images.dtype == whole.dtype and images.ndim == 4
    mask = np.arange(40) % 3 == 0
    for index in (slice(3, 30, 2), mask, np.array([5, 0, 5]), np.array([], dtype=int)):
        np.testing.assert_array_equal(images[index], whole[index])
        np.testing.assert_array_equal(images.chosen(index)[:], whole[index])
    np.testing.assert_array_equal(images[-1], whole[-1])
    assert images.nbytes == sum(len(images.payload(n)) for n in range(40))


def test_the_store_follows_from_the_memory(tmp_path, monkeypatch):
    root, whole = folder_of(tmp_path), 2 * 40 * 3 * 16 * 16
    for options in ({}, {"size": 16}):
        for memory, kind in ((2 * whole, np.ndarray), (2 * whole - 1, Shards)):
            monkeypatch.setattr(source, "memory", lambda memory=memory: memory)
            data = prepared(root, tmp_path / "data", "auto", **options)
            assert isinstance(data.train_images, kind)
            forced = prepared(root, tmp_path / "data", "pixels", **options)
            assert isinstance(forced.train_images, np.ndarray)
            assert not (tmp_path / "data.shards").exists()


def test_memory_is_what_may_be_used():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**26 < shards.memory() <= total


def files_in(folder):
    return {f.name: f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_a_killed_preparation_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "IMAGES", 8)
    root, calls = folder_of(tmp_path, kind="jpg"), []
    options = {"size": 12, "train_size": 14, "test_resize": 13, "holdout": 0.25}
    # in a folder of the same name, because the header says it
    prepared(root, tmp_path / "a" / "data", "jpeg", **options)
    killed = multiprocessing.get_context("fork").Process(
        target=_killed_at, args=(29, prepared, root, tmp_path / "b" / "data", "jpeg", options)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert [f.name for f in (tmp_path / "b").iterdir()] == ["data.shards"]
    left = {n for n in files_in(tmp_path / "b") if n.endswith(".bin")}
    assert len(left) == 3  # of 29 images the last 5 are lost

    def counted(file, **options):
        calls.append(file)
        return make(file, **options)

    monkeypatch.setattr(source, "make", counted)
    prepared(root, tmp_path / "b" / "data", "jpeg", **options)
    assert (
        len(calls) == 40 - 24 + 40 + 4 + 3 + 3
    )  # all training and test images, then those held out
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def _killed_at(count, function, root, path, store, options):
    calls = []

    def counted(file, **others):
        calls.append(file)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(file, **others)

    source.make = counted
    function(root, path, store, **options)


def test_what_was_left_by_another_preparation_is_not_used(tmp_path, monkeypatch):
    """Of other images, options or code; and it stays whole until the new one is."""
    monkeypatch.setattr(shards, "IMAGES", 8)
    root, path = folder_of(tmp_path), tmp_path / "data"
    first = prepared(root, path, "jpeg", size=12)
    (old,) = (tmp_path / "data.shards").iterdir()
    (root / "train/class0/0000.png").write_bytes((root / "train/class1/0001.png").read_bytes())
    with pytest.raises(StError), monkeypatch.context() as patch:
        patch.setattr(source, "make", lambda file, **options: 1 / 0 if "test" in file else
                      make(file, **options))  # fmt: skip
        try:
            prepared(root, path, "jpeg", size=12)
        except ZeroDivisionError:
            same(load_data(path)[0], first)
            raise StError("stopped") from None
    assert len(list((tmp_path / "data.shards").iterdir())) == 2
    second = prepared(root, path, "jpeg", size=12)
    assert not old.exists()
    assert len(list((tmp_path / "data.shards").iterdir())) == 1
    assert (second.train_images[0] != first.train_images[0]).any()
    same(second, prepared(root, tmp_path / "plain", "pixels", size=12))


def test_two_at_once_are_refused(tmp_path):
    words = "another process is preparing images here"
    with Writer(tmp_path / "x.shards", "key"), pytest.raises(StError, match=words):
        Writer(tmp_path / "x.shards", "key").__enter__()


def test_damaged_shards_are_named(tmp_path):
    data = prepared(folder_of(tmp_path), tmp_path / "data", "jpeg")
    (shard,) = {data.train_images.folder / data.train_images.files[0]}
    content = bytearray(shard.read_bytes())
    content[data.train_images.places[3, 1] + 60] ^= 1
    shard.write_bytes(content)
    data, _ = load_data(tmp_path / "data")
    data.train_images[:3]
    with pytest.raises(StError, match=rf"{shard}: .*image 3 is not what .*build it again"):
        data.train_images[2:5]
    shard.write_bytes(content[:-1])
    with pytest.raises(StError, match=rf"{shard}: .* bytes instead of"):
        load_data(tmp_path / "data")
    shard.unlink()
    with pytest.raises(StError, match=rf"{shard}: .*No such file"):
        load_data(tmp_path / "data")


@pytest.mark.parametrize(
    "change",
    [
        lambda places: places[:, :3], lambda places: places - 10, lambda places: places[1:],
        lambda places: places + np.array([2, 0, 0, 0]), lambda places: places.astype(np.int32),
    ],
)  # fmt: skip
def test_places_that_are_none(tmp_path, change):
    prepared(folder_of(tmp_path), tmp_path / "data", "jpeg")
    tensors, header = read_tensors(tmp_path / "data", FORMAT)
    tensors["train.places"] = np.ascontiguousarray(change(tensors["train.places"]))
    write_tensors(tmp_path / "data", tensors, header)
    with pytest.raises(StError, match="do not fit together"):
        load_data(tmp_path / "data")


def test_identity_is_of_the_images(tmp_path):
    """Whatever the shards they lie in; another image is another identity."""
    data = source.imagefolder(root=str(folder_of(tmp_path)), store="jpeg")
    save_data(tmp_path / "one", data, {})
    moved = data.test_images.chosen(np.arange(40))
    moved.places = moved.places + np.array([0, 1, 0, 0])
    save_data(tmp_path / "two", replace(data, test_images=moved), {})
    turned = data.test_images.chosen(np.arange(40)[::-1])
    save_data(tmp_path / "three", replace(data, test_images=turned), {})
    found = [read_tensors(tmp_path / name, FORMAT)[1]["sha256"] for name in ("one", "two", "three")]
    assert found[0] == found[1] != found[2]


def _late(number: int) -> int:
    time.sleep(0.002 * (number % 5))
    return 10 * number


def _deadly(number: int) -> int:
    if number == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _where(number: int) -> int:
    return os.getpid()


def test_processes_keep_the_order_and_few_items_ahead():
    taken = []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    found = in_order(_late, items(), 2)
    assert [next(found) for _ in range(20)] == [10 * n for n in range(20)]
    assert len(taken) < 250
    assert list(found) == [10 * n for n in range(20, 1000)]
    assert os.getpid() not in set(in_order(_where, range(40), 2))
    assert set(in_order(_where, range(40), 1)) == {os.getpid()}


def test_a_process_that_is_killed_is_an_error_of_one_line():
    with pytest.raises(StError, match=r"was ended by the system, .*; run it again"):
        list(in_order(_deadly, range(100), 2))


def test_processes_end_with_their_parent(tmp_path):
    def parent():
        for pid in in_order(_where, range(10**6), 2):
            (tmp_path / str(pid)).touch()

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    process.kill()
    process.join()
    pids = [int(f.name) for f in tmp_path.iterdir()]
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/fd/0") for pid in pids))


def test_the_header_is_json_of_the_usual_size(tmp_path):
    prepared(folder_of(tmp_path), tmp_path / "data", "jpeg")
    _, header = read_tensors(tmp_path / "data", FORMAT)
    assert header["shards"]["train"]["shape"] == [3, 16, 16]
    assert len(json.dumps(header)) < 4000
