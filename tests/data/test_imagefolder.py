"""Folders of images: every form that is read, and what is said about every other."""

from pathlib import Path

import numpy as np
import pytest
from helpers.images import stripes
from helpers.training import RECIPE, run
from PIL import Image
from torchvision.transforms.v2 import functional as F

from st.core.errors import StError
from st.core.registry import datasets
from st.data.dataset import save_data
from st.data.decode import decode
from st.phases import prepare, train
from st.report.show import describe


def picture(path, width=10, height=8, value=None, mode="RGB") -> np.ndarray:
    """Write a picture and return its pixels, (height, width[, channels])."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, 3)
    rng = np.random.default_rng(sum(path.name.encode()))
    pixels = rng.integers(0, 256, shape) if value is None else np.full(shape, value)
    pixels = pixels.astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def split(tmp_path):
    """train/ and test/ with the classes cat and dog: 4 and 2 images of each."""
    for part, amount in (("train", 4), ("test", 2)):
        for name in ("dog", "cat"):
            for number in range(amount):
                picture(tmp_path / part / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def flat(tmp_path):
    """Three class folders, of 10, 5 and 2 images."""
    for name, amount in (("a", 10), ("b", 5), ("c", 2)):
        for number in range(amount):
            picture(tmp_path / name / f"{number}.png")
    return tmp_path


def read(root, **options):
    options = datasets.check("imagefolder", {"root": str(root), **options})
    data, shape = datasets.get("imagefolder")(**options), datasets.get("imagefolder").shape
    assert data.train_images.dtype == np.uint8 and data.train_labels.dtype == np.int64
    assert shape(**options) in (None, (data.input_shape, len(data.classes)))
    assert (shape(**options) is None) == (options["size"] is None)
    return data


def refused(root, *words, **options):
    with pytest.raises(StError) as caught:
        read(root, **options)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_train_and_test_folders(split):
    pixels = picture(split / "train" / "cat" / "0.png")
    data = read(split)
    assert data.classes == ["cat", "dog"]
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4
    assert data.test_labels.tolist() == [0] * 2 + [1] * 2
    assert data.input_shape == (3, 8, 10)
    np.testing.assert_array_equal(data.train_images[0], pixels.transpose(2, 0, 1))


def test_images_of_other_modes_and_in_deeper_folders(split):
    gray = picture(split / "train" / "cat" / "deep" / "er" / "x.PNG", mode="L")
    Image.new("RGBA", (10, 8), (10, 20, 30, 128)).save(split / "train" / "dog" / "y.png")
    Image.new("P", (10, 8)).save(split / "train" / "dog" / "z.gif")
    (split / "train" / "dog" / "notes.txt").write_text("no image")
    data = read(split)
    assert np.bincount(data.train_labels).tolist() == [5, 6]
    np.testing.assert_array_equal(data.train_images[4], np.stack([gray] * 3))
    y = data.train_images[data.train_labels == 1][4]
    # half transparent, on white
    assert [int(channel.max()) for channel in y] == [132, 137, 142]


def test_grayscale(split):
    pixels = picture(split / "train" / "cat" / "0.png", mode="L")
    data = read(split, grayscale=True)
    assert data.input_shape == (1, 8, 10)
    np.testing.assert_array_equal(data.train_images[0, 0], pixels)


def test_size_fits_the_shorter_side_and_crops_the_centre(split):
    # black, white, black: the white square in the middle is all that remains
    wide = np.zeros((16, 48, 3), dtype=np.uint8)
    wide[:, 16:32] = 255
    Image.fromarray(wide).save(split / "train" / "cat" / "0.png")
    tall = split / "train" / "cat" / "1.png"
    Image.fromarray(wide.transpose(1, 0, 2)).save(tall)
    data = read(split, size=8)
    assert data.input_shape == (3, 8, 8)
    for image in data.train_images[:2]:
        assert image[:, 1:-1, 1:-1].min() == 255 and image.mean() > 230
    exact = picture(split / "test" / "cat" / "0.png", 8, 8)
    np.testing.assert_array_equal(read(split, size=8).test_images[0], exact.transpose(2, 0, 1))


def smooth(path, width, height) -> Image.Image:
    """Write a picture without fine detail, and return it."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    waves = [np.sin(x / 5 + y / 9), np.cos(x / 7), np.sin(y / 6 - x / 11)]
    picture = Image.fromarray((127 + 120 * np.stack(waves, 2)).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return picture


@pytest.mark.parametrize("shape", [(96, 64), (64, 128), (64, 64), (32, 40), (33, 47)])
def test_test_images_are_torchvisions_resize_and_centre_crop(split, shape):
    picture = smooth(split / "test" / "cat" / "0.png", *shape)
    data = read(split, size=24, test_resize=32, train_size=40)
    assert data.train_images.shape == (8, 3, 40, 40) and data.input_shape == (3, 24, 24)
    resized = F.resize(picture, 32, F.InterpolationMode.BILINEAR)
    expected = np.asarray(F.center_crop(resized, 24)).transpose(2, 0, 1).astype(int)
    # torchvision rounds the longer side and where the crop begins to whole pixels
    exact = shape[0] % 32 == shape[1] % 32 == 0
    assert np.abs(expected - data.test_images[0]).max() <= (1 if exact else 20)


def test_training_images_are_stored_larger(split):
    picture = smooth(split / "train" / "cat" / "0.png", 120, 60)
    data = read(split, size=8, train_size=30)
    expected = np.asarray(picture.resize((60, 30), Image.BILINEAR))[:, 15:45]
    assert np.abs(expected.transpose(2, 0, 1).astype(int) - data.train_images[0]).max() <= 1
    # test images as without the option
    np.testing.assert_array_equal(data.test_images, read(split, size=8).test_images)


@pytest.mark.parametrize(
    "options", [{"train_size": 12}, {"test_resize": 10}, {"test_resize": 8, "train_size": 9}]
)
def test_held_out_images_are_made_as_test_images_are(flat, options):
    """Of the files, not of the training images that are stored."""
    for number in range(2, 6):
        picture(flat / "c" / f"{number}.png")
    whole = read(flat, test_fraction=0.4, size=8, **options)
    for data in (whole, whole.holdout(0.34)):
        assert data.test_images.shape[1:] == (3, 8, 8)
        assert data.train_images.shape[2] == options.get("train_size", 8)
        for name, image in zip(data.files[1], data.test_images, strict=True):
            made, _ = decode(Path(name), 8, False, options.get("test_resize"))
            np.testing.assert_array_equal(image, made)
        for name, image in zip(data.files[0], data.train_images, strict=True):
            made, _ = decode(Path(name), options.get("train_size", 8), False)
            np.testing.assert_array_equal(image, made)
        assert not set(data.files[0]) & set(data.files[1])
    same = read(flat, test_fraction=0.4, size=8)
    assert same.files == whole.files and same.holdout(0.34).files == data.files


def test_images_on_both_sides_are_named_where_they_are_made_differently(split):
    for value, path in enumerate(sorted(split.glob("*/*/*.png"))):
        picture(path, value=value)
    same = split / "test" / "dog" / "same.png"
    same.write_bytes((split / "train" / "cat" / "3.png").read_bytes())
    line = f"{same} is {split}/train/cat/3.png, of another class (cat)"
    for options in ({"train_size": 12}, {"test_resize": 12}, {}):
        assert line in read(split, size=8, **options).repeated()


def test_mixed_sizes_need_the_option_size(split):
    picture(split / "test" / "dog" / "1.png", width=11)
    picture(split / "train" / "dog" / "9.png", width=12, height=20)
    refused(split, "9.png", "12x20", "10x8", "'size'")
    assert read(split, size=16).input_shape == (3, 16, 16)


def test_train_and_test_of_different_sizes(split):
    for path in split.glob("test/*/*.png"):
        picture(path, width=11)
    refused(split, "11x8", "10x8", "'size'")


def test_test_fraction(flat):
    data = read(flat, test_fraction=0.4)
    assert data.classes == ["a", "b", "c"]
    assert np.bincount(data.test_labels).tolist() == [4, 2, 1]
    assert np.bincount(data.train_labels).tolist() == [6, 3, 1]
    pixels = {
        image.tobytes() for images in (data.train_images, data.test_images) for image in images
    }
    everything = {
        np.asarray(Image.open(f)).transpose(2, 0, 1).tobytes() for f in flat.glob("*/*.png")
    }
    assert pixels == everything
    again = read(flat, test_fraction=0.4)
    assert again.test_images.tobytes() == data.test_images.tobytes()
    assert np.bincount(read(flat, test_fraction=0.01).test_labels).tolist() == [1, 1, 1]
    words = (f"{flat}/c: 'test_fraction' 0.9", "leaves none of its 2 images for training")
    refused(flat, *words, test_fraction=0.9)


def test_per_class(split):
    data = read(split, per_class=2)
    assert np.bincount(data.train_labels).tolist() == [2, 2]
    assert np.bincount(data.test_labels).tolist() == [2, 2]


def test_per_class_of_a_flat_folder(flat):
    data = read(flat, per_class=4, test_fraction=0.25)
    assert np.bincount(data.train_labels).tolist() == [3, 3, 1]


def test_a_file_that_is_no_image_is_named(split):
    good = (split / "train" / "dog" / "2.png").read_bytes()
    for content in (b"", b"not a picture", good[:50], good[: len(good) // 2]):
        (split / "train" / "dog" / "2.png").write_bytes(content)
        refused(split, str(split / "train" / "dog" / "2.png"), "not a readable image")


def test_damaged_images_can_be_skipped(split, caplog):
    caplog.set_level("INFO", logger="st")
    bad = [split / "train" / "dog" / name for name in ("0.png", "2.png", "9.jpg")]
    for path, content in zip(bad, (b"", b"not a picture", b"\xff\xd8\xff\xe0" * 9), strict=True):
        path.write_bytes(content)
    refused(split, str(bad[0]), "skip_damaged: true")
    data = read(split, skip_damaged=True)
    assert np.bincount(data.train_labels).tolist() == [4, 2]
    told = f"{split}/train/dog: 2 images read; 3 skipped, the first: {bad[0]}: is not a readable"
    assert told in caplog.text
    refused(split, str(bad[0]), "(2 more like this)")
    # as many as there should be, if there are enough
    assert np.bincount(read(split, skip_damaged=True, per_class=2).train_labels).tolist() == [2, 2]
    for path in (split / "train" / "dog").iterdir():
        path.write_bytes(b"")
    refused(split, str(split / "train" / "dog"), "all 5 are damaged", skip_damaged=True)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_are_converted_and_told(split, caplog, mode):
    caplog.set_level("INFO", logger="st")
    suffix = {"CMYK": "tif", "YCbCr": "jpg"}.get(mode, "png")
    path = split / "train" / "cat" / f"x.{suffix}"
    # P: with a palette of its own, as a picture's; no mixture of standard colours
    palette = {"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}
    Image.new("RGB", (10, 8), (200, 200, 200)).convert(mode, **palette).save(path)
    found = read(split).train_images[4]
    if mode != "1":
        assert abs(found.astype(int) - 200).max() <= 5
    with Image.open(path) as image:
        told = f"{split}/train/cat: 5 images read; 1 converted, the first: {path} ({image.mode}"
        assert (told in caplog.text) == (image.mode != "RGB")


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_refused(split, mode):
    """Conversion would clip all values above 255 to white."""
    path = split / "train" / "cat" / "x.tif"
    Image.fromarray(np.full((8, 10), 1000, dtype=np.uint16)).convert(mode).save(path)
    refused(split, str(path), "more than 8 bits", mode)
    assert len(read(split, skip_damaged=True).train_labels) == 8


def test_images_that_would_exhaust_the_memory_are_refused(split, monkeypatch):
    path = split / "train" / "cat" / "x.png"
    picture(path, 40, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    refused(split, str(path), "decompression bomb")


def test_random_damage(split):
    """Whatever is wrong with a file: it is named, or still read."""
    path, rng, bad = split / "train" / "cat" / "x.png", np.random.default_rng(0), 0
    good = {}
    for suffix in ("png", "jpg", "gif", "bmp", "webp", "tif", "ppm"):
        picture(path.with_suffix(f".{suffix}"))
        good[suffix] = path.with_suffix(f".{suffix}").read_bytes()
        path.with_suffix(f".{suffix}").unlink()
    for suffix, content in good.items():
        for _ in range(30):
            changed = bytearray(content[: rng.integers(1, len(content) + 1)])
            for place in rng.integers(len(changed), size=3):
                changed[place] = rng.integers(256)
            path = path.with_suffix(f".{suffix}")
            path.write_bytes(changed)
            try:
                read(split, size=8)
            except StError as error:
                bad += 1
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        path.unlink()
    assert bad > 50


def test_folders_that_are_not_as_they_should_be(split, tmp_path):
    refused(tmp_path / "nowhere", "nowhere", "'root'")
    refused(split / "train" / "cat" / "0.png", "is not a folder")
    refused(split, "test_fraction", test_fraction=0.5)
    refused(split / "train", "give 'test_fraction'")
    refused(split / "train" / "cat", "two class folders", test_fraction=0.5)
    (split / "test" / "mouse").mkdir()
    refused(split, "same class folders: train/ lacks mouse")
    (split / "train" / "mouse").mkdir()
    refused(split, str(split / "train" / "mouse"), "has no images")
    (split / "train" / "mouse").rmdir()
    (split / "test" / "mouse").rmdir()
    (split / "train" / ".hidden").mkdir()
    assert read(split).classes == ["cat", "dog"]
    for path in split.glob("test/dog/*"):
        path.unlink()
    refused(split, str(split / "test" / "dog"), "has no images")


@pytest.mark.parametrize(
    "options, words",
    [
        ({"size": 4}, "size"),
        ({"train_size": 64}, "'train_size' needs 'size'"),
        ({"test_resize": 64}, "'test_resize' needs 'size'"),
        ({"size": 64, "train_size": 32}, "'train_size': 32 is less than 'size', 64"),
        ({"size": 64, "test_resize": 63}, "'test_resize': 63 is less than 'size', 64"),
        ({"size": 64, "train_size": 4096}, "train_size"),
        ({"size": 8.5}, "size"),
        ({"test_fraction": 1}, "test_fraction"),
        ({"per_class": 1}, "per_class"),
        ({"grayscale": 3}, "grayscale"),
        ({"sise": 8}, "did you mean 'size'"),
    ],
)
def test_options(split, options, words):
    refused(split, "imagefolder", words, **options)


def test_models_and_data_that_do_not_belong_together(tmp_path):
    save_data(tmp_path / "data", stripes(), {})
    run(tmp_path / "supernet")
    save_data(tmp_path / "other", stripes(side=9), {})
    files = {"model": tmp_path / "model", "history": tmp_path / "history"}
    job = {"training": RECIPE, "epoch_rule": "same", "objective": {}}
    with pytest.raises(StError, match="image shape or classes"):
        train.run(
            job, tmp_path / "other", tmp_path / "supernet" / "model", None,
            **files, device="cpu", threads=1,
        )  # fmt: skip
    assert not any(path.exists() for path in files.values())


def test_what_a_val_folder_is_for(split, caplog):
    caplog.set_level("INFO", logger="st")
    for name in ("cat", "dog"):
        for number in range(3):
            picture(split / "val" / name / f"v{number}.png")
    assert len(read(split).test_labels) == 4
    assert f"{split}/val is not used" in caplog.text
    held = read(split, val="holdout")
    assert len(held.test_labels) == 6 and len(held.train_labels) == 8
    refused(split, "has a test part too", val="test")
    for path in sorted((split / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (split / "test").rmdir()
    refused(split, "no test part", "'val: test'")
    assert len(read(split, val="test").test_labels) == 6
    refused(split / "train", "needs a folder val/", val="test", test_fraction=0.5)


def test_files_beside_the_class_folders_are_told(split, caplog):
    caplog.set_level("INFO", logger="st")
    for part in ("train", "test"):
        (split / part / "labels.csv").write_text("0,cat")
    (split / "train" / ".DS_Store").write_text("x")
    assert read(split).classes == ["cat", "dog"]
    assert "files beside the class folders, left out: 2" in caplog.text
    refused(split, "'test_fraction' must not be given", test_fraction=0.3)


def test_each_class_tells_what_was_done(split, caplog):
    caplog.set_level("INFO", logger="st")
    picture(split / "train" / "cat" / "x.jfif.jpg")
    (split / "train" / "cat" / "x.jfif.jpg").rename(split / "train" / "cat" / "x.jfif")
    for name in ("IMG.JPG~", "a.heic", ".hidden.png"):
        (split / "train" / "cat" / name).write_bytes(b"x")
    assert np.bincount(read(split).train_labels).tolist() == [5, 4]
    told = f"{split}/train/cat: 5 images read; 2 left out: 1 .jpg~, 1 .heic, the first: "
    assert told in caplog.text and "train/dog" not in caplog.text


def test_images_that_cannot_be_read_stand_out_among_by_products(split, caplog):
    """The photographs of a telephone, in folders that a Mac has opened."""
    caplog.set_level("INFO", logger="st")
    for folder in split.glob("*/*"):
        (folder / ".DS_Store").write_bytes(b"x")
    for number in range(12):
        (split / f"train/dog/IMG_{number:02}.HEIC").write_bytes(b"x")
    (split / "train/dog/a.txt").write_bytes(b"x")
    read(split)
    told = caplog.messages
    assert "suffix is of no readable image (12 .heic, 1 .txt; " in told[0] and "to JPEG" in told[0]
    (line,) = [line for line in told if "images read" in line]
    assert f"train/dog: 4 images read; 13 left out: 12 .heic, 1 .txt, the first: {split}" in line
    assert "DS_Store" not in line and "hidden files and by-products, passed over: 4" in told
    for image in split.glob("train/cat/*.png"):
        image.unlink()
    refused(split, "train/cat: has no images that can be read", ".DS_Store (hidden, or a by-")
    (split / "train/cat/IMG_1.HEIC").write_bytes(b"x")
    refused(split, "train/cat: ", "1 .heic, the first", "IMG_1.HEIC (no suffix", "to JPEG or PNG")


def test_images_on_both_sides_are_named(split):
    picture(split / "train" / "cat" / "only.png")
    before = read(split, size=16).repeated()
    same = split / "test" / "dog" / "same.png"
    same.write_bytes((split / "train" / "cat" / "only.png").read_bytes())
    first = read(split, size=16).repeated()
    line = f"{same} is {split}/train/cat/only.png, of another class (cat)"
    assert line not in before and len(first) == len(before) + 1
    assert line in first
    # another file of the same pixels
    Image.open(same).save(split / "test" / "dog" / "z.bmp")
    assert len(read(split, size=16).repeated()) == len(first) + 1


def test_held_out_images_keep_their_files(flat):
    for number in range(2, 6):
        picture(flat / "c" / f"{number}.png")
    data = read(flat, test_fraction=0.4).holdout(0.34)
    assert np.bincount(data.test_labels).tolist() == [2, 1, 1]
    for names, images in zip(data.files, (data.train_images, data.test_images), strict=True):
        for name, image in zip(names, images, strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(name)).transpose(2, 0, 1))


@pytest.mark.parametrize(
    "holdout, val, told",
    [
        (0.5, None, "20 training images, 20 held-out images, "),
        (0.0, "holdout", "40 training images, 8 val images, "),
        (0.0, None, "40 training images, 8 test images, "),
    ],
)
def test_what_prepare_says_is_of_the_images_that_are_left(tmp_path, caplog, holdout, val, told):
    """Of images held out none is for training, and none is a test image."""
    caplog.set_level("INFO", logger="st")
    root, file = tmp_path / "images", tmp_path / "prepared"
    for part, amount in (("train", 20), ("val" if val else "test", 4)):
        for number in range(2 * amount):  # some are the same
            picture(root / part / f"class{number % 2}" / f"{number}.png", value=number // 4)
    options = datasets.check("imagefolder", {"root": str(root), "size": 8, "val": val})
    for share in (holdout, 1.2 * holdout):  # leaves 10 and 8 of 20 in each class
        caplog.clear()
        prepare.run({"source": "imagefolder", "options": options, "holdout": share}, file)
        few = [line for line in caplog.messages if "fewer than 10 training images" in line]
        assert bool(few) == (share == 0.6)
        if share == holdout:
            assert any(line.startswith(told) for line in caplog.messages), caplog.messages
    word = told.split(", ")[1].partition(" ")[2]
    assert describe(file)["evaluated"] == word
    assert any(line.startswith(f"{word} that are training images") for line in caplog.messages)


def test_names_of_files_break_no_line(split, caplog):
    """Nor do they control a terminal; names that are text stay as they are."""
    caplog.set_level("INFO", logger="st")
    names = ["two\nlines", "red\x1b[31m", "a\u2028b", "turned\u202e", "no\udcfftext"]
    shown = [r"two\nlines", r"red\x1b[31m", r"a\u2028b", r"turned\u202e", r"no\udcfftext"]
    folder = split / "train/cat"
    for name, told in zip(names, shown, strict=True):
        damaged = folder / f"{name}.png"
        damaged.write_bytes(b"x")
        refused(split, f"{folder}/{told}.png: is not a readable image")
        damaged.unlink()
        (split / f"{name}.csv").write_bytes(b"x")
        (folder / f"{name}.heic").write_bytes(b"x")
    read(split)
    assert all(line.isprintable() for line in caplog.messages)
    for told in shown:
        assert f"  {split}/{told}.csv" in caplog.messages
    assert str(StError("Zoë 猫.png")) == "Zoë 猫.png"
    assert str(StError("two", "mistakes")) == "two\nmistakes"


def test_lower_shares_do_not_help_a_class_of_one_image(flat):
    picture(flat / "d/1.png")
    with pytest.raises(StError) as caught:
        read(flat, test_fraction=0.2)
    assert str(caught.value).endswith("none of its 1 image for training; add images")
