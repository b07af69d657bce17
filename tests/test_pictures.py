"""Pictures that cannot be written or are very large: what becomes of the run and of the gif."""

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from PIL import Image

import utils
from run import checkpoints, outputs
from system.errors import Refused


@pytest.mark.parametrize("name", ["plot_log", "write_training_gif", "save_png"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
def test_a_picture_that_cannot_be_written_ends_the_run_after_its_checkpoint(
    here, folder, still, monkeypatch, name, error
):
    whole = getattr(utils, name)

    def refuse(path, *rest):
        if Path(path).name == "real.png":
            return whole(path, *rest)
        raise error

    monkeypatch.setattr(utils, name, refuse)
    code, screen, errors = here(f"--train {SMALL} --sample_every 43 --max_iterations 43")
    assert (code, errors.count("\n")) == (1, 1)
    assert "Stopped at iteration 43: iteration 43 is saved. The same command goes on" in screen
    assert checkpoints.list_checkpoints(folder)[0][0] == 43


def test_a_picture_that_fails_between_two_checkpoints_costs_no_iteration(
    here, folder, still, monkeypatch
):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.Outputs, "write_grid", refuse)
    code, screen, errors = here(f"--train {SMALL} --sample_every 3 --max_iterations 60")
    assert code == 1 and "Stopped at iteration 42: iteration 42 is saved." in screen
    assert errors == "main.py: writing: No space left on device\n"
    monkeypatch.undo()
    assert checkpoints.list_checkpoints(folder)[0][0] == 42


def test_a_failure_without_a_word_of_the_system_is_told_in_its_own(
    here, folder, still, monkeypatch
):
    def refuse(*arguments):
        raise OSError("encoder error -2 when writing image file")  # as Pillow does

    monkeypatch.setattr(outputs.Outputs, "write_grid", refuse)
    code, _, errors = here(f"--train {SMALL} --sample_every 3 --max_iterations 60")
    assert code == 1 and "encoder error -2 when writing image file\n" in errors


def test_grids_too_large_for_pillow_make_a_gif_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for i in range(2):
        utils.save_png(tmp_path / utils.grid_name(i, 9), np.full((8, 8, 3), i, np.uint8))
    assert utils.write_training_gif(tmp_path)[1] == 2
    monkeypatch.setattr(utils, "GRID_PIXELS_MAX", 63)
    with pytest.raises(Refused, match="8x8 pixels are too many"):
        utils.write_training_gif(tmp_path)


def test_a_start_that_fails_early_says_what_is_saved(here, folder, monkeypatch, still):
    def refuse(path, image):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(utils, "save_png", refuse)
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and "Stopped at iteration 40: iteration 40 is saved." in screen


def test_what_is_gone_is_not_said_to_be_saved(here, folder, monkeypatch, still):
    def lose(*arguments):
        shutil.rmtree(folder)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))

    monkeypatch.setattr(outputs.Outputs, "write_row", lose)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and "Stopped at iteration 50: nothing is saved yet." in screen
    assert errors.endswith("checkpoint/photos_8_8_8: No such file or directory\n")
