"""A shipped generator, generator.npz with its generator.json, whole and damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FIND, SMALL, checkpoint_values, copy_shipped
from PIL import Image


def test_a_shipped_generator_is_used_for_pictures_and_ignored_by_training(here, folder, gan, still):
    here(f"{FIND} --sample_dir a")
    gan.restore(str(folder / "ckpt-40"))
    shipped = Path("shipped/photos_8_8_8")
    shipped.mkdir(parents=True)
    gan.save_generator(shipped / "generator.npz")
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
    gan.save_generator(folder / "generator.npz")
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
