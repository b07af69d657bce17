"""--mirror: half of the training images are flipped, drawn from the run's streams."""

from pathlib import Path

import numpy as np
import pytest
from conftest import RUN, SMALL, make_config, make_data, make_gan
from numpy.testing import assert_array_equal
from PIL import Image

import draws
import utils


def test_half_of_the_images_are_flipped_whatever_the_batch_size():
    flips = np.concatenate([draws.mirrored(0, m, 64) for m in range(300)])
    assert flips.dtype == bool and abs(flips.mean() - 0.5) < 4 * 0.5 / np.sqrt(flips.size)
    assert_array_equal(draws.mirrored(3, 5, 64)[:8], draws.mirrored(3, 5, 8))
    rows = [draws.mirrored(*at, 64) for at in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({row.tobytes() for row in rows}) == 4


@pytest.mark.parametrize(
    "kind", [np.asarray, lambda x: np.memmap("map", x.dtype, "w+", 0, x.shape)]
)
def test_a_mirrored_batch_is_the_batch_with_those_images_flipped(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    data = make_data((6, 8, 3), classes=3)
    images = kind(data.images)
    images[:] = data.images
    data = data.__class__(images, data.labels, data.train, data.held_out, data.facts)
    before = np.array(images)
    for m in range(20):
        plain, labels = data.critic_batch(0, 8, m)
        mirrored, same_labels = data.critic_batch(0, 8, m, mirror=True)
        flips = draws.mirrored(0, m, 8)
        assert_array_equal(mirrored[flips], plain[flips][:, :, ::-1])
        assert_array_equal(mirrored[~flips], plain[~flips])
        assert_array_equal(labels, same_labels)
        part, _ = data.critic_batch(0, 8, m, slice(2, 5), True)
        assert_array_equal(part, mirrored[2:5])
    assert_array_equal(images, before)


def test_a_mirrored_run_trains_on_flipped_images_and_measures_on_whole_ones():
    data = make_data()
    plain, mirrored = make_gan(data), make_gan(data, mirror=True)
    for gan, mirror in ((plain, False), (mirrored, True)):
        images, _, drawn = gan.inputs.critic(data, 7)
        assert_array_equal(images, data.critic_batch(0, 8, 7, mirror=mirror)[0])
        assert_array_equal(drawn.z, draws.critic_draws(0, 7, 8, 10, "uniform").z)
    assert float(plain.validate(data)) == float(mirrored.validate(data))


@pytest.mark.parametrize("labels", [None, np.repeat([0, 1], 8)])
def test_the_grid_of_real_images_shows_them_flipped(labels):
    data = make_data((6, 8, 1), classes=2)
    flips = draws.mirrored(0, 0, 16)
    sheets = []
    for mirror in (False, True):
        sizes = {"output_height": 6, "output_width": 8}
        grids = utils.Grids(make_config(data.facts, mirror=mirror, **sizes), data)
        grids.columns, grids.labels, grids.z = 8, labels, np.zeros((16, 10))
        sheets.append(grids.real())
    plain, mirrored = sheets
    for i, flip in enumerate(flips):
        top, left = 2 + 8 * (i // 8), 2 + 10 * (i % 8)
        place = np.s_[top : top + 6, left : left + 8]
        assert_array_equal(mirrored[place], plain[place][:, :: -1 if flip else 1])


def test_it_is_shown_in_real_png_and_makes_another_run(here, folder, still):
    plain = np.asarray(Image.open("samples/real.png"))
    code, _, errors = here(f"--train {SMALL} --mirror True --max_iterations 41")
    assert code == 2 and f"{RUN} is another run: mirror is False in the run and True" in errors
    words = f"--train {SMALL} --mirror True --checkpoint_dir other --sample_dir pictures"
    assert here(f"{words} --max_iterations 1")[0] == 0
    mirrored = np.asarray(Image.open("pictures/real.png"))
    for i, flip in enumerate(draws.mirrored(0, 0, 8)):
        top, left = 2 + 10 * (i // 3), 2 + 10 * (i % 3)
        place = np.s_[top : top + 8, left : left + 8]
        assert_array_equal(mirrored[place], plain[place][:, :: -1 if flip else 1])
    assert here(f"{words} --max_iterations 2")[0] == 0
    assert here(f"{words} --mirror False --max_iterations 3")[0] == 2
    assert '"mirror": true' in Path("other/photos_8_8_8/config.json").read_text()
