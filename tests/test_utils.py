"""Grids, PNG files, gifs and the plot of a log."""

import imageio.v3 as imageio
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import utils
from run.log import MEASURED
from system.errors import Refused


def test_a_grid_shows_each_image_once_row_by_row():
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 3, 4, 1), np.uint8)
    sheet = utils.grid(images, 3)
    assert sheet.shape == (2 * 5 + 2, 3 * 6 + 2, 1)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        top, left = 2 + 5 * row, 2 + 6 * column
        assert_array_equal(sheet[top : top + 3, left : left + 4], images[i])
    assert sheet.astype(int).sum() == images.astype(int).sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_keep_every_pixel(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, channels), dtype=np.uint8)
    utils.save_png(tmp_path / "x.png", image)
    assert_array_equal(np.atleast_3d(np.asarray(Image.open(tmp_path / "x.png"))), image)


def test_grids_are_named_by_epoch_and_position_and_sorted_by_number(tmp_path):
    names = [utils.grid_name(state, 937) for state in (0, 200, 937, 100 * 937 + 5, 3)]
    assert names == [
        "train_00_0000.png",
        "train_00_0200.png",
        "train_01_0000.png",
        "train_100_0005.png",
        "train_00_0003.png",
    ]
    for name in [*names, "train_x.png", "train_99.png"]:
        (tmp_path / name).touch()
    found = [path.name for _, path in utils.list_grids(tmp_path)]
    assert found == [names[0], names[4], names[1], names[2], names[3]]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gif_has_at_most_60_frames_of_at_most_400_pixels_the_last_longer(tmp_path, channels):
    for state in range(100):
        shade = np.full((40, 500, channels), state * 2, np.uint8)
        utils.save_png(tmp_path / utils.grid_name(state, 1000), shade)
    path, count = utils.write_training_gif(tmp_path)
    assert count == 100
    frames = imageio.imread(path, index=None)
    assert frames.shape[:3] == (60, 32, 400)
    shades = frames[:, 0, 0].reshape(60, -1)[:, 0].astype(int)
    assert shades[0] == 0 and shades[-1] == 198 and np.all(np.diff(shades) > 0)
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        times = []
        for i in range(60):
            gif.seek(i)
            times.append(gif.info["duration"])
    assert times == [200] * 59 + [2000]


@pytest.mark.parametrize("shades, frames", [([7], 1), ([7, 7], 1), ([7, 7, 9], 2)])
def test_a_gif_can_be_made_of_one_grid_or_of_equal_ones(tmp_path, shades, frames):
    for state, shade in enumerate(shades):
        image = np.full((8, 8, 1), shade, np.uint8)
        utils.save_png(tmp_path / utils.grid_name(state, 1000), image)
    path, _ = utils.write_training_gif(tmp_path)
    with Image.open(path) as gif:
        assert gif.n_frames == frames


def test_a_gif_of_nothing_or_of_mixed_sizes_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"no train_\*.png"):
        utils.write_training_gif(tmp_path)
    utils.save_png(tmp_path / "train_00_0000.png", np.zeros((4, 4, 1), np.uint8))
    utils.save_png(tmp_path / "train_00_0001.png", np.zeros((4, 5, 1), np.uint8))
    with pytest.raises(Refused, match="differ in size"):
        utils.write_training_gif(tmp_path)


def row(iteration, **values):
    return {"iteration": iteration} | dict.fromkeys(MEASURED, 1.0) | values


@pytest.mark.parametrize("rows", [[], [row(1)], [row(1, penalty=None), row(2, penalty=None)]])
def test_the_plot_is_made_of_any_number_of_rows_and_repeats(tmp_path, rows):
    utils.plot_log(tmp_path / "a.png", rows)
    utils.plot_log(tmp_path / "b.png", rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_plot_of_a_single_row_shows_it(tmp_path):
    utils.plot_log(tmp_path / "a.png", [row(50, w_distance=1.0, w_distance_val=0.0)])
    utils.plot_log(tmp_path / "b.png", [row(50, w_distance=0.0, w_distance_val=1.0)])
    one, other = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert np.count_nonzero(np.any(one != other, axis=-1)) > 20  # the two points change places
