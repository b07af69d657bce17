"""Test mode, --generate and the sweeps."""

from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import FIND, ROOT, RUN, copy_shipped, make_config
from numpy.testing import assert_allclose, assert_array_equal

import config as flags
import draws
import sample
from run import description, settings

FACES = "--batch_size 64 --input_height 96 --output_height 48 --dataset faces"


def test_test_mode_writes_its_pictures_without_the_data(here, labelled):
    (labelled / "data").rename(labelled / "gone")
    code, screen, errors = here(f"{FIND} --sample_dir out --visualize True")
    assert (code, errors) == (0, "")
    assert "Weights: checkpoint/photos_8_8_8/ckpt-2\n" in screen
    sweeps = {f"test_arange_{k:03d}.png" for k in range(10)}
    assert {path.name for path in Path("out").iterdir()} == {
        *("test.png", "test_classes.png", "test_interpolation.png", "test_arange.gif"),
        "explore.html",
        *sweeps,
    }
    assert imageio.imread("out/test.png").shape == (32, 32, 3)
    assert imageio.imread("out/test_classes.png").shape == (32, 82, 3)
    first = Path("out/test.png").read_bytes()
    here(f"{FIND} --sample_dir out --seed 4")
    assert Path("out/test.png").read_bytes() != first


def test_a_sweep_moves_one_dimension_and_nothing_else(tmp_path):
    calls = []

    class Recorder:
        config = make_config()

        classes = 0

        def sample(self, z, labels):
            calls.append(z)
            return np.zeros((len(z), 4, 4, 1), np.uint8)

    z = np.random.default_rng(0).uniform(-1, 1, (10, 3)).astype(np.float32)
    sample.sweep(Recorder(), z, None, tmp_path)
    assert len(calls) == 3
    for k, along in enumerate(calls):
        table = along.reshape(10, 10, 3)
        assert_array_equal(table[0, :, k], np.linspace(-1, 1, 10, dtype=np.float32))
        for other in {0, 1, 2} - {k}:
            assert_array_equal(table[:, :, other], np.repeat(z[:, other : other + 1], 10, axis=1))


def test_a_square_lies_between_its_four_corners_for_each_class_and_set():
    calls = []

    class Recorder:
        config, classes = make_config(), 12

        def sample(self, z, labels):
            calls.append((z.reshape(5, 5, 3), set(labels)))

    corners = draws.corner_latents(0, 2, 3, "uniform")
    list(sample.squares(Recorder(), corners, 5))
    assert [labels for _, labels in calls] == [{k} for k in range(10) for _ in range(2)]
    for (z, _), (a, b, c, d) in zip(calls, [*corners] * 10, strict=True):
        assert_allclose([z[0, 0], z[0, -1], z[-1, 0], z[-1, -1]], [a, b, c, d], atol=1e-6)
        assert_allclose(z[2, 2], (a + b + c + d) / 4, atol=1e-6)
        assert_allclose(z[1, 0], (3 * a + c) / 4, atol=1e-6)
        assert_allclose(z[0, 1], (3 * a + b) / 4, atol=1e-6)


def test_the_page_to_explore_names_run_state_and_classes(here, labelled):
    assert here(f"{FIND} --sample_dir out --visualize True --seed 5")[0] == 0
    text = Path("out/explore.html").read_text("ascii")
    assert '"run": "photos_8_8_8", "state": "iteration 2", "seed": 5' in text
    assert '"classes": ["class0", "class1", "class2"], "sets": 3, "steps": 16' in text


def test_generate_writes_single_pictures_that_depend_on_seed_and_number_alone(here, labelled):
    def generated():
        return {p.name: p.read_bytes() for p in Path("samples/generated").glob("class_*/*.png")}

    assert here(f"{FIND} --generate 25")[0] == 0
    many = generated()
    assert sorted(many) == [f"{i:06d}.png" for i in range(25)]
    assert here(f"{FIND} --generate 4")[0] == 0
    assert generated() == {name: many[name] for name in sorted(many)[:4]}
    assert here(f"{FIND} --generate 3 --label 2")[0] == 0
    names = sorted(map(str, Path("samples").glob("generated/*/*")))
    assert names == [f"samples/generated/class_2/{i:06d}.png" for i in range(3)]
    code, screen, _ = here(f"{FIND} --generate 1 --label 1 --sample_dir other")
    assert code == 0 and "1 picture is in other/generated" in screen
    assert [path.name for path in Path("other/generated").iterdir()] == ["class_1"]
    code, _, errors = here(f"{FIND} --generate 3 --label 12")
    assert code == 2 and "--label 12: expected a class from 0 to 2" in errors


def test_the_first_programs_fourth_command_gives_faces_from_a_clone(here):
    shipped = copy_shipped("faces_64_48_48")
    code, screen, _ = here(f"{FACES} --sample_dir samples_faces")
    assert code == 0 and f"the shipped generator {shipped}/generator.npz" in screen
    for name in ("test.png", "test_interpolation.png"):
        made, kept = (
            imageio.imread(folder / "samples_faces" / name).astype(int) for folder in (Path(), ROOT)
        )
        assert np.std(kept) > 50 and np.abs(made - kept).max() <= 1, name


def test_the_shipped_faces_are_those_of_the_first_programs_third_command():
    folder = ROOT / "checkpoint/faces_64_48_48"
    config, facts, _ = description.read_config(folder / "generator.json")
    typed = flags.parse(f"--epoch 200 {FACES} --train True".split())
    assert description.differences(config, settings.resolve(typed, facts), flags.FLAGS) == []


def test_flags_that_contradict_the_run_are_refused_in_test_mode(here, folder):
    code, _, errors = here(f"{FIND} --mode regular")
    assert code == 2 and "mode is gp in the run and regular here" in errors
    assert here(f"{FIND} --mode gp --arch symmetric --optimizer auto --train_size inf")[0] == 0
    code, _, errors = here(f"{FIND} --generate 2 --label 0")
    assert code == 2 and "the run is unconditional" in errors


@pytest.mark.parametrize("task", ["--generate 3", "--visualize True", ""])
def test_pictures_need_the_averaged_generator_alone(here, folder, monkeypatch, task):
    """The critic, the raw generator and the optimizers would double the time until the first."""
    import networks

    built, build = [], networks.build_generator
    monkeypatch.setattr(networks, "build_critic", None)
    monkeypatch.setattr(networks, "build_optimizer", None)
    monkeypatch.setattr(
        networks, "build_generator", lambda *sizes: built.append(sizes) or build(*sizes)
    )
    code, _, errors = here(f"--dataset photos --batch_size 8 --output_height 8 {task}")
    assert (code, errors, len(built)) == (0, "", 1)


def test_the_averaged_generator_alone_makes_the_same_pictures(trained, gan):
    import model

    restored = model.WGAN.load(trained / RUN)
    alone = model.WGAN.load(trained / RUN, averaged_only=True)
    assert_array_equal(alone.draw(5, seed=1), restored.draw(5, seed=1))
    assert int(alone.iteration) == 40
