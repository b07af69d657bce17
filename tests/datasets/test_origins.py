"""Folders, zip archives and databases: where images come from changes no pixel and no label."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from archives import (
    bad_files,
    files,
    jpg,
    load,
    pack,
    source,
    write_database,
    write_folder,
    write_zip,
    zip_folder,
)
from conftest import assert_refused
from numpy.testing import assert_array_equal
from tqdm import tqdm

from datasets import conversion, databases, dataset, published
from run import dry_run
from system.errors import Refused


def wrap(folder):
    """Put all that is in a folder into a single one in it."""
    folder.rename(folder.with_name("x"))
    folder.mkdir()
    folder.with_name("x").rename(folder / "img_align")


def zip_inside(folder):
    """Leave of a folder only a zip archive in it."""
    zip_folder(folder, folder.parent / "x.ZIP")
    folder.mkdir()
    (folder.parent / "x.ZIP").rename(folder / "any name.ZIP")


FORMS = {
    "folder in folder": wrap,
    "zip": lambda folder: pack(folder, "zip"),
    "zip in folder": zip_inside,
    "folder in zip": lambda folder: zip_folder(folder, Path(f"{folder}.zip"), "img_align/"),
    "databases": lambda folder: pack(folder, "lmdb"),
}


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_pixels_and_labels_of_the_folder(image_folder, form, classes):
    data_dir = image_folder(classes=classes)
    folder = load(data_dir)
    FORMS[form](data_dir / "photos")
    found = load(data_dir)
    assert found.facts.pixels == folder.facts.pixels
    assert_array_equal(found.images, folder.images)
    assert_array_equal(found.held_out, folder.held_out)
    assert_array_equal(found.train, folder.train)
    assert found.facts.class_names == folder.facts.class_names
    assert found.facts.image_files == (form != "databases")
    if classes:
        assert_array_equal(found.labels, folder.labels)
    assert load(data_dir).facts == found.facts  # as it is opened again
    assert found.facts.fingerprint != folder.facts.fingerprint


def test_a_run_goes_on_with_a_zip_of_its_folder_after_one_line(here, folder, still):
    words = "--train --data_dir data --dataset photos --output_height 8 --batch_size 8"
    words += " --arch symmetric --sample_every 20 --save_every 20 --log_every 10"
    pictures = sorted(Path("samples").iterdir())
    settings = json.loads((folder / "config.json").read_text())
    pack(Path("data/photos"), "zip")
    for end in (41, 42):
        code, screen, errors = here(f"{words} --max_iterations {end}")
        assert (code, errors) == (0, "")
        assert screen.count("images are the same, but come from other files: it goes on\n") == 1
        assert f"Going on from iteration {end - 1}" in screen
    after = json.loads((folder / "config.json").read_text())
    assert after["data"] == settings["data"]
    assert set(pictures) <= set(Path("samples").iterdir())


# What is taken, and what is refused.

HIDDEN = ("__MACOSX/._000.jpg", ".thumbs/a.jpg", ".hidden.jpg", "__MACOSX/photos/1.jpg")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_systems_leave_behind_is_no_image_and_no_class(tmp_path, kind):
    write_folder(tmp_path / "photos", files() | dict.fromkeys(HIDDEN, b"x"))
    pack(tmp_path / "photos", kind)
    data = load(tmp_path)
    assert len(data.images) == 30 and data.labels is None


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_pattern_applies_to_the_files_inside_and_one_that_would_match_is_named(tmp_path, kind):
    write_folder(tmp_path / "photos", files(name="in/{}.JPG"))
    write_folder(tmp_path / "photos", {"in/0.txt": b"", "other/8.jpg": jpg()})
    pack(tmp_path / "photos", kind)
    assert len(load(tmp_path, input_fname_pattern="*.JPG").images) == 30
    message = r"photos.*: no file there is called \*\.png; try --input_fname_pattern '\*\.JPG'"
    with pytest.raises(Refused, match=message):
        load(tmp_path, input_fname_pattern="*.png")


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "deep, message",
    [
        (
            {"a/b/1.jpg": b""},
            r"a/b/1\.jpg lies beside or below the class folders; .* <class>/<file>",
        ),
        ({"1.jpg": b""}, r"1\.jpg lies beside or below the class folders"),
    ],
)
def test_images_below_or_beside_class_folders_are_refused(tmp_path, kind, deep, message):
    write_folder(tmp_path / "photos", files(name="a/{}.jpg") | {"c/1.jpg": b""} | deep)
    pack(tmp_path / "photos", kind)
    with pytest.raises(Refused, match=message):
        load(tmp_path)


ODD = "\x1b[31m\n\u202e"
SHOWN = r"\x1b[31m\n\u202e"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_names_reach_neither_the_screen_nor_bad_files_raw(here, tmp_path, kind):
    bad = dict.fromkeys((f"0{ODD}.jpg", "1\n2.jpg"), b"rubbish")
    write_folder(tmp_path / "data/photos", files(40) | bad)
    pack(tmp_path / "data/photos", kind)
    assert len(load(tmp_path / "data").images) == 40
    rows = bad_files(tmp_path / "data").splitlines()
    assert [row.split(":")[0] for row in rows] == [f"0{SHOWN}.jpg", r"1\n2.jpg"]
    words = "--train --data_dir more --output_height 8 --dataset"
    refused = {
        "loose": files(name="a/{}.jpg") | {f"{ODD}.jpg": b""},
        "deep": files(name="a/{}.jpg") | {f"b/{ODD}/0.jpg": b""},
        "rubbish": {f"{ODD}{i}.jpg": b"" for i in range(20)},
        "table": {f"{ODD}.jpg": jpg()} | table([]) | table([["x", 0]]),
    }
    for name, members in refused.items():
        write_folder(tmp_path / "more" / name, members)
        pack(tmp_path / "more" / name, kind)
        assert_refused(here, f"{words} {name}", SHOWN)


@pytest.mark.parametrize("kind", ["zip", "lmdb"])
def test_names_reach_no_progress_bar_raw(tmp_path, monkeypatch, capsys, kind):
    if kind == "zip":
        write_zip(tmp_path / f"photos/{ODD}.zip", files())
    else:
        write_database(tmp_path / f"photos/{ODD}", files())

    def shown(*arguments, **options):
        return tqdm(*arguments, **options | {"disable": False})

    for module in (conversion, databases):
        monkeypatch.setattr(module, "tqdm", shown)
    load(tmp_path)
    bars = capsys.readouterr().err
    assert SHOWN in bars and ODD not in bars


def test_classes_whose_names_differ_only_in_unicode_form_are_refused(tmp_path):
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    write_zip(
        tmp_path / "zip/photos.zip", files(1, f"{one}/{{}}.jpg") | files(1, f"{other}/{{}}.jpg")
    )
    write_folder(tmp_path / "folder/photos", files(1, f"{one}/{{}}.jpg"))
    write_folder(tmp_path / "folder/photos", files(1, f"{other}/{{}}.jpg"))
    for name in (one, other):
        write_database(tmp_path / f"lmdb/photos/{name}_train_lmdb", files(1))
    message = f"{other} and {one} differ only in Unicode form; rename one"
    for place in ("zip", "folder", "lmdb"):
        with pytest.raises(Refused, match=rf"{place}/photos.*: {message}"):
            load(tmp_path / place)


def test_a_link_to_a_folder_around_it_is_not_followed(tmp_path):
    write_folder(tmp_path / "photos", files(name="a/{}.jpg") | files(name="b/{}.jpg"))
    (tmp_path / "photos/a/again").symlink_to("..")
    (tmp_path / "more").mkdir()
    write_folder(tmp_path / "more", files())
    (tmp_path / "photos/c").symlink_to(tmp_path / "more")
    data = load(tmp_path)
    assert data.facts.class_names == ("a", "b", "c") and len(data.images) == 90


PLACES = {
    "photos.zip": lambda path: write_zip(path, files()),
    "photos": lambda path: path.mkdir(parents=True),
    "photos/one.zip": lambda path: write_zip(path, files()),
    "photos/two.zip": lambda path: write_zip(path, files()),
    "photos/000.jpg": lambda path: write_folder(path.parent, files()),
    "photos/in/000.png": lambda path: write_folder(path.parent, files(name="{:03d}.png")),
    "photos/data.mdb": lambda path: write_database(path.parent, files()),
    "photos/a_train_lmdb": lambda path: write_database(path, files()),
}


@pytest.mark.parametrize(
    "one, other",
    [
        ("photos.zip", "photos"),
        ("photos/one.zip", "photos/two.zip"),
        ("photos/one.zip", "photos/000.jpg"),
        ("photos/one.zip", "photos/in/000.png"),
        ("photos/one.zip", "photos/a_train_lmdb"),
        ("photos/a_train_lmdb", "photos/in/000.png"),
    ],
)
def test_of_two_places_none_is_chosen_and_both_are_named(here, tmp_path, one, other):
    for name in (one, other):
        PLACES[name](tmp_path / "data" / name)
    words = "--train --dataset photos --output_height 8"
    for more in ("", " --dry_run"):
        assert_refused(here, words + more, f"data/{one} and data/{other}: both are there; move one")
    assert not (tmp_path / "data/.cache").exists()


def test_an_archive_of_a_published_set_is_not_downloaded_over(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "download", None)
    archive = write_zip(tmp_path / "cifar10.zip", files(name="a/{}.jpg") | files(name="b/{}.jpg"))
    assert load(tmp_path, dataset="cifar10").facts.class_names == ("a", "b")
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(Refused, match="both are there"):
        load(tmp_path, dataset="cifar10")
    archive.rename(tmp_path / "cifar10" / "a.zip")
    assert load(tmp_path, dataset="cifar10").facts.class_names == ("a", "b")


def test_an_archive_beside_a_published_set_is_not_passed_over(tmp_path):
    write_zip(tmp_path / "mnist.zip", files())
    write_folder(tmp_path / "mnist", {"train-images-idx3-ubyte": b""})
    for read in (dataset.load, dry_run.load_data):
        with pytest.raises(Refused, match=r"mnist\.zip and .*mnist: both are there"):
            read(source(tmp_path, dataset="mnist"), np.inf)


# dataset.json.


def table(labels):
    return {"dataset.json": json.dumps({"labels": labels}).encode()}


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("around", ["", "around/"])
def test_a_table_as_stylegans_gives_the_labels_and_folders_do_not(tmp_path, kind, around):
    members = files(20, "00000/img{:03d}.jpg") | files(20, "00001/img{:03d}.jpg")
    members |= table([[name, 7 - 2 * (i % 3)] for i, name in enumerate(members)] + [["x", 9]])
    write_folder(tmp_path / "photos", {around + name: value for name, value in members.items()})
    write_folder(tmp_path / "photos", {"__MACOSX/x.jpg": b""})
    pack(tmp_path / "photos", kind)
    for pattern in ("*.jpg", "*"):
        data = load(tmp_path, input_fname_pattern=pattern)
        assert data.facts.class_names == ("3", "5", "7") and len(data.images) == 40
        assert_array_equal(data.labels, [2 - i % 3 for i in range(40)])


@pytest.mark.parametrize(
    "content, classes", [(table(None), ()), (table([]), ()), ({"dataset.json": b"[1]"}, ("a", "b"))]
)
def test_a_table_without_labels_gives_none_and_other_json_is_left_alone(tmp_path, content, classes):
    members = files(name="a/{}.jpg") | files(name="b/{}.jpg") | content
    write_zip(tmp_path / "photos.zip", members)
    assert load(tmp_path).facts.class_names == classes


@pytest.mark.parametrize(
    "content, message",
    [
        (table([["000.jpg", 0]]), r"dataset\.json: no label for 001\.jpg; expected a whole number"),
        (table([[name, 0.5] for name in files()]), r"dataset\.json: the label 0\.5 for 000\.jpg"),
        (table([[name, True] for name in files()]), "the label True"),
        (table([[name, -1] for name in files()]), "the label -1"),
        (table(["000.jpg"]), r'dataset\.json: expected \{"labels": \[\["name", 0\]'),
        (table({"000.jpg": 0}), "expected"),
        (table([[0, 0]]), "expected"),
        (table(3), "expected"),
        (table(0), "expected"),
        ({"dataset.json": b'{"labels": [["0'}, r"dataset\.json: no JSON can be read"),
        ({"dataset.json": b"[" * 100_000}, r"dataset\.json: no JSON can be read"),
        ({"dataset.json": b"\xff\xfe\xfd"}, r"dataset\.json: no JSON can be read"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_table_that_is_wrong_is_refused_by_name(tmp_path, content, message, kind):
    write_folder(tmp_path / "photos", files() | content)
    pack(tmp_path / "photos", kind)
    with pytest.raises(Refused, match=message) as refusal:
        load(tmp_path)
    assert "\n" not in str(refusal.value)


# Reuse, and trials.


@pytest.mark.parametrize("kind", ["zip", "lmdb"])
def test_an_archive_is_known_again_by_size_and_time_and_not_read(image_folder, kind):
    data_dir = image_folder()
    pack(data_dir / "photos", kind)
    first = load(data_dir).facts
    path = data_dir / {"zip": "photos.zip", "lmdb": "photos/data.mdb"}[kind]
    status, content = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(content)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load(data_dir).facts == first
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(Refused, match="fetch it again"):
        load(data_dir)
    path.write_bytes(content)
    assert load(data_dir).facts == first


@pytest.mark.parametrize("kind", ["folder", "zip", "lmdb"])
def test_a_trial_knows_what_a_training_will_and_writes_nothing(image_folder, capsys, kind):
    data_dir = image_folder(classes=2, count=400)
    pack(data_dir / "photos", kind)
    names = {path for path in data_dir.rglob("*") if path.name != "lock.mdb"}
    tried = dry_run.load_data(source(data_dir), np.inf).facts
    assert "for 400 files" in capsys.readouterr().out
    assert {path for path in data_dir.rglob("*") if path.name != "lock.mdb"} == names
    known = load(data_dir).facts
    for name in ("shape", "available", "held_out", "class_names", "image_files"):
        assert getattr(tried, name) == getattr(known, name)
    assert dry_run.load_data(source(data_dir), np.inf).facts == known
