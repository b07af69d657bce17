"""Data sets: what is read, what is held out, what is refused."""

import math
import shutil

import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_array_equal
from PIL import Image

import config as flags
from datasets import dataset
from system.errors import Refused


def load(data_dir, train_size=math.inf, **values):
    source = dataset.source_of(flags.Config(data_dir=str(data_dir), **values))
    return dataset.load(source, train_size)


def test_test_digits_are_never_in_training():
    data = load(ROOT / "data")
    assert_array_equal(np.sort(data.train), np.arange(60000))
    assert_array_equal(data.held_out, np.arange(60000, 70000))


def test_a_flat_folder_has_no_labels_and_class_folders_give_them(image_folder):
    flat = load(image_folder("flat"), dataset="flat", output_height=12)
    assert flat.labels is None and flat.facts.class_names == ()
    data_dir = image_folder("sorted", classes=3)
    data = load(data_dir, dataset="sorted", output_height=12)
    assert data.facts.class_names == ("class0", "class1", "class2")
    files = sorted((data_dir / "sorted").glob("*/*.jpg"), key=str)
    for file, image, label in zip(files, data.images, data.labels, strict=True):
        assert file.parent.name == f"class{label}"
        assert_array_equal(np.asarray(Image.open(file)), image)


@pytest.mark.parametrize(("count", "held_out"), [(60, 16), (359, 17)])
def test_a_folder_holds_16_images_or_5_percent_out(image_folder, count, held_out):
    data = load(image_folder("photos", count=count), dataset="photos", output_height=4)
    assert len(data.held_out) == held_out and not np.intersect1d(data.held_out, data.train).size
    assert_array_equal(np.sort(np.concatenate([data.held_out, data.train])), np.arange(count))


def test_train_size_takes_the_first_of_the_same_permutation(image_folder):
    data_dir = image_folder("photos", count=60)
    whole = load(data_dir, dataset="photos", output_height=4)
    part = load(data_dir, dataset="photos", output_height=4, train_size=20)
    assert_array_equal(part.train, whole.train[:20])
    assert_array_equal(part.held_out, whole.held_out)
    assert part.facts.fingerprint == whole.facts.fingerprint


def test_shrinking_is_antialiased_and_nothing_is_stretched(tmp_path):
    (tmp_path / "lines").mkdir()
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[:, ::2] = 200
    for i in range(30):
        Image.fromarray(stripes).save(tmp_path / "lines" / f"{i}.png")
    data = load(tmp_path, dataset="lines", output_height=48, input_fname_pattern="*.png")
    centre = data.images[0, 10:-10, 10:-10]
    assert centre.min() >= 95 and centre.max() <= 105  # the mean of 0 and 200


def test_grey_files_give_one_channel_and_a_single_colour_file_three(image_folder, tmp_path):
    data_dir = tmp_path / "data"
    (data_dir / "grey").mkdir(parents=True)
    for i in range(40):
        Image.new("L", (8, 8), i).save(data_dir / "grey" / f"{i:02d}.png")
    values = {"dataset": "grey", "output_height": 8, "input_fname_pattern": "*.png"}
    assert load(data_dir, **values).facts.shape == (8, 8, 1)
    Image.new("RGB", (8, 8), (9, 0, 0)).save(data_dir / "grey" / "99.png")
    assert load(data_dir, **values).facts.shape == (8, 8, 3)


def test_the_fingerprint_follows_names_pixels_labels_and_settings(image_folder, tmp_path):
    data_dir = image_folder("photos", count=40, classes=2)
    values = {"dataset": "photos", "output_height": 12}
    first = load(data_dir, **values).facts.fingerprint
    assert load(data_dir, **values).facts.fingerprint == first
    moved = tmp_path / "elsewhere"
    shutil.copytree(data_dir, moved)
    assert load(moved, **values).facts.fingerprint == first
    assert load(data_dir, **values | {"output_height": 10}).facts.fingerprint != first
    assert load(data_dir, **values, crop=True, input_height=12).facts.fingerprint != first
    file = next((data_dir / "photos" / "class0").glob("*.jpg"))
    file.rename(data_dir / "photos" / "class1" / file.name)
    assert load(data_dir, **values).facts.fingerprint != first


def test_bad_folders_are_refused(image_folder, tmp_path):
    with pytest.raises(Refused, match="there is no folder"):
        load(tmp_path, dataset="nowhere")
    data_dir = image_folder("photos", count=30)
    with pytest.raises(Refused, match=r"no file there is called"):
        load(data_dir, dataset="photos", input_fname_pattern="*.png")
    with pytest.raises(Refused, match="smaller than the crop of 20x20"):
        load(data_dir, dataset="photos", crop=True, input_height=20)
    for name in ("000.jpg", "001.jpg"):
        (data_dir / "photos" / name).write_bytes(b"no image")
    with pytest.raises(Refused, match=r"2 of 30 files cannot be used, as 000\.jpg"):
        load(data_dir, dataset="photos")
    (data_dir / "photos" / "some").mkdir()
    (data_dir / "photos" / "000.jpg").rename(data_dir / "photos" / "some" / "000.jpg")
    with pytest.raises(Refused, match=r"001\.jpg lies beside or below the class folders"):
        load(data_dir, dataset="photos")
