"""One image file: the stated rule of what happens to its pixels."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from st.core.errors import StError
from st.data.decode import decode, make, suffixes

CORNERS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20


def png(path, kind: int, channels: int, values: np.ndarray):
    """A PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    assert values.size == height * width * channels
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    """By the definition of the tag, in numpy: where row 0 and column 0 of the file belong."""
    back = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: np.rot90(a),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.concatenate([CORNERS, CORNERS + 9])
    Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
    pixels, done = decode(tmp_path / "x.png", None, False)
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), back[orientation](stored))
    assert ("turned upright" in done) == (orientation != 1)


@pytest.mark.parametrize("kind, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_whatever_the_channels(tmp_path, kind, channels):
    """Read as 8 bits, twelve-bit values in sixteen bits would be 0 to 15 of 255."""
    png(tmp_path / "x.png", kind, channels, np.full((2, 3, channels), 4095))
    with pytest.raises(StError, match=r"x\.png: .*more than 8 bits"):
        decode(tmp_path / "x.png", None, False)


@pytest.mark.parametrize("name", ["x.ppm", "y.ppm", "x.sgi", "x.jp2"])
def test_deep_files_whose_mode_does_not_say_so(tmp_path, name):
    path, plain = tmp_path / name, Image.fromarray(np.tile(CORNERS, (8, 8, 1)))
    if name.endswith(".ppm"):
        most = 65535 if name == "x.ppm" else 4095
        path.write_bytes(b"P6 2 2 %d\n" % most + CORNERS.astype(">u2").tobytes())
    elif name == "x.sgi":
        head = struct.pack(">HBBHHHHIII", 474, 0, 2, 3, 2, 2, 3, 0, 65535, 0)
        path.write_bytes(
            head.ljust(512, b"\0") + CORNERS.transpose(2, 0, 1).astype(">u2").tobytes()
        )
    else:
        plain.save(path)
        assert decode(path, None, False)[0].shape == (3, 16, 16)
        contents = bytearray(path.read_bytes())
        contents[contents.index(b"\xff\x4f\xff\x51") + 42] = 15  # the bits, less one
        path.write_bytes(contents)
    with pytest.raises(StError, match="more than 8 bits"):
        decode(path, None, False)


@pytest.mark.parametrize(
    "suffix", [".ppm", ".pgm", ".sgi", ".jp2", ".avif", ".tif", ".webp", ".tga"]
)
def test_files_of_eight_bits_are_no_deep_ones(tmp_path, suffix):
    if Image.registered_extensions().get(suffix) not in Image.SAVE:
        pytest.skip("this Pillow does not write such files")
    mode = "L" if suffix == ".pgm" else "RGB"
    Image.fromarray(np.tile(CORNERS, (8, 8, 1))).convert(mode).save(tmp_path / f"x{suffix}")
    assert decode(tmp_path / f"x{suffix}", None, False)[0].shape == (3, 16, 16)


@pytest.mark.parametrize("grayscale", [False, True])
def test_transparent_pixels_lie_on_white(tmp_path, grayscale):
    for mode, colour in (("RGBA", (0, 0, 0, 0)), ("LA", (0, 0)), ("RGBA", (255, 0, 0, 0))):
        Image.new(mode, (3, 3), colour).save(tmp_path / "x.png")
        pixels, done = decode(tmp_path / "x.png", None, grayscale)
        assert (pixels == 255).all() and done == f"{mode}, laid on white"
    palette = Image.new("P", (3, 3), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "x.png", transparency=1)
    assert (decode(tmp_path / "x.png", None, grayscale)[0] == 255).all()
    palette.save(tmp_path / "x.png")
    pixels, done = decode(tmp_path / "x.png", None, False)
    assert pixels[:, 0, 0].tolist() == [10, 20, 30] and done == "P"
    Image.new("RGB", (3, 3), (10, 20, 30)).save(tmp_path / "x.png", transparency=(10, 20, 30))
    assert (decode(tmp_path / "x.png", None, False)[0] == 255).all()


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (3, 3), (shade,) * 3) for shade in (50, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert abs(decode(tmp_path / "x.gif", None, True)[0].astype(int) - 50).max() <= 2


@pytest.mark.parametrize("value", [0, 9, 99, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, value):
    """And the file stays as it is in shards."""
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(CORNERS).save(tmp_path / "x.jpg", exif=exif)
    assert decode(tmp_path / "x.jpg", None, False)[1] == ""
    made = make(str(tmp_path / "x.jpg"), None, False, None, compressed=True, by_contents=False)
    assert made.payload == (tmp_path / "x.jpg").read_bytes()


def test_pictures_of_several_images_in_one_file(tmp_path):
    """As of cameras with two lenses: JPEG files in one another, also called .jpg."""
    images = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (50, 200)]
    for name in ("x.mpo", "x.jpg"):
        place = tmp_path / name
        images[0].save(place, "MPO", save_all=True, append_images=images[1:])
        assert place.suffix in suffixes()
        assert abs(decode(place, None, True)[0].astype(int) - 50).max() <= 2


@pytest.mark.parametrize("grayscale", [False, True])
def test_lab_colours(tmp_path, grayscale):
    Image.new("LAB", (4, 4), (128, 128, 128)).save(tmp_path / "x.tif")
    pixels, done = decode(tmp_path / "x.tif", None, grayscale)
    assert pixels.shape == (1 if grayscale else 3, 4, 4) and done == "LAB"
    assert 100 < pixels.min() <= pixels.max() < 140


def test_the_library_says_which_suffixes_it_reads():
    assert {".jpg", ".jfif", ".png", ".webp", ".tif", ".jp2", ".ppm"} <= suffixes()
    assert not {".txt", ".heic", ".jpg~", ".pdf", ".h5", ".mpg"} & suffixes()
