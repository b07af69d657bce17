"""Points in a plane: the three sets, the level sets, the exact distance, and runs of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_refused, assert_same_run, log_rows, make_facts
from matplotlib.figure import Figure
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import config
from datasets import dataset, points
from pairs import PLANE, PLANE_DEFAULTS
from run import settings
from scores import plane
from scores.distances import earth_movers_distance
from system.errors import Refused

SHORT = "--dataset 8gaussians --batch_size 16 --sample_every 20 --save_every 20 --log_every 10"
RUN = Path("checkpoint/8gaussians_16_gp")


@pytest.mark.parametrize("name, modes", [("8gaussians", 8), ("25gaussians", 25)])
def test_gaussians_lie_about_their_centres_each_with_its_share(name, modes):
    made, centres = points.make(name), points.CENTRES[name]
    nearest = np.linalg.norm(made[:, np.newaxis] - centres, axis=2).argmin(axis=1)
    counts = np.bincount(nearest)
    assert len(counts) == modes and counts.max() - counts.min() <= 1
    assert_allclose(np.std(made - centres[nearest], axis=0), points.DEVIATIONS[name], rtol=0.02)
    assert points.modes_covered(name, made) == (1.0, pytest.approx(1, rel=0.001))


def test_a_swiss_roll_goes_round_one_and_a_half_times():
    made = points.make("swissroll") * 7.5
    length = np.linalg.norm(made, axis=1)  # t, but for the noise
    assert_allclose([length.min(), length.max()], [1.5 * np.pi, 4.5 * np.pi], atol=1.2)
    off = np.angle(np.exp(1j * (np.arctan2(made[:, 1], made[:, 0]) - length)))
    assert_allclose(np.std(off), 0.25, rtol=0.02)
    assert points.modes_covered("swissroll", made) == (None, None)


def test_the_same_points_come_every_time_and_none_is_held_out_and_trained_on():
    flags = config.parse(["--dataset", "25gaussians"])
    one, other = (dataset.load(dataset.source_of(flags)) for _ in range(2))
    assert_array_equal(one.images, other.images)
    assert one.facts == other.facts and one.facts.shape == (2,)
    assert (len(one.train), len(one.held_out)) == (64000, 3200)
    assert not set(one.train) & set(one.held_out)
    assert one.images.dtype == np.float32


def test_points_that_miss_a_mode_are_counted():
    centres = points.CENTRES["8gaussians"]
    made = np.concatenate([np.repeat(centres[:7], 10, axis=0), np.zeros((30, 2))])
    assert points.modes_covered("8gaussians", made) == (0.7, 0.0)


def test_the_distance_of_a_shifted_set_is_the_shift():
    made = points.make("swissroll")[:200]
    shift = np.array([0.3, -0.4], np.float32)
    assert earth_movers_distance(made, made + shift) == pytest.approx(0.5, abs=1e-6)


def test_level_sets_of_a_linear_critic_are_straight_and_evenly_spaced():
    slope = np.array([3.0, -4.0], np.float32)
    axes = Figure().add_subplot()
    plane.draw_levels(axes, lambda places: places @ slope)
    lines = axes.collections[-1]
    scores = []
    for path in lines.get_paths():
        found = path.vertices @ slope
        assert_allclose(
            found, np.full(len(found), np.mean(found)) if len(found) else found, atol=1e-3
        )
        scores += [np.mean(found)] if len(found) else []
    steps = np.diff(sorted(scores))
    assert len(scores) >= plane.LEVELS - 2  # the first and the last are single corners
    assert_allclose(steps, 2 * 7 * plane.LIMIT / (plane.LEVELS - 1), rtol=1e-3)
    # So the lines are as far apart as a step of the score over the slope of 5.


def test_a_constant_critic_has_no_level_sets():
    axes = Figure().add_subplot()
    plane.draw_levels(axes, lambda places: np.ones(len(places), np.float32))
    assert not axes.collections
    assert axes.get_xlim() == axes.get_ylim() == (-plane.LIMIT, plane.LIMIT)


def test_a_frame_shows_the_points_and_the_words_that_it_is_given():
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 50, 2))
    figure = plane.make_frame(lambda places: places[:, 0], real, fake, "two\nlines")
    (axes,), (title,) = figure.axes, figure.texts
    assert title.get_text() == "two\nlines"
    shown = {part.get_label(): part.get_offsets() for part in axes.collections}
    assert_array_equal(shown["real"], real)
    assert_array_equal(shown["generated"], fake)
    assert axes.get_aspect() == 1
    assert plane.render(figure).shape == (896, 800, 3)


@pytest.mark.usefixtures("with_xla")
def test_a_run_that_was_interrupted_leaves_the_same_bits(here, tmp_path):
    ends = "--checkpoint_dir whole --sample_dir whole_samples"
    code, screen, errors = here(f"{SHORT} --train True --max_iterations 40 {ends}")
    assert (code, errors) == (0, ""), errors
    here(f"{SHORT} --train True --max_iterations 20")
    code, screen, _ = here(f"{SHORT} --train True --max_iterations 40")
    assert code == 0 and "Going on from iteration 20 of 40" in screen
    assert_same_run(Path("whole") / RUN.name, RUN, Path("whole_samples"), Path("samples"))
    rows = log_rows(RUN)
    assert [row["iteration"] for row in rows] == [10, 20, 30, 40]
    assert all(0 < row["earth_movers_distance"] < 3 for row in rows)
    with Image.open("samples/training.gif") as gif:
        assert (gif.n_frames, gif.size) == (3, (400, 448))


def test_each_mode_has_a_folder_and_the_log_has_the_exact_distance(here):
    code, _, errors = here(f"{SHORT} --train True --max_iterations 10 --mode regular")
    assert (code, errors) == (0, "")
    folder = Path("checkpoint/8gaussians_16_regular")
    (row,) = log_rows(folder)
    flags = config.parse(f"{SHORT} --mode regular".split())
    data = dataset.load(dataset.source_of(flags))
    from model import WGAN

    gan = WGAN.load(folder)
    frames = plane.Frames(gan.config, data)
    expected = earth_movers_distance(data.images[data.held_out[:500]], gan.sample(frames.z))
    assert row["earth_movers_distance"] == expected
    assert 0.05 < frames.floor < 0.2


def test_a_trained_generator_draws_points_scores_them_and_is_exported(here):
    here(f"{SHORT} --train True --max_iterations 20")
    code, screen, errors = here(f"{SHORT} --generate 30 --seed 3")
    assert (code, errors) == (0, "") and "30 points are in" in screen
    made = np.load("samples/generated/points.npy")
    assert (made.shape, made.dtype) == ((30, 2), np.float32)
    from model import WGAN

    gan = WGAN.load(RUN)
    assert_array_equal(made, gan.draw(30, seed=3))
    assert here(SHORT)[0] == 0 and Path("samples/test.png").exists()
    assert here(f"{SHORT} --evaluate True --evaluate_images 300")[0] == 0
    scores = json.loads((RUN / "scores.json").read_text())["scores"]
    made = gan.draw(300)
    near, least = points.modes_covered("8gaussians", made)
    data = dataset.load(dataset.source_of(gan.config))
    assert scores["generated"] == {
        "earth_movers_distance": earth_movers_distance(made, data.images[data.held_out[:300]]),
        "near_a_mode": near,
        "least_share": least,
    }
    assert scores["floor"]["near_a_mode"] == 1
    code, screen, errors = here(f"{SHORT} --export savedmodel")
    assert (code, errors) == (0, "") and "Output: points float32 [n, 2]" in screen


@pytest.mark.parametrize(
    "words",
    [
        *("--output_height 28 --train True", "--mirror True --train True", "--crop True"),
        *("--input_fname_pattern *.png", "--visualize True", "--arch dcgan --train True"),
        "--conditional True --train True",
    ],
)
def test_what_only_images_have_is_refused(here, words):
    assert_refused(here, f"--dataset swissroll {words}", words.split()[0])


def test_images_cannot_have_the_networks_of_points():
    with pytest.raises(Refused, match="--arch points: not for images of 8x8x1"):
        settings.resolve(config.Config(arch="points", output_height=8), make_facts())


@pytest.mark.parametrize("mode", ["gp", "regular"])
@pytest.mark.parametrize("name", PLANE)
def test_a_value_that_was_typed_goes_before_the_record(name, mode):
    flags = config.parse(f"--dataset {name} --LAMBDA 3 --mode {mode}".split())
    assert flags.LAMBDA == 3
    others = {key: value for key, value in PLANE_DEFAULTS[mode].items() if key != "LAMBDA"}
    assert {key: getattr(flags, key) for key in others} == others
