"""A shipped generator, generator.npz with its generator.json, whole and damaged."""

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import FIND, SMALL, checkpoint_values, copy_shipped
from numpy.testing import assert_array_equal
from PIL import Image

from run import weights
from system.errors import Refused


def test_a_shipped_generator_is_used_for_pictures_and_ignored_by_training(here, folder, gan, still):
    here(f"{FIND} --sample_dir a")
    gan.restore(str(folder / "ckpt-40"))
    shipped = Path("shipped/photos_8_8_8")
    shipped.mkdir(parents=True)
    weights.write_generator(shipped / "generator.npz", gan.average)
    shutil.copy(folder / "config.json", shipped / "generator.json")
    code, screen, _ = here(f"{FIND} --checkpoint_dir shipped --sample_dir b")
    assert code == 0 and "the shipped generator shipped/photos_8_8_8/generator.npz" in screen
    a, b = (np.asarray(Image.open(f"{name}/test.png")).astype(int) for name in "ab")
    assert np.abs(a - b).max() <= 2  # half precision
    kept = (shipped / "generator.npz").read_bytes()
    code, screen, _ = here(f"--train {SMALL} --checkpoint_dir shipped --max_iterations 5")
    assert code == 0 and "generator.npz is not used and stays as it is" in screen
    assert (shipped / "generator.npz").read_bytes() == kept
    started, trained = (
        checkpoint_values(path) for path in (shipped / "ckpt-5", folder / "ckpt-40")
    )
    name = next(name for name in started if name.startswith("average"))
    assert not np.allclose(started[name], trained[name], rtol=1e-2)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def change(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "generator.npz").write_bytes(b""), "generator.npz: damaged"),
        (lambda f: (f / "generator.npz").unlink(), "generator.npz: damaged"),
        (lambda f: cut(f / "generator.npz"), "generator.npz: damaged"),
        (lambda f: (f / "generator.json").write_text("{}"), "generator.json: damaged"),
        (lambda f: change(f / "generator.json", '"z_dim": 10', '"z_dim": "ten"'), "damaged"),
    ],
)
def test_a_damaged_shipped_generator_is_refused_in_one_line(here, folder, gan, spoil, message):
    weights.write_generator(folder / "generator.npz", gan.average)
    (folder / "config.json").rename(folder / "generator.json")
    for path in folder.glob("ckpt-*"):
        path.unlink()
    spoil(folder)
    code, _, errors = here(FIND)
    assert code == 2 and message in errors and errors.count("\n") == 1


@pytest.mark.parametrize("content", [b"no archive", "npy", "encrypted"])
def test_whatever_is_wrong_with_a_shipped_generator_is_one_line(here, tmp_path, content):
    folder = copy_shipped("mnist_64_28_28")
    path = folder / "generator.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif content == "encrypted":
        spoilt = bytearray(path.read_bytes())
        spoilt[spoilt.rindex(b"PK\1\2") + 8] |= 1  # the flag bit, in the last directory entry
        path.write_bytes(spoilt)
    else:
        path.write_bytes(content)
    code, _, errors = here("")
    assert code == 2 and "generator.npz: damaged" in errors and errors.count("\n") == 1


def npy(kind="<f4", shape="(2, 3)", version=1, data=b""):
    """Return the bytes of a .npy file with any header."""
    header = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    size = len(header).to_bytes(2 * version, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def read(path, *numbers):
    """Read the 2x3 weights `w` of an archive, and numbers; returns both."""
    variable = keras.Variable(np.zeros((2, 3), np.float32))
    numbers = weights.read_archive(path, [("w", variable)], numbers)
    return variable.numpy(), numbers


WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_weights_of_any_floating_point_type_are_read(tmp_path, save, kind):
    save(tmp_path / "a.npz", w=np.asfortranarray(WEIGHTS.astype(kind)), accuracy=0.1)
    found, (accuracy,) = read(tmp_path / "a.npz", "accuracy")
    assert_array_equal(found, WEIGHTS)
    assert accuracy == 0.1


@pytest.mark.parametrize(
    "array, reason",
    [
        (WEIGHTS * np.nan, "w has numbers that are not finite"),
        (WEIGHTS + np.inf, "w has numbers that are not finite"),
        (WEIGHTS.astype(np.float64) * 1e300, "w has numbers that are not finite in float32"),
        (WEIGHTS + 1j, r"w is complex64 \(2, 3\), expected floats \(2, 3\)"),
        (WEIGHTS.astype(np.int64), r"w is int64 \(2, 3\), expected"),
        (WEIGHTS > 2, r"w is bool \(2, 3\), expected"),
        (WEIGHTS.astype(str), r"w is str\d+ \(2, 3\), expected"),
        (WEIGHTS.T, r"w is float32 \(3, 2\), expected"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, array, reason):
    np.savez(tmp_path / "a.npz", w=array)
    with pytest.raises(Refused, match=rf"a\.npz: damaged \(ValueError: {reason}"):
        read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        npy()[:9],
        npy(),
        npy(shape="(1 << 40, 3)"),
        npy(shape=f"({2**40}, 3)"),
        npy(shape="(2, 3.0)"),
        npy(kind="|O", data=b"cos\nsystem\n(S'true'\ntR."),
        npy(kind=[("\x1b[2J", "<f4")]),
        npy(shape="-" * 60000 + "1"),
        npy(shape="\n  1\n 2\n)"),
        npy(shape="(" * 60000),
        npy(kind="<S1000000000000", data=bytes(24)),
        npy(version=2, data=bytes(23)),
    ],
)
def test_no_header_of_an_array_is_believed(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(Refused, match=r"a\.npz: damaged \(") as refusal:
        read(tmp_path / "a.npz")
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 500


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_weights_are_not_unpacked_by_a_method_that_savez_does_not_use(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("w.npy", npy(data=WEIGHTS.tobytes()))
    with pytest.raises(Refused, match=r"a\.npz: damaged"):
        read(tmp_path / "a.npz")


def test_only_the_arrays_that_are_asked_for_are_read_and_those_only_if_they_fit(tmp_path):
    large = np.zeros(10**7)
    np.savez_compressed(tmp_path / "more.npz", w=WEIGHTS, more=large)
    np.savez_compressed(tmp_path / "large.npz", w=large)
    tracemalloc.start()
    assert_array_equal(read(tmp_path / "more.npz")[0], WEIGHTS)
    with pytest.raises(Refused, match=r"large\.npz: damaged"):
        read(tmp_path / "large.npz")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < large.nbytes / 10


def test_a_shipped_generator_with_a_nan_is_refused(here, tmp_path):
    path = copy_shipped("mnist_64_28_28") / "generator.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    name = list(arrays)[-1]
    np.savez(path, **arrays | {name: arrays[name] * np.nan})
    code, _, errors = here("")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"generator.npz: damaged (ValueError: {name} has numbers that are not finite" in errors
