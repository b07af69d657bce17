"""Names of folders with characters that mean something to glob, TensorFlow, imageio or a shell."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL

import utils
from run import checkpoints, weights

NAMES = (
    "faces[1]",
    "a*b",
    "[!a]",
    "{x,y}",
    "q'q",
    'd"d',
    "100%s",
    "a b",
    "é中",
    "back\\slash",
    "x.zip",
)


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_and_gifs_are_at_home_in_folders_of_any_name(tmp_path, name):
    variable = tf.Variable(3.0)
    checkpoint = tf.train.Checkpoint(v=variable)
    place = tmp_path / name / "run[2]"
    place.mkdir(parents=True)
    prefix = str(place / "ckpt-7")
    weights.write_checkpoint(checkpoint, prefix)
    assert checkpoints.list_checkpoints(place) == [(7, prefix)]
    variable.assign(0.0)
    weights.read_checkpoint(checkpoint, prefix)
    assert float(variable) == 3.0
    (place / "ckpt-7.index").write_bytes(b"")
    with pytest.raises(weights.UNREADABLE):
        weights.read_checkpoint(checkpoint, prefix)
    utils.write_gif(place / "x.gif", [np.zeros((4, 4, 1), np.uint8)])
    assert (place / "x.gif").read_bytes().startswith(b"GIF")


def test_a_run_lives_in_folders_of_odd_names(here, folder, tmp_path):
    (tmp_path / "data/photos").rename(tmp_path / "data/faces[1]")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"photos"', '"faces[1]"'))
    (tmp_path / "runs[1]").mkdir()
    folder.rename(tmp_path / "runs[1]/faces[1]_8_8_8")
    words = SMALL.replace("photos", "faces[1]") + "--checkpoint_dir runs[1] --sample_dir ~ "
    code, screen, errors = here(f"--train {words} --max_iterations 41")
    assert (code, errors) == (0, "") and "Going on from iteration 40" in screen
    assert checkpoints.list_checkpoints(tmp_path / "runs[1]/faces[1]_8_8_8")[0][0] == 41
    assert (tmp_path / "~/training.gif").exists()  # which is not the home folder


def test_a_gif_of_a_folder_that_is_called_home_stays_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for place in ("~", "home"):
        (tmp_path / place).mkdir()
    utils.write_gif("~/x.gif", [np.zeros((4, 4, 1), np.uint8)])
    assert (tmp_path / "~/x.gif").exists() and not (tmp_path / "home/x.gif").exists()
