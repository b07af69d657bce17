"""MNIST, Fashion-MNIST and CIFAR-10 in every published form; nothing that a file brings is run."""

import contextlib
import gzip
import hashlib
import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_array_equal

import config as flags
from datasets import dataset, published
from system.errors import Refused


def write_idx(path, array, magic=8, cut=0):
    header = bytes([0, 0, magic, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.astype(np.uint8).tobytes()
    content = content[: len(content) - cut]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def load(data_dir, **values):
    return dataset.load(dataset.source_of(flags.Config(data_dir=str(data_dir), **values)))


@pytest.fixture
def mnist(tmp_path):
    """A small data set in MNIST's format, with 40 training and 20 test digits."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    write_idx(folder / "train-images-idx3-ubyte", rng.integers(0, 256, (40, 28, 28)))
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(40) % 10)
    write_idx(folder / "t10k-images-idx3-ubyte", rng.integers(0, 256, (20, 28, 28)))
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(20) % 10)
    return folder


def test_the_shipped_mnist_is_the_canonical_one():
    data = load(ROOT / "data")
    assert data.images.shape == (70000, 28, 28, 1) and data.images.dtype == np.uint8
    assert (data.facts.available, data.facts.held_out) == (60000, 10000)
    assert data.facts.label_counts[:3] == (5923, 6742, 5958)
    # Sum of all pixels of the 60,000 training digits, and the first ten labels of both parts.
    assert int(data.images[:60000].sum(dtype=np.int64)) == 1567298545
    assert data.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.labels[60000:60010].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_mnist_is_found_under_both_names_gzipped_or_not(mnist):
    plain = load(mnist.parent)
    for part in published.IDX_PARTS:
        path = mnist / f"{part}-ubyte"
        dotted = mnist / f"{part.replace('-idx', '.idx')}-ubyte"
        path.rename(dotted)
    assert_array_equal(load(mnist.parent).images, plain.images)
    for part in published.IDX_PARTS:
        dotted = mnist / f"{part.replace('-idx', '.idx')}-ubyte"
        dotted.with_name(dotted.name + ".gz").write_bytes(gzip.compress(dotted.read_bytes()))
        dotted.unlink()
    assert_array_equal(load(mnist.parent).images, plain.images)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-5]), "not a whole IDX file .cannot reshape"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "not a whole IDX file .cannot reshape"),
        (lambda p: p.write_bytes(b"\0\0\x0d\3" + p.read_bytes()[4:]), "magic number 00000d03"),
        (lambda p: p.write_bytes(b""), "magic number , expected 00000803"),
        (lambda p: p.write_bytes(gzip.compress(p.read_bytes())[:-50]), "not a whole IDX file"),
        (lambda p: p.unlink(), "lacks train-images-idx3-ubyte.gz; put them there"),
    ],
)
def test_a_damaged_idx_file_is_refused_by_name(mnist, damage, message):
    damage(mnist / "train-images-idx3-ubyte")
    with pytest.raises(Refused, match=message) as refusal:
        load(mnist.parent)
    assert "train-images" in str(refusal.value)


def test_labels_that_do_not_fit_their_images_are_refused(mnist):
    write_idx(mnist / "train-labels-idx1-ubyte", np.arange(39) % 10)
    with pytest.raises(Refused, match="39 labels for 40 images"):
        load(mnist.parent)
    write_idx(mnist / "train-labels-idx1-ubyte", np.arange(40))
    with pytest.raises(Refused, match="label 39"):
        load(mnist.parent)


def test_unzipping_mnist_makes_no_other_run_of_it(mnist):
    first = load(mnist.parent).facts.fingerprint
    for path in list(mnist.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert load(mnist.parent).facts.fingerprint == first


@pytest.mark.parametrize(
    "shape, message",
    [
        ((20, 14, 14), r"of \(14, 14, 1\); .* images of \(28, 28, 1\)"),
        ((0, 28, 28), "20 labels for 0 images"),
        ((20, 0, 28), r"20 images of \(0, 28, 1\)"),
        ((20, *[1] * 100), "magic number 00000865, expected 00000803"),
        ((20,), "magic number 00000801, expected 00000803"),
    ],
)
def test_test_digits_of_another_shape_are_refused(mnist, shape, message):
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    (mnist / "t10k-images-idx3-ubyte").write_bytes(header + bytes(int(np.prod(shape))))
    write_idx(mnist / "t10k-labels-idx1-ubyte", np.zeros(20))
    with pytest.raises(Refused, match=message):
        load(mnist.parent)


def test_mnist_can_have_another_size(mnist):
    data = load(mnist.parent, output_height=32, output_width=20)
    assert data.images.shape == (60, 32, 20, 1)
    cropped = load(mnist.parent, crop=True, input_height=20, output_height=20)
    assert_array_equal(cropped.images, load(mnist.parent).images[:, 4:24, 4:24])


# CIFAR-10, with batches of 20 images.


class Python2Pickler(pickle._Pickler):
    """Writes byte strings as Python 2 did, which made the official batches."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, string):
        self.write(pickle.BINSTRING + len(string).to_bytes(4, "little") + string)
        self.memoize(string)

    dispatch[bytes] = save_string


def pickled(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batches():
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (6, 20, 3072), dtype=np.uint8)
    labels = np.arange(120).reshape(6, 20) % 10
    return dict(zip(published.CIFAR_BATCHES, zip(rows, labels, strict=True), strict=True))


def pickle_files():
    return {
        name: pickled({b"data": rows, b"labels": labels.tolist(), b"batch_label": b"x"})
        for name, (rows, labels) in batches().items()
    }


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_archive(path, sub, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{sub}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def genuine(monkeypatch):
    """Return a function that makes the given batches, and an archive of them, the official ones."""

    def declare(files, archive=None):
        for name, content in files.items():
            monkeypatch.setitem(published.CIFAR_BATCHES, name, hashlib.md5(content).hexdigest())
        if archive:
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
            monkeypatch.setitem(published.DIGESTS, published.CIFAR_ARCHIVE, digest)

    return declare


FORMS = {
    "python": lambda f: write_files(f, pickle_files()),
    "python in its folder": lambda f: write_files(f / "cifar-10-batches-py", pickle_files()),
    "python archive": lambda f: write_archive(
        f / published.CIFAR_ARCHIVE, "cifar-10-batches-py", pickle_files()
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_cifar10_is_the_same_in_every_official_form(tmp_path, genuine, form):
    folder = tmp_path / "cifar10"
    FORMS[form](folder)
    archive = folder / published.CIFAR_ARCHIVE
    genuine(pickle_files(), archive if archive.exists() else None)
    data = load(tmp_path, dataset="cifar10", output_height=32)
    assert data.images.shape == (120, 32, 32, 3) and data.facts.class_names[3] == "cat"
    rows, labels = batches()["data_batch_2"]
    assert_array_equal(data.images[20, 5, 7], rows[0, [5 * 32 + 7 + 1024 * c for c in range(3)]])
    assert_array_equal(data.labels[20:40], labels)
    assert_array_equal(data.held_out, np.arange(100, 120))  # the test batch
    assert_array_equal(np.sort(data.train), np.arange(100))
    write_files(tmp_path / "other" / "cifar10", pickle_files())
    other = load(tmp_path / "other", dataset="cifar10", output_height=32)
    assert data.facts.fingerprint == other.facts.fingerprint


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("declared, message", [(False, "can run anything"), (True, "mkdir")])
def test_no_pickle_runs_anything_not_even_one_with_the_right_digest(
    tmp_path, genuine, declared, message
):
    files = pickle_files() | {"data_batch_1": pickled(Trap(tmp_path / "sprung"))}
    write_files(tmp_path / "cifar10", files)
    if declared:
        genuine(files)
    with pytest.raises(Refused, match=message):
        load(tmp_path, dataset="cifar10", output_height=32)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(files["data_batch_1"])
    assert (tmp_path / "sprung").exists()  # the trap works


def test_an_archive_of_pickles_is_opened_only_when_its_sha256_is_the_official_one(
    tmp_path, genuine, monkeypatch
):
    archive = tmp_path / "cifar10" / published.CIFAR_ARCHIVE
    write_archive(archive, "cifar-10-batches-py", pickle_files())
    genuine(pickle_files())
    monkeypatch.setattr(published.tarfile, "open", None)
    with pytest.raises(Refused, match=r"not the official archive \(sha256 .*\); fetch it"):
        load(tmp_path, dataset="cifar10", output_height=32)


def test_incomplete_batches_are_missing_and_damaged_ones_are_refused_by_name(tmp_path, genuine):
    folder, files = tmp_path / "cifar10", pickle_files()
    write_files(folder, files)
    genuine(files)
    (folder / "data_batch_4").unlink()
    missing = published.missing_files("cifar10", folder)
    assert missing == [published.CIFAR_ARCHIVE]
    (folder / "data_batch_4").write_bytes(files["data_batch_4"][:-1])
    with pytest.raises(Refused, match="data_batch_4: not the official batch"):
        load(tmp_path, dataset="cifar10")


@pytest.mark.parametrize(
    "batch, message",
    [
        ({b"data": np.zeros((20, 3072), np.uint8), b"labels": [1] * 19}, "19 labels for 20 images"),
        ({b"data": np.zeros((20, 3072), np.uint8), b"labels": [120] * 20}, "the label 120"),
    ],
)
def test_a_batch_that_is_none_is_refused_by_name(tmp_path, genuine, batch, message):
    files = pickle_files() | {"data_batch_4": pickled(batch)}
    write_files(tmp_path / "cifar10", files)
    genuine(files)
    with pytest.raises(Refused, match=f"data_batch_4: .*{message}"):
        load(tmp_path, dataset="cifar10")


def test_class_folders_of_cifar10_are_a_folder_like_any_other(image_folder):
    data = load(image_folder("cifar10", classes=3), dataset="cifar10", output_height=12)
    assert data.facts.class_names == ("class0", "class1", "class2") and data.facts.image_files


# Download.


def fetch_from(shelf, asked):
    """Make a stand-in for Keras' downloader that takes files from a folder."""

    def get_file(name, origin, cache_dir, cache_subdir, file_hash):
        asked.append((origin, file_hash))
        with open(os.path.join(cache_dir, cache_subdir, name), "wb") as file:
            file.write((shelf / name).read_bytes())

    return get_file


def test_missing_sets_are_downloaded_with_their_digests(tmp_path, mnist, genuine, monkeypatch):
    asked = []
    for path in list(mnist.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(keras.utils, "get_file", fetch_from(mnist, asked))
    data = load(tmp_path, dataset="fashion_mnist")
    assert data.facts.class_names[9] == "ankle boot" and len(data.images) == 60
    assert [len(digest) for _, digest in asked] == [32] * 4
    write_archive(mnist / published.CIFAR_ARCHIVE, "cifar-10-batches-py", pickle_files())
    genuine(pickle_files(), mnist / published.CIFAR_ARCHIVE)
    assert len(load(tmp_path, dataset="cifar10").images) == 120
    assert asked[4][0].endswith("/cifar-10-python.tar.gz") and len(asked) == 5
    load(tmp_path, dataset="cifar10")
    load(tmp_path, dataset="fashion_mnist")
    assert len(asked) == 5  # once is enough
    assert {path.suffix for path in (tmp_path / "fashion_mnist").iterdir()} == {".gz"}


@pytest.mark.parametrize("name, file", [("cifar10", "cifar-10-python"), ("fashion_mnist", "t10k-")])
def test_offline_the_files_and_their_folder_are_named_and_nothing_is_left(
    here, tmp_path, monkeypatch, name, file
):
    def offline(*args, **options):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", offline)
    code, _, err = here(f"--dataset {name} --train True --data_dir sets")
    assert code == 2 and "URL fetch failure" in err and err.count("\n") == 1
    assert f"sets/{name}" in err and file in err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_downloads_nothing(here, monkeypatch):
    monkeypatch.setattr(keras.utils, "get_file", None)
    code, _, err = here("--dataset cifar10 --train True --dry_run True")
    assert code == 2 and "a training would download it" in err
    code, _, err = here("--train True --dry_run True --data_dir nowhere")
    assert code == 2 and "would download" not in err and "-ubyte.gz; put them there" in err


def test_a_folder_with_only_a_note_in_it_counts_as_missing(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "README.md").touch()
    missing = published.missing_files("cifar10", tmp_path / "cifar10")
    assert missing == [published.CIFAR_ARCHIVE]
    assert published.missing_files("photos", tmp_path / "photos") == []
    with pytest.raises(Refused, match=r"mnist lacks train-images-idx3-ubyte\.gz, .*; put them"):
        load(tmp_path)


@pytest.fixture
def shelf(mnist, monkeypatch):
    """The four gzipped files that a stand-in for Keras' downloader gives out."""
    for path in list(mnist.iterdir()):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    monkeypatch.setattr(keras.utils, "get_file", fetch_from(mnist, []))
    return mnist


@pytest.mark.parametrize("renamed", range(5))
def test_a_download_that_is_killed_goes_on_with_the_files_that_are_missing(
    tmp_path, shelf, monkeypatch, renamed
):
    folder, replace, left = tmp_path / "fashion_mnist", Path.replace, iter(range(renamed))

    def kill(path, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with contextlib.suppress(KeyboardInterrupt):
            load(tmp_path, dataset="fashion_mnist")
    whole = {path: path.stat() for path in folder.glob("*.gz")}
    assert len(whole) == renamed
    assert len(published.missing_files("fashion_mnist", folder)) == 4 - renamed
    assert len(load(tmp_path, dataset="fashion_mnist").images) == 60
    parts = [f"{part}-ubyte.gz" for part in published.IDX_PARTS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(parts)
    assert all(path.stat().st_ino == status.st_ino for path, status in whole.items())  # not touched


def test_files_that_a_user_put_there_are_not_downloaded_over(tmp_path, shelf):
    folder = tmp_path / "fashion_mnist"
    shutil.copytree(shelf, folder)
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.rename(folder / "t10k-labels.idx1-ubyte.gz")
    before = {path: path.stat().st_ino for path in folder.iterdir()}
    load(tmp_path, dataset="fashion_mnist")
    assert {path: path.stat().st_ino for path in folder.iterdir()} == before
    (folder / "t10k-labels.idx1-ubyte.gz").unlink()
    assert published.missing_files("fashion_mnist", folder) == [labels.name]
    load(tmp_path, dataset="fashion_mnist")
    assert labels.read_bytes() == (shelf / labels.name).read_bytes()
