"""LSUN's databases: classes, held-out images, and what is refused."""

import sys

import lmdb
import numpy as np
import pytest
from archives import bad_files, files, jpg, load, write_database
from conftest import assert_refused
from numpy.testing import assert_array_equal

from system.errors import Refused


def test_several_databases_are_classes_and_parts(tmp_path):
    folder = tmp_path / "photos"
    for name, first in (("a-b", 0), ("a", 10), ("c", 20)):
        write_database(folder / f"{name}_train_lmdb", {f"{i}": jpg(first) for i in range(10)})
    write_database(folder / "c_val_lmdb", {f"{i}": jpg(30) for i in range(3)})
    write_database(folder / "a_val_lmdb", {f"{i}": jpg(40) for i in range(2)})
    (folder / "README").touch()
    data = load(tmp_path)
    assert data.facts.class_names == ("a", "a-b", "c")
    assert_array_equal(data.labels, [1] * 10 + [0] * 10 + [2] * 10 + [0] * 2 + [2] * 3)
    assert_array_equal(data.held_out, range(30, 35))
    assert_array_equal(np.sort(data.train), range(30))
    shades = np.repeat([0, 10, 20, 40, 30], [10, 10, 10, 2, 3])
    assert_array_equal(data.images.mean(axis=(1, 2, 3)), shades)
    assert data.facts.shape == (8, 8, 3) and data.facts.label_counts == (10, 10, 10)


def test_one_class_and_its_held_out_images_have_no_labels(tmp_path):
    write_database(tmp_path / "photos/bedroom_train_lmdb", files())
    alone = load(tmp_path)
    write_database(tmp_path / "photos/bedroom_val_lmdb", files(2))
    data = load(tmp_path)
    assert alone.labels is data.labels is None and len(data.train) == 30
    assert len(alone.held_out) == 16 and len(data.held_out) == 2
    assert data.facts.pixels != alone.facts.pixels


def test_which_images_a_data_set_holds_out_is_part_of_what_it_is(tmp_path):
    images = list(files(32).values())
    shuffled = {f"{i:02d}": image for i, image in enumerate(images)}
    write_database(tmp_path / "one/photos", shuffled)
    first, last = dict(list(shuffled.items())[:16]), dict(list(shuffled.items())[16:])
    write_database(tmp_path / "two/photos/a_train_lmdb", first)
    write_database(tmp_path / "two/photos/a_val_lmdb", last)
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    assert_array_equal(one.images, two.images)
    assert one.facts.held_out == two.facts.held_out == 16
    assert one.facts.pixels != two.facts.pixels


@pytest.mark.parametrize("part", ["a_val_lmdb", "b_train_lmdb"])
def test_an_empty_database_is_refused(tmp_path, part):
    write_database(tmp_path / "photos/a_train_lmdb", files())
    write_database(tmp_path / "photos" / part, {})
    with pytest.raises(Refused, match=rf"{part}: data\.mdb holds no images; fetch it again"):
        load(tmp_path)


def test_held_out_images_that_are_all_bad_are_not_replaced_by_others(tmp_path):
    write_database(tmp_path / "photos/a_train_lmdb", files(100))
    write_database(tmp_path / "photos/a_val_lmdb", {"0": b"rubbish", "1": b"more"})
    with pytest.raises(Refused, match="photos: all 2 held-out images are bad files; fetch them"):
        load(tmp_path)


@pytest.mark.parametrize(
    "folders, message",
    [
        (("a_train_lmdb", "test_lmdb"), r"test_lmdb: expected the names <class>_train_lmdb"),
        (("a_val_lmdb", "b_val_lmdb"), r"a_val_lmdb: expected the names <class>_train_lmdb"),
        (("a_train_lmdb", "b_val_lmdb"), r"b_val_lmdb: expected the names <class>_train_lmdb"),
    ],
)
def test_databases_of_other_names_are_refused(tmp_path, folders, message):
    for name in folders:
        write_database(tmp_path / "photos" / name, files(2))
    with pytest.raises(Refused, match=message):
        load(tmp_path)


def test_databases_are_opened_without_a_trace(tmp_path):
    write_database(tmp_path / "photos/a_train_lmdb", files())
    folder = tmp_path / "photos/a_train_lmdb"
    (folder / "lock.mdb").unlink(missing_ok=True)
    before = {path: path.stat() for path in folder.iterdir()}
    load(tmp_path)
    after = {path: path.stat() for path in folder.iterdir()}
    assert [p.name for p in after] == ["data.mdb"]
    assert [s.st_mtime_ns for s in after.values()] == [s.st_mtime_ns for s in before.values()]


def test_keys_of_any_bytes_are_read(tmp_path):
    (tmp_path / "photos").mkdir()
    with (
        lmdb.open(str(tmp_path / "photos"), map_size=1 << 22, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for i, image in enumerate([*files(30).values(), b"rubbish"]):
            transaction.put(b"\xff/\x00\n%02d" % i, image)
    assert len(load(tmp_path).images) == 30
    text = "\\udcff/\\x00\\n30: UnidentifiedImageError: cannot identify image file it\n"
    assert bad_files(tmp_path) == text


def test_a_damaged_database_is_refused(tmp_path):
    write_database(tmp_path / "photos", files())
    path = tmp_path / "photos/data.mdb"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    with pytest.raises(Refused, match=r"photos/data\.mdb: cut short; fetch it again"):
        load(tmp_path)
    for content in (b"", b"rubbish" * 1000):
        path.write_bytes(content)
        with pytest.raises(Refused, match=r"photos: cannot be opened \(.*\); fetch it again"):
            load(tmp_path)
    content = bytearray(whole)
    content[2 * 4096 : 3 * 4096] = bytes(4096)  # a page behind the two that tell of all
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"photos/data\.mdb: damaged \(.*\); fetch it again"):
        load(tmp_path)
    assert not list((tmp_path / ".cache").glob("*.tmp"))
    path.unlink()
    write_database(tmp_path / "photos", {})
    with pytest.raises(Refused, match=r"photos: data\.mdb holds no images"):
        load(tmp_path)


def test_without_the_package_one_line_says_what_to_install(here, tmp_path, monkeypatch):
    write_database(tmp_path / "data/photos/bedroom_train_lmdb", files())
    words = "--train --dataset photos --output_height 8"
    monkeypatch.setitem(sys.modules, "lmdb", None)
    for more in ("", " --dry_run"):
        message = "bedroom_train_lmdb: the package lmdb is missing: pip"
        assert_refused(here, words + more, message, "install -r requirements-lmdb.txt")
    monkeypatch.undo()
    load(tmp_path / "data")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert len(load(tmp_path / "data").images) == 30  # converted already
