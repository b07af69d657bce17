"""Images of any origin: converted once, whatever happens meanwhile."""

import errno
import json
import os
import resource
import subprocess
import sys
import time

import pytest
from archives import load, pack
from conftest import PATIENCE, ROOT, SMALL
from numpy.testing import assert_array_equal
from PIL import Image

import config as flags
import utils
from datasets import conversion, dataset, image_file, origins
from system.errors import Refused

KINDS = ("folder", "zip", "lmdb")


def open_photos(tmp_path, **values):
    values = {"dataset": "photos", "data_dir": str(tmp_path), "output_height": 8} | values
    source = dataset.source_of(flags.Config(**values))
    return conversion.open_converted(origins.find(source.folder, source.pattern), source)


def write_photos(tmp_path, count=30, bad=0):
    (tmp_path / "photos").mkdir(parents=True)
    for i in range(count):
        shade = Image.new("RGB", (12, 12), (i * 3 % 256,) * 3)
        shade.save(tmp_path / "photos" / f"{i:04d}.jpg", quality=95)
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
    Image.new("RGB", (12, 12), "white").save(tmp_path / "photos" / "0003.jpg")
    changed = open_photos(tmp_path)
    assert changed.digest != first.digest and changed.images[3].min() > 250
    assert place.stat().st_mtime_ns != made
    assert open_photos(tmp_path, output_height=10).images.shape == (30, 10, 10, 3)
    assert len(list((tmp_path / ".cache").glob("photos-*/images.bin"))) == 2
    assert len(list((tmp_path / "photos").iterdir())) == 30  # nothing is written there


def test_what_is_converted_is_opened_without_a_trace(image_folder):
    """A dry run changes nothing, and others' caches may be read-only."""
    data_dir = image_folder()
    first = load(data_dir).facts
    for path in (data_dir / ".cache").glob("*.lock"):
        path.unlink()
    before = sorted(data_dir.rglob("*"))
    assert load(data_dir).facts == first and sorted(data_dir.rglob("*")) == before


def test_files_stay_in_order_however_long_each_takes(tmp_path, monkeypatch):
    write_photos(tmp_path, count=200)
    read = image_file.read_image

    def slow_first(path, size, crop):
        time.sleep(0.3 if path.name == "0000.jpg" else 0)
        return read(path, size, crop)

    monkeypatch.setattr(image_file, "read_image", slow_first)
    monkeypatch.setattr(conversion, "CHUNK", 3)
    found = open_photos(tmp_path)
    files = sorted((tmp_path / "photos").iterdir())
    expected = [read(path, (8, 8), None)[0] for path in files]
    assert_array_equal(found.images, expected)


def test_broken_files_are_left_out_and_listed(tmp_path, capsys):
    write_photos(tmp_path, count=100, bad=4)
    found = open_photos(tmp_path)
    assert len(found.images) == 96
    (listed,) = (tmp_path / ".cache").glob("photos-*/bad_files.txt")
    names = [line.split(":")[0] for line in listed.read_text().splitlines()]
    assert names == ["0000.jpg", "0007.jpg", "0014.jpg", "0021.jpg"]
    assert "4 of 100 files are left out" in capsys.readouterr().out


def test_more_than_5_percent_broken_files_stop_the_program(tmp_path):
    write_photos(tmp_path, count=100, bad=6)
    with pytest.raises(Refused, match=r"6 of 100 files cannot be used, as 0000\.jpg"):
        open_photos(tmp_path)
    assert not list((tmp_path / ".cache").glob("photos-*/*"))


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
    for key in json.loads((place / "manifest.json").read_text()):
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
    read = image_file.read_image

    def fail(path, size, crop):
        if path.name == "0003.jpg":
            raise TypeError("bad operand")
        return read(path, size, crop)

    monkeypatch.setattr(image_file, "read_image", fail)
    assert len(open_photos(tmp_path).images) == 29
    (listed,) = (tmp_path / ".cache").glob("photos-*/bad_files.txt")
    assert listed.read_text() == "0003.jpg: TypeError: bad operand\n"


def test_what_the_system_refuses_stops_the_program_and_makes_no_bad_file(tmp_path, monkeypatch):
    write_photos(tmp_path)

    def refuse(path, size, crop):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(image_file, "read_image", refuse)
        with pytest.raises(Refused, match=r"0000\.jpg: Input/output error; make it readable"):
            open_photos(tmp_path)
    assert [path.suffix for path in (tmp_path / ".cache").iterdir()] == [".lock"]
    assert len(open_photos(tmp_path).images) == 30


OPEN = """
import sys, time, config, main
from datasets import conversion, dataset
whole = conversion.read_chunk
def read_chunk(*arguments):
    print("reading", flush=True)
    time.sleep(float(sys.argv[2]))
    return whole(*arguments)
conversion.read_chunk = read_chunk
flags = config.Config(dataset="photos", data_dir=sys.argv[1], output_height=8)
print(dataset.load(dataset.source_of(flags)).facts.pixels)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_two_programs_that_start_together_share_one_conversion(start, tmp_path, kind):
    write_photos(tmp_path, count=300)
    pack(tmp_path / "photos", kind)
    words = [sys.executable, "-c", OPEN, tmp_path, "0.01"]
    both = [start(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    screens = [process.communicate(timeout=PATIENCE)[0].split() for process in both]
    assert sorted(screen[0].startswith("reading") for screen in screens) == [False, True]
    assert len({screen[-1] for screen in screens}) == 1 and len(screens[0][-1]) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversion_that_is_killed_is_done_again(start, tmp_path, kind):
    write_photos(tmp_path, count=300)
    whole = open_photos(tmp_path, cache_dir=str(tmp_path / "other"))
    pack(tmp_path / "photos", kind)
    words = [sys.executable, "-c", OPEN, tmp_path, "3"]
    process = start(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("reading")  # other threads print, too
    process.kill()
    process.wait()
    assert {path.suffix for path in (tmp_path / ".cache").iterdir()} == {".lock", ".tmp"}
    found = open_photos(tmp_path)
    assert found.digest == whole.digest
    assert_array_equal(found.images, whole.images)
    assert {path.suffix for path in (tmp_path / ".cache").iterdir()} == {".lock", ""}


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
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (12, 12)).save(tmp_path / "photos" / "a.JPG")
    with pytest.raises(Refused, match=r"try --input_fname_pattern '\*\.JPG'"):
        open_photos(tmp_path)


def test_the_manifest_tells_settings_and_another_time_of_a_file(tmp_path):
    write_photos(tmp_path, count=20)
    open_photos(tmp_path, crop=True, input_height=10)
    (path,) = (tmp_path / ".cache").glob("photos-*/manifest.json")
    first = json.loads(path.read_text())
    expected = {"source": str(tmp_path / "photos"), "pattern": "*.jpg", "size": [8, 8]}
    assert first["wanted"] == expected | {"crop": [10, 10], "files": first["wanted"]["files"]}
    file = tmp_path / "photos" / "0000.jpg"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    open_photos(tmp_path, crop=True, input_height=10)
    second = json.loads(path.read_text())
    assert second["digest"] == first["digest"]
    assert second["written"] != first["written"]
    assert second["wanted"]["files"] != first["wanted"]["files"]


def test_a_full_memory_makes_no_bad_file(here, tmp_path, monkeypatch):
    write_photos(tmp_path / "data")
    read_image = image_file.read_image

    def fail(path, *arguments):
        if path.name == "0007.jpg":
            raise MemoryError
        return read_image(path, *arguments)

    monkeypatch.setattr(image_file, "read_image", fail)
    code, _, errors = here(f"--train {SMALL} --max_iterations 1")
    assert code == 1 and errors.startswith("main.py: out of memory") and errors.count("\n") == 1
    assert [path.suffix for path in (tmp_path / "data/.cache").iterdir()] == [".lock"]
    monkeypatch.undo()
    assert len(open_photos(tmp_path / "data").images) == 30


# Files that harm.

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A stand-in for Ghostscript on the path; returns the file that it makes when it is started."""
    started = tmp_path / "started"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text(f"#!/bin/sh\ntouch '{started}'\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # Pillow looks for it once
    return started


def test_postscript_in_an_image_file_starts_no_program(tmp_path, ghostscript):
    write_photos(tmp_path)
    for path in (tmp_path / "photos/x.jpg", tmp_path / "train_00_0000.png"):
        path.write_bytes(POSTSCRIPT)
    assert len(open_photos(tmp_path).images) == 30
    with pytest.raises(Refused, match=r"train_00_0000\.png: cannot be read"):
        utils.write_training_gif(tmp_path)
    assert not ghostscript.exists()
    bad_files = next((tmp_path / ".cache").glob("*/bad_files.txt"))
    assert bad_files.read_text().startswith("x.jpg: UnidentifiedImageError")
    with pytest.raises(OSError), Image.open(tmp_path / "photos/x.jpg") as image:
        image.load()
    assert ghostscript.exists()  # the trap works
