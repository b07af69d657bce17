"""Folders of images: every kind of file, converted once, whatever happens meanwhile."""

import errno
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import cache
import config as flags
import imagefile
from errors import Refused

RAMP = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (8, 1))  # dark left, bright right


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def open_photos(tmp_path, **values):
    values = {"dataset": "photos", "data_dir": str(tmp_path), "output_height": 8} | values
    return cache.open_folder(tmp_path / "photos", flags.Config(**values))


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
    pixels, grey = imagefile.read_image(path, (8, 16))
    assert pixels.shape == (8, 16, 3) and pixels.dtype == np.uint8
    if name == "one_bit.png":
        assert set(np.unique(pixels)) == {0, 255}
    else:
        assert_allclose(pixels.mean(-1).astype(int), RAMP, atol=14)
    assert grey == (name in ("grey.png", "one_bit.png", "sixteen.png", "rotated.jpg"))


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode):
    save(tmp_path / "x.png", transparent(mode))
    pixels, grey = imagefile.read_image(tmp_path / "x.png", (8, 16))
    assert not grey
    assert_allclose(pixels[:, :8], np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=2)
    assert_allclose(pixels[:, 8:], 255, atol=2)


def test_a_crop_takes_the_centre(tmp_path):
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[3:7, 12:18] = 250
    save(tmp_path / "x.png", Image.fromarray(wide))
    pixels, _ = imagefile.read_image(tmp_path / "x.png", (4, 6), (4, 6))
    assert_array_equal(pixels, np.full((4, 6, 3), 250))
    with pytest.raises(ValueError, match="10x30 pixels, smaller than the crop of 12x6"):
        imagefile.read_image(tmp_path / "x.png", (4, 6), (12, 6))


def test_shrinking_a_jpeg_does_not_alias(tmp_path):
    stripes = np.zeros((96, 96), np.uint8)
    stripes[:, ::2] = 200
    save(tmp_path / "x.jpg", rgb(stripes), quality=100)
    pixels, _ = imagefile.read_image(tmp_path / "x.jpg", (48, 48))
    assert_allclose(pixels[8:-8, 8:-8], 100, atol=6)


def write_photos(tmp_path, count=30, bad=0):
    for i in range(count):
        shade = np.full((12, 12, 3), i * 3 % 256, np.uint8)
        save(tmp_path / "photos" / f"{i:04d}.jpg", Image.fromarray(shade), quality=95)
    for i in range(bad):
        (tmp_path / "photos" / f"{i * 7:04d}.jpg").write_bytes(b"\xff\xd8 cut short")


def test_a_folder_is_converted_once_and_again_when_a_file_or_a_setting_changes(tmp_path):
    write_photos(tmp_path)
    first = open_photos(tmp_path)
    (place,) = (tmp_path / ".cache").glob("photos-*/images.bin")
    made = place.stat().st_mtime_ns
    again = open_photos(tmp_path)
    assert place.stat().st_mtime_ns == made and again.digest == first.digest
    assert_array_equal(again.images, first.images)
    assert [int(image.mean()) for image in first.images] == pytest.approx(
        [i * 3 for i in range(30)], abs=2
    )
    save(tmp_path / "photos" / "0003.jpg", Image.new("RGB", (12, 12), "white"))
    changed = open_photos(tmp_path)
    assert changed.digest != first.digest and changed.images[3].min() > 250
    assert place.stat().st_mtime_ns != made
    assert open_photos(tmp_path, output_height=10).images.shape == (30, 10, 10, 3)
    assert len(list((tmp_path / ".cache").glob("photos-*/images.bin"))) == 2
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == list(changed.names)


def test_files_stay_in_order_however_long_each_takes(tmp_path, monkeypatch):
    write_photos(tmp_path, count=200)
    read = imagefile.read_image

    def slow_first(path, size, crop):
        time.sleep(0.3 if path.name == "0000.jpg" else 0)
        return read(path, size, crop)

    monkeypatch.setattr(imagefile, "read_image", slow_first)
    monkeypatch.setattr(cache, "CHUNK", 3)
    found = open_photos(tmp_path)
    expected = [read(tmp_path / "photos" / name, (8, 8), None)[0] for name in found.names]
    assert_array_equal(found.images, expected)


def test_broken_files_are_left_out_and_listed(tmp_path, capsys):
    write_photos(tmp_path, count=100, bad=4)
    found = open_photos(tmp_path)
    assert len(found.images) == 96 and "0007.jpg" not in found.names
    (listed,) = (tmp_path / ".cache").glob("photos-*/bad_files.txt")
    names = [line.split(":")[0] for line in listed.read_text().splitlines()]
    assert names == ["0000.jpg", "0007.jpg", "0014.jpg", "0021.jpg"]
    assert "4 of 100 files are left out" in capsys.readouterr().out


def test_more_than_5_percent_broken_files_stop_the_program(tmp_path):
    write_photos(tmp_path, count=100, bad=6)
    with pytest.raises(Refused, match=r"6 of 100 files cannot be used, as 0000\.jpg"):
        open_photos(tmp_path)
    assert not list((tmp_path / ".cache").glob("photos-*/*"))


def test_a_decompression_bomb_is_a_bad_file(tmp_path, monkeypatch):
    save(tmp_path / "x.png", rgb(RAMP))
    monkeypatch.setattr(imagefile, "PIXELS_MAX", 100)
    with pytest.raises(ValueError, match="a decompression bomb"):
        imagefile.read_image(tmp_path / "x.png", (8, 8))


def test_an_interrupted_conversion_leaves_nothing_half_valid(tmp_path):
    write_photos(tmp_path)
    whole = open_photos(tmp_path)
    (place,) = (p for p in (tmp_path / ".cache").glob("photos-*") if p.is_dir())
    place.rename(f"{place}.tmp")  # as a kill before the renaming leaves it
    (tmp_path / ".cache" / f"{place.name}.tmp" / "manifest.json").unlink()
    assert open_photos(tmp_path).digest == whole.digest
    (place / "images.bin").write_bytes(b"short")
    assert open_photos(tmp_path).digest == whole.digest
    (place / "manifest.json").write_text("{")
    assert open_photos(tmp_path).digest == whole.digest
    for key in ("digest", "bad", "class_names", "written", "shape"):
        text = (place / "manifest.json").read_text()
        (place / "manifest.json").write_text(text.replace(f'"{key}"', '"x"'))
        assert open_photos(tmp_path).digest == whole.digest


def test_a_map_that_something_else_wrote_to_is_made_anew(tmp_path):
    write_photos(tmp_path)
    whole = open_photos(tmp_path).images.copy()
    (path,) = (tmp_path / ".cache").glob("photos-*/images.bin")
    with open(path, "r+b") as file:
        file.write(b"zeros")
    assert_array_equal(open_photos(tmp_path).images, whole)


def test_whatever_a_decoder_raises_makes_one_bad_file(tmp_path, monkeypatch):
    write_photos(tmp_path, count=30)
    read = imagefile.read_image

    def fail(path, size, crop):
        if path.name == "0003.jpg":
            raise TypeError("bad operand")
        return read(path, size, crop)

    monkeypatch.setattr(imagefile, "read_image", fail)
    assert len(open_photos(tmp_path).images) == 29
    (listed,) = (tmp_path / ".cache").glob("photos-*/bad_files.txt")
    assert listed.read_text() == "0003.jpg: TypeError: bad operand\n"


def test_what_the_system_refuses_stops_the_program_and_makes_no_bad_file(tmp_path, monkeypatch):
    write_photos(tmp_path)

    def refuse(path, size, crop):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(imagefile, "read_image", refuse)
        with pytest.raises(Refused, match=r"0000\.jpg: Input/output error; mend that"):
            open_photos(tmp_path)
    assert [path.suffix for path in (tmp_path / ".cache").iterdir()] == [".lock"]
    assert len(open_photos(tmp_path).images) == 30


def test_a_flipped_bit_in_a_manifest_costs_a_conversion_and_no_run(tmp_path):
    write_photos(tmp_path)
    whole = open_photos(tmp_path).digest
    (path,) = (tmp_path / ".cache").glob("photos-*/manifest.json")
    other = ("0" if whole[0] != "0" else "1") + whole[1:]
    path.write_text(path.read_text().replace(whole, other))
    assert open_photos(tmp_path).digest == whole


def test_two_programs_that_start_together_share_one_conversion(tmp_path):
    write_photos(tmp_path, count=300)
    code = (
        "import sys, cache, config, pathlib\n"
        "c = config.Config(dataset='photos', data_dir=sys.argv[1], output_height=8)\n"
        "print(cache.open_folder(pathlib.Path(sys.argv[1]) / 'photos', c).digest)"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    digests = {process.communicate(timeout=60)[0] for process in both}
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_an_unwritable_cache_names_its_flag(tmp_path):
    write_photos(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=r"--cache_dir .*file"):
        open_photos(tmp_path, cache_dir=str(tmp_path / "file"))


def test_a_disk_too_small_for_the_cache_names_its_flag_and_leaves_nothing_half_valid(tmp_path):
    write_photos(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(Refused, match=r"--cache_dir .*File too large; name a folder with room"):
            open_photos(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.suffix for path in (tmp_path / ".cache").iterdir()] == [".lock"]
    assert len(open_photos(tmp_path).images) == 30


def test_a_pattern_that_finds_nothing_names_one_that_would(tmp_path):
    save(tmp_path / "photos" / "a.JPG", rgb(RAMP), format="JPEG")
    with pytest.raises(Refused, match=r"try --input_fname_pattern '\*\.JPG'"):
        open_photos(tmp_path)


def test_the_manifest_tells_files_sizes_times_and_settings(tmp_path):
    write_photos(tmp_path, count=20)
    open_photos(tmp_path, crop=True, input_height=10)
    (path,) = (tmp_path / ".cache").glob("photos-*/manifest.json")
    manifest = json.loads(path.read_text())
    status = (tmp_path / "photos" / "0000.jpg").stat()
    files = path.with_name("files.txt").read_text().splitlines()
    assert files[0] == f"{status.st_size} {status.st_mtime_ns} '0000.jpg'" and len(files) == 20
    assert manifest["wanted"]["crop"] == [10, 10] and manifest["wanted"]["size"] == [8, 8]
