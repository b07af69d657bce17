"""Every kind of image file gives its pixels; those that would harm give an error."""

import io
import re
import zlib

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from datasets import conversion, image_file, listing

RAMP = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (8, 1))  # dark left, bright right


def save(path, image, **options):
    image.save(path, **options)


def rgb(array):
    return Image.fromarray(np.stack([array] * 3, -1))


def transparent(mode):
    image = Image.new("RGBA", (16, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (8, 0, 16, 8))
    if mode == "P":
        return image.quantize()
    return image


def sixteen_bits():
    return Image.fromarray(RAMP.astype(np.uint16) * 257)


def on_its_side():
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    return Image.fromarray(np.rot90(RAMP, 1).copy()), exif


def animation(path):
    frames = [Image.fromarray(RAMP), Image.new("L", (16, 8), 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


KINDS = {
    "grey.png": lambda p: save(p, Image.fromarray(RAMP)),
    "rgb.png": lambda p: save(p, rgb(RAMP)),
    "palette.png": lambda p: save(p, rgb(RAMP).quantize(64)),
    "one_bit.png": lambda p: save(p, Image.fromarray(RAMP).convert("1")),
    "sixteen.png": lambda p: save(p, sixteen_bits()),
    "cmyk.jpg": lambda p: save(p, rgb(RAMP).convert("CMYK"), quality=95),
    "plain.jpg": lambda p: save(p, rgb(RAMP), quality=95),
    "plain.webp": lambda p: save(p, rgb(RAMP), lossless=True),
    "moving.gif": animation,
    "Ünïcode 图 1.png": lambda p: save(p, rgb(RAMP)),
    "rotated.jpg": lambda p: save(p, on_its_side()[0], exif=on_its_side()[1], quality=95),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_its_pixels(tmp_path, name):
    path = tmp_path / name
    KINDS[name](path)
    pixels, grey = image_file.read_image(path, (8, 16))
    assert pixels.shape == (8, 16, 3) and pixels.dtype == np.uint8
    if name == "one_bit.png":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        assert_allclose(pixels.mean(-1).astype(int), RAMP, atol=14)
    assert grey == (name in ("grey.png", "one_bit.png", "sixteen.png", "rotated.jpg"))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    save(tmp_path / "x.png", transparent(mode))
    pixels, grey = image_file.read_image(tmp_path / "x.png", (8, 16))
    assert not grey
    assert_allclose(pixels[:, :8], np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=2)
    assert_allclose(pixels[:, 8:], 255, atol=2)


def test_a_crop_takes_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[3:7, 12:18] = 250
    save(tmp_path / "x.png", Image.fromarray(wide))
    pixels, _ = image_file.read_image(tmp_path / "x.png", (4, 6), (4, 6))
    assert_array_equal(pixels, np.full((4, 6, 3), 250))
    with pytest.raises(ValueError, match="10x30 pixels, smaller than the crop of 12x6"):
        image_file.read_image(tmp_path / "x.png", (4, 6), (12, 6))


def test_shrinking_a_jpeg_does_not_alias(tmp_path):
    stripes = np.zeros((96, 96), np.uint8)
    stripes[:, ::2] = 200
    save(tmp_path / "x.jpg", rgb(stripes), quality=100)
    pixels, _ = image_file.read_image(tmp_path / "x.jpg", (48, 48))
    assert_allclose(pixels[8:-8, 8:-8], 100, atol=6)


@pytest.mark.parametrize("name, size", [("scan.png", (8000, 6000)), ("phone.jpg", (12000, 9000))])
def test_a_large_photograph_is_read(tmp_path, name, size):
    save(tmp_path / name, Image.new("L", size, 100))
    pixels, grey = image_file.read_image(tmp_path / name, (8, 8))
    assert set(pixels.flat) == {100} and grey


def test_a_jpeg_of_several_pictures_is_read(tmp_path):
    path = tmp_path / "camera.jpg"
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (60, 200)]
    frames[0].save(path, "MPO", save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert image.format == "MPO"
    pixels, _ = image_file.read_image(path, (8, 8))
    assert set(pixels.flat) == {60}


def chunk(kind, content):
    body = kind + content
    return len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)


def png(width, height, *chunks):
    """A PNG whose pixels are missing."""
    size = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + b"".join((chunk(b"IHDR", size), *chunks, chunk(b"IDAT", b"")))


def jpeg(width, height):
    """A JPEG that has but a few of its pixels."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "JPEG")
    sizes = b"\xff\xc0\0\x0b\x08" + height.to_bytes(2) + width.to_bytes(2)
    return re.sub(rb"\xff\xc0\0\x0b\x08....", sizes, file.getvalue(), flags=re.S)


@pytest.mark.parametrize(
    "content, crop",
    [(png(13000, 13000), None), (jpeg(12000, 9000), (8, 8)), (jpeg(20000, 20000), None)],
    ids=["png", "jpeg with a crop", "jpeg"],
)
def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path, content, crop):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match=r"00x\d+00 pixels are too many to decode"):
        image_file.read_image(tmp_path / "x", (8, 8), crop)


HOSTILE = {
    "text.png": png(8, 8, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 24)))),
    "profile.png": png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 24)))),
    "bomb.png": png(60000, 60000),
    "offset.tif": b"II+\0\x08\0\0\0" + (1 << 62).to_bytes(8, "little"),
    "pickle.jpg": b"cos\nmkdir\n(S'x'\ntR.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_a_line_in_bad_files(tmp_path, name):
    (tmp_path / name).write_bytes(HOSTILE[name])
    listed = listing.Listing([name], [1], None, [], lambda i: tmp_path / name)
    (reason,) = conversion.read_chunk(tmp_path, listed, [0], (8, 8), None)
    assert isinstance(reason, str) and "\n" not in reason
