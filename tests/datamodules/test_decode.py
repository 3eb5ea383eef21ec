import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from lightning_igm.data.decode import (
    centre_crop,
    open_image,
    pixels,
    resize_shorter_side,
    without_pillows_limit,
)

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(256, size=(6, 9, 3), dtype=np.uint8)
GREY = COLOUR[:, :, 0]


def saved(image, kind="PNG", **options):
    """A file of a picture or an array, at its start."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def opened(file, channels=3, **options):
    image = open_image(file, channels, **options)
    assert image.mode == {1: "L", 3: "RGB"}[channels]
    return np.asarray(image)


def luma(colour):
    """Grey of ITU-R 601-2."""
    return colour @ np.array([0.299, 0.587, 0.114])


def same_in_all_channels(grey):
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_colour(tmp_path):
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(opened(saved(COLOUR, kind)), COLOUR)
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    assert np.array_equal(opened(tmp_path / "a.png"), COLOUR)
    assert np.abs(opened(saved(COLOUR), 1) - luma(COLOUR)).max() <= 1


def test_grey():
    assert np.array_equal(opened(saved(GREY)), same_in_all_channels(GREY))
    assert np.array_equal(opened(saved(GREY), 1), GREY)


def test_one_bit():
    bits = Image.fromarray(GREY).convert("1")
    expected = np.asarray(bits).astype(np.uint8) * 255
    assert set(np.unique(expected)) == {0, 255}
    assert np.array_equal(opened(saved(bits), 1), expected)
    assert np.array_equal(opened(saved(bits)), same_in_all_channels(expected))


def palette_picture():
    """A picture of four colours, and what they are."""
    numbers = (GREY % 4).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 200, 0], [1, 2, 3], [250, 251, 252]], np.uint8)
    image = Image.frombytes("P", (9, 6), numbers.tobytes())
    image.putpalette(colours.flatten().tolist())
    return image, colours[numbers]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparency", [{}, {"transparency": 1}])
def test_palette(kind, transparency):
    image, expected = palette_picture()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = opened(saved(image, kind, **transparency))
    assert np.array_equal(found, expected)
    assert not caught


def test_palette_with_a_transparency_for_each_colour():
    image, expected = palette_picture()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        file = saved(image, transparency=bytes([0, 128, 255, 7]))
        assert np.array_equal(opened(file), expected)
        file.seek(0)
        assert np.abs(opened(file, 1) - luma(expected)).max() <= 1
    assert not caught


def test_transparency_is_dropped():
    alpha = RNG.integers(256, size=(6, 9, 1), dtype=np.uint8)
    assert np.array_equal(opened(saved(np.concatenate([COLOUR, alpha], axis=2))), COLOUR)
    grey_alpha = np.concatenate([GREY[:, :, None], alpha], axis=2)
    assert np.array_equal(opened(saved(grey_alpha), 1), GREY)
    file = saved(GREY, transparency=int(GREY[2, 3]))
    assert np.array_equal(opened(file), same_in_all_channels(GREY))


def test_cmyk_jpeg():
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[..., 0], cmyk[..., 3] = 255, 51
    file = saved(Image.frombytes("CMYK", (16, 16), cmyk.tobytes()), "JPEG", quality=100)
    assert np.abs(opened(file).astype(int) - [0, 204, 204]).max() <= 2


def test_16_bit_grey_keeps_its_upper_bits():
    wide = np.array([[0xAB00, 0xABFF, 0x00FF], [0xFFFF, 0x0100, 0x7F80]], np.uint16)
    expected = np.array([[0xAB, 0xAB, 0x00], [0xFF, 0x01, 0x7F]])
    # Not all versions of Pillow write what they read.
    grey_map = io.BytesIO(b"P5 3 2 65535\n" + wide.astype(">u2").tobytes())
    for file in (saved(wide, "PNG"), saved(wide, "TIFF"), grey_map):
        assert np.array_equal(opened(file, 1), expected)
        file.seek(0)
        assert np.array_equal(opened(file), same_in_all_channels(expected))
    big_endian = Image.frombytes("I;16B", (3, 2), wide.astype(">u2").tobytes())
    assert np.array_equal(opened(saved(big_endian, "TIFF"), 1), expected)


def test_32_bit_grey():
    fits = saved(np.array([[0xAB00, 0xFFFF]], np.int32), "TIFF")
    assert opened(fits, 1).tolist() == [[0xAB, 0xFF]]
    for low, high in ((0, 0x10000), (-1, 5)):
        message = f"pixels are {low} to {high}; with bits=16 they must be 0 to 65535"
        with pytest.raises(ValueError, match=message):
            open_image(saved(np.array([[low, high]], np.int32), "TIFF"))
    file = saved(np.array([[0, 0x12345, 0x3FFFF]], np.int32), "TIFF")
    assert opened(file, 1, bits=18).tolist() == [[0, 0x48, 0xFF]]
    file.seek(0)
    with pytest.raises(ValueError, match=r"0 to 262143; with bits=17 they must be 0 to 131071\)"):
        open_image(file, bits=17)


RAMP = np.linspace(0, 255, 64).round().astype(np.uint16).reshape(8, 8)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
@pytest.mark.parametrize(("factor", "bits"), [(1, 8), (4, 10), (16, 12)])
def test_wide_grey_of_few_bits_is_refused_unless_it_is_said_how_many(dtype, factor, bits):
    """Its upper 8 of 16 bits would be black."""
    for kind in ("TIFF", "PNG") if dtype == np.uint16 else ("TIFF",):
        file = saved((factor * RAMP).astype(dtype), kind)
        message = rf"its pixels are 0 to {factor * 255} and the file does not .*set bits={bits}, or"
        with pytest.raises(ValueError, match=message) as error:
            open_image(file)
        assert "\n" not in str(error.value)
        file.seek(0)
        assert np.array_equal(opened(file, 1, bits=bits), RAMP)
        file.seek(0)
        assert np.array_equal(opened(file, 1, bits=16), factor * RAMP >> 8)


def test_black_is_black_in_any_bits():
    assert not opened(saved(np.zeros((4, 4), np.uint16)), 1).any()


def tiff_of_12_bits(values):
    """Pairs of values in three bytes; Pillow reads it and does not write it."""
    pairs = values.reshape(-1, 2).astype(int)
    content = b"".join(((a << 12) | b).to_bytes(3) for a, b in pairs.tolist())
    height, width = values.shape
    tags = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    tags[279] = len(content)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = b"II*\0" + struct.pack("<I", 8 + len(content)) + content
    return io.BytesIO(start + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))


def test_the_files_own_word_counts():
    assert np.array_equal(opened(tiff_of_12_bits(16 * RAMP), 1), RAMP)
    dark = io.BytesIO(b"P5 3 1 4095\n" + np.array([0, 100, 200], ">u2").tobytes())
    assert opened(dark, 1).tolist() == [[0, 100 >> 4, 200 >> 4]]


def png_of_16_bits(values, colour_type):
    """Pillow reads only the upper bits of such colours, and writes none."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        file += struct.pack(">I", len(data)) + kind + data
        file += struct.pack(">I", zlib.crc32(kind + data))
    return io.BytesIO(file)


@pytest.mark.parametrize(("colour_type", "depth"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_that_would_be_black_are_refused(colour_type, depth):
    values = np.repeat(RAMP[:, :, None], depth, 2)
    if depth in (2, 4):
        values[:, :, -1] = 0xFFFF  # Opaque.
    for factor in (1, 16):
        dark = values.copy()
        dark[:, :, :3] = np.minimum(dark[:, :, :3].astype(int) * factor, 0xFFFF)
        with pytest.raises(ValueError, match=r"its 16-bit colours are below 4096.*bits=16"):
            open_image(png_of_16_bits(dark, colour_type))
        taken = opened(png_of_16_bits(dark, colour_type), bits=16)
        assert taken.max() < 16
    bright = values.copy()
    bright[:, :, : depth - (depth != 3)] *= 256
    assert opened(png_of_16_bits(bright, colour_type)).max() == 255


def test_floats_are_refused():
    values = np.array([[-0.5, 2.0]], np.float32)
    with pytest.raises(
        ValueError, match=r"its pixels are floats, of unknown range \(-0.5 to 2\); conv"
    ):
        open_image(saved(values, "TIFF"))
    with pytest.raises(ValueError, match=r"of unknown range \(nan to nan\)"):
        open_image(saved(np.where(values < 0, np.nan, values).astype(np.float32), "TIFF"))


# How an upright picture is stored under each orientation of the EXIF standard: undone by the name.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("stored", [COLOUR, (GREY.astype(np.uint16) << 8)], ids=["rgb", "wide"])
def test_exif_rotation(orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = opened(saved(stored, exif=exif), 3 if stored.ndim == 3 else 1)
    assert np.array_equal(found, TURNED[orientation](COLOUR if stored.ndim == 3 else GREY))


def test_first_frame_of_a_gif():
    frames = [Image.new("L", (4, 4), level) for level in (10, 200, 30)]
    file = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(file).n_frames == 3
    assert np.unique(opened(file)).tolist() == [10]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8])
def test_truncated(tmp_path, kind, keep):
    noise = RNG.integers(256, size=(64, 64, 3), dtype=np.uint8)
    content = saved(noise, kind).getvalue()
    path = tmp_path / "half"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"half cannot be decoded \(.+\)$") as raised:
        open_image(path)
    assert "\n" not in str(raised.value)


def test_no_image(tmp_path):
    (tmp_path / "a.png").write_text("one line\nanother line\n" * 20)
    with pytest.raises(ValueError, match=r"a\.png cannot be decoded \(cannot identify") as raised:
        open_image(tmp_path / "a.png")
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"cannot be decoded \(.*Is a directory"):
        open_image(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.png is missing"):
        open_image(tmp_path / "none.png")
    (tmp_path / "link.png").symlink_to("none.png")
    with pytest.raises(FileNotFoundError, match=r"link\.png is a link to nothing"):
        open_image(tmp_path / "link.png")


def test_size_that_no_one_means(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"cannot be decoded \(Image size \(54 pixels\) exceeds"):
        open_image(saved(COLOUR))
    with without_pillows_limit():
        assert np.array_equal(opened(saved(COLOUR), max_pixels=54), COLOUR)
        message = r"its 54 pixels are more than max_pixels, which is 53; raise that, or"
        with pytest.raises(ValueError, match=message):
            open_image(saved(COLOUR), max_pixels=53)
    assert Image.MAX_IMAGE_PIXELS == 20


def test_decoder_that_raises_something_else(monkeypatch):
    def fail(*args, **kwargs):
        raise struct.error("unpack requires\na buffer")

    monkeypatch.setattr("lightning_igm.data.decode.ImageOps.exif_transpose", fail)
    with pytest.raises(ValueError, match=r"cannot be decoded \(unpack requires a buffer\)"):
        open_image(saved(COLOUR))


def triangles(length, size):
    """Weights of each output pixel: a triangle over the inputs, as wide as the reduction."""
    scale = length / size
    centres = (np.arange(size)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(length)[None] + 0.5 - centres) / max(scale, 1)
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (20, 30, 10, (10, 15)),
        (30, 20, 7, (10, 7)),  # 10.5, to the even number.
        (9, 9, 4, (4, 4)),
        (5, 8, 16, (16, 26)),  # Enlarged; 25.6.
        (1, 300, 2, (2, 600)),
        (12, 31, 12, (12, 31)),
    ],
)
def test_shorter_side(height, width, size, expected):
    image = RNG.integers(256, size=(height, width, 3), dtype=np.uint8)
    small = np.asarray(resize_shorter_side(Image.fromarray(image), size))
    assert small.shape == (*expected, 3)
    rows, columns = triangles(height, expected[0]), triangles(width, expected[1])
    reference = np.einsum("ih,hwc,jw->ijc", rows, image.astype(float), columns)
    assert np.abs(small - reference).max() <= 1.5


@pytest.mark.parametrize(("height", "width"), [(4, 4), (4, 9), (9, 4), (4, 8), (5, 7)])
def test_centre(height, width):
    image = RNG.integers(256, size=(height, width), dtype=np.uint8)
    top, left = (height - 4) // 2, (width - 4) // 2
    found = pixels(centre_crop(Image.fromarray(image), 4))
    assert np.array_equal(found, image[None, top : top + 4, left : left + 4])


def test_pixels_are_channels_first_and_contiguous():
    found = pixels(Image.fromarray(COLOUR))
    assert found.flags.c_contiguous
    assert np.array_equal(found, COLOUR.transpose(2, 0, 1))
