"""The whole program as its user meets it: files, screen, exit codes, the same bits again."""

import json
import os
import re
import subprocess
import sys
import time

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import ROOT, SMALL, assert_same_run, checkpoint_values, log_rows
from numpy.testing import assert_array_equal
from PIL import Image

import dry_run
import imagefile
import runs
import utils

pytestmark = pytest.mark.program

FULL_WIDTH = {
    "gp": "--mode gp --noise 0.1 --critic_boost 7 --ema 0.99",
    "regular": "--mode regular --noise 0.1",
}


def interrupted_and_whole(program, tmp_path, flags, iterations):
    """Run a default-size MNIST training once whole and once in two halves."""
    half = iterations // 2
    rhythm = f"--log_every {half // 2} --save_every {half} --sample_every {half}"
    common = f"--dataset mnist --train True --data_dir {ROOT / 'data'} {flags} {rhythm}".split()
    for name, ends in (("whole", [iterations]), ("halves", [half, iterations])):
        folders = ["--checkpoint_dir", name, "--sample_dir", f"{name}/samples"]
        for end in ends:
            done = program(*common, *folders, "--max_iterations", end)
            assert done.returncode == 0, done.stderr
    assert f"Going on from state {half} of {iterations}" in done.stdout
    folders = [tmp_path / name / "mnist_64_28_28" for name in ("whole", "halves")]
    assert_same_run(*folders, tmp_path / "whole/samples", tmp_path / "halves/samples")


@pytest.mark.parametrize("mode", ["gp"])  # both, ten times as long, with -m slow
def test_a_full_width_run_goes_on_bit_for_bit(program, tmp_path, mode):
    interrupted_and_whole(program, tmp_path, FULL_WIDTH[mode], 4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", FULL_WIDTH)
def test_forty_full_width_iterations_equal_twenty_and_twenty(program, tmp_path, mode):
    interrupted_and_whole(program, tmp_path, FULL_WIDTH[mode], 40)


def test_the_same_command_twice_gives_the_same_bits(here, image_folder, tmp_path):
    image_folder("photos", classes=3)
    for name in ("one", "two"):
        words = f"--train {SMALL} --conditional True --max_iterations 45 --checkpoint_dir {name}"
        code, _, errors = here(f"{words} --sample_dir {name}/samples")
        assert (code, errors) == (0, "")
    folders = [tmp_path / name / "photos_8_8_8" for name in ("one", "two")]
    assert_same_run(*folders, tmp_path / "one/samples", tmp_path / "two/samples")


def test_rhythms_and_stops_change_no_bit_of_a_run(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 60")
    other = SMALL.replace("sample_every 20", "sample_every 7").replace(
        "log_every 10", "log_every 3"
    )
    other = other.replace("save_every 20", "save_every 11")
    for end in (13, 60):
        here(f"--train {other} --max_iterations {end} --checkpoint_dir b --sample_dir b/s")
    values = checkpoint_values(tmp_path / "checkpoint/photos_8_8_8/ckpt-60")
    others = checkpoint_values(tmp_path / "b/photos_8_8_8/ckpt-60")
    for name, value in values.items():
        assert_array_equal(value, others[name], err_msg=name)


def test_a_training_leaves_the_files_and_the_screen_that_are_promised(here, image_folder, tmp_path):
    image_folder("photos")
    code, screen, errors = here(f"--train {SMALL} --epoch 41 --save_every 100")
    assert (code, errors) == (0, "")  # 44 training images, 5 iterations per epoch
    folder, samples = tmp_path / "checkpoint/photos_8_8_8", tmp_path / "samples"
    names = {path.name.split(".data")[0] for path in folder.iterdir() if "events" not in path.name}
    assert names == {
        *(".lock", "checkpoint", "config.json", "log.jsonl"),
        *(f"ckpt-{state}{end}" for state in (100, 200, 205) for end in ("", ".index")),
    }
    assert list(folder.glob("events.out.tfevents.*"))
    grids = [utils.grid_name(state, 5) for state in (*range(0, 205, 20), 205)]
    pictures = {"real.png", "loss.png", "training.gif", ".lock", ".run", *grids}
    assert {path.name for path in samples.iterdir()} == pictures
    assert grids[-1] == "train_41_0000.png"
    rows = log_rows(folder)
    assert [row["iteration"] for row in rows] == list(range(10, 206, 10))
    assert list(json.loads((folder / "log.jsonl").read_text().splitlines()[0])) == [
        *("iteration", "epoch", "d_loss", "g_loss", "w_distance", "w_distance_val"),
        *("penalty", "slope", "seconds", "images_per_second"),
    ]
    for row in rows:
        assert row["d_loss"] == pytest.approx(
            row["penalty"] - row["w_distance"], rel=1e-4, abs=1e-5
        )
        assert row["epoch"] == row["iteration"] // 5
    lines = screen.splitlines()
    assert lines[0] == "Training images: samples/real.png"
    assert re.fullmatch(r"Device: .+, \d+ threads, float32", lines[1])
    line = r"Epoch: \[40\] \[   0/   5\] time: \d+\.\d, d_loss: -?\d+\.\d+, g_loss: -?\d+\.\d+"
    assert re.fullmatch(line, lines[2])
    code, screen, _ = here(f"--train {SMALL} --epoch 41 --save_every 100")
    assert code == 0 and "is at iteration 205: nothing left to train" in screen


def test_in_regular_mode_penalty_and_slope_are_null(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --mode regular --max_iterations 10")
    (row,) = log_rows(tmp_path / "checkpoint/photos_8_8_8")
    assert row["penalty"] is None and row["slope"] is None
    assert row["d_loss"] == pytest.approx(-row["w_distance"])


def test_more_epochs_go_on_and_remove_the_grid_of_the_earlier_end(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 33")
    assert (tmp_path / "samples" / utils.grid_name(33, 5)).exists()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 50")
    assert code == 0 and "Going on from state 33 of 50" in screen
    assert [path.name for _, path in utils.list_grids(tmp_path / "samples")] == [
        utils.grid_name(state, 5) for state in (0, 20, 40, 50)
    ]


def test_from_scratch_an_earlier_runs_pictures_are_removed_and_it_says_so(
    here, image_folder, tmp_path
):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 20")
    (tmp_path / "samples" / "mine.png").touch()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 10 --checkpoint_dir other")
    assert code == 0 and "4 pictures of another run in samples removed" in screen
    names = {path.name for path in (tmp_path / "samples").glob("*.png")}
    assert names == {
        "mine.png",
        "real.png",
        "loss.png",
        *map(lambda s: utils.grid_name(s, 5), (0, 10)),
    }


def test_changed_settings_are_refused_and_nothing_changes(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10")
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    code, _, errors = here(f"--train {SMALL} --max_iterations 20 --ema 0.5 --learning_rate 1e-3")
    assert code == 2 and errors.count("\n") == 1
    assert "ema is 0.999 in the run and 0.5 here" in errors
    assert "learning_rate is 0.0002 in the run and 0.001 here" in errors
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_grids_of_another_run_in_the_same_folder_are_removed_on_going_on(
    here, image_folder, tmp_path
):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10")
    here(f"--train {SMALL.replace('batch_size 8', 'batch_size 16')} --max_iterations 10")
    code, screen, errors = here(f"--train {SMALL} --max_iterations 13")
    assert (code, errors) == (0, "") and "4 pictures of another run in samples removed" in screen
    names = [path.name for _, path in utils.list_grids(tmp_path / "samples")]
    assert names == [utils.grid_name(13, 5)]
    assert runs.list_checkpoints(tmp_path / "checkpoint/photos_8_8_8")[0][0] == 13


def test_a_width_that_is_typed_or_left_out_is_the_same_run(here, image_folder):
    image_folder("photos")
    words = f"--train {SMALL} --crop True --input_height 9"
    here(f"{words} --max_iterations 2")
    code, _, errors = here(f"{words} --input_width 9 --output_width 8 --max_iterations 4")
    assert (code, errors) == (0, "")


def test_test_mode_writes_its_pictures_without_the_data(here, image_folder, tmp_path):
    image_folder("photos", classes=3)
    here(f"--train {SMALL} --conditional True --max_iterations 10")
    (tmp_path / "data").rename(tmp_path / "gone")
    run = "--dataset photos --batch_size 8 --output_height 8"
    code, screen, errors = here(f"{run} --sample_dir out --visualize True")
    assert (code, errors) == (0, "")
    assert "Weights: checkpoint/photos_8_8_8/ckpt-10, state 10" in screen
    sweeps = {f"test_arange_{k:03d}.png" for k in range(10)}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("test.png", "test_classes.png", "test_interpolation.png", "test_arange.gif"),
        *sweeps,
    }
    assert imageio.imread(tmp_path / "out/test.png").shape == (32, 32, 3)
    assert imageio.imread(tmp_path / "out/test_classes.png").shape == (32, 82, 3)
    first = (tmp_path / "out/test.png").read_bytes()
    here(f"{run} --sample_dir out --seed 4")
    assert (tmp_path / "out/test.png").read_bytes() != first


def test_a_sweep_moves_one_dimension_and_nothing_else(here, image_folder, tmp_path, monkeypatch):
    import pictures

    calls = []

    class Recorder:
        classes = 0

        def sample(self, z, labels):
            calls.append(z)
            return np.zeros((len(z), 4, 4, 1), np.uint8)

    z = np.random.default_rng(0).uniform(-1, 1, (10, 3)).astype(np.float32)
    pictures.sweep(Recorder(), z, None, tmp_path)
    assert len(calls) == 3
    for k, along in enumerate(calls):
        table = along.reshape(10, 10, 3)
        assert_array_equal(table[0, :, k], np.linspace(-1, 1, 10, dtype=np.float32))
        for other in {0, 1, 2} - {k}:
            assert_array_equal(table[:, :, other], np.repeat(z[:, other : other + 1], 10, axis=1))


def test_generate_writes_single_pictures_that_depend_on_seed_and_number_alone(
    here, image_folder, tmp_path
):
    image_folder("photos", classes=3)
    here(f"--train {SMALL} --conditional True --max_iterations 10")
    run = "--dataset photos --batch_size 8 --output_height 8"
    assert here(f"{run} --generate 25")[0] == 0
    many = {p.name: p.read_bytes() for p in (tmp_path / "samples/generated").glob("class_*/*.png")}
    assert sorted(many) == [f"{i:06d}.png" for i in range(25)]
    assert here(f"{run} --generate 4")[0] == 0
    few = {p.name: p.read_bytes() for p in (tmp_path / "samples/generated").glob("class_*/*.png")}
    assert few == {name: many[name] for name in list(sorted(many))[:4]}
    assert here(f"{run} --generate 3 --label 2")[0] == 0
    names = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("samples/generated/*/*"))
    assert names == [f"samples/generated/class_2/{i:06d}.png" for i in range(3)]
    code, _, errors = here(f"{run} --generate 3 --label 12")
    assert code == 2 and "--label 12: expected a class from 0 to 2" in errors


def test_flags_that_contradict_the_run_are_refused_in_test_mode(here, image_folder):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10")
    run = "--dataset photos --batch_size 8 --output_height 8"
    code, _, errors = here(f"{run} --mode regular")
    assert code == 2 and "mode is gp in the run and regular here" in errors
    assert here(f"{run} --mode gp --arch symmetric --optimizer auto --train_size inf")[0] == 0
    code, _, errors = here(f"{run} --generate 2 --label 0")
    assert code == 2 and "the run is unconditional" in errors


def test_a_shipped_generator_is_used_for_pictures_and_ignored_by_training(
    here, image_folder, tmp_path
):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10 --checkpoint_dir first")
    here("--dataset photos --batch_size 8 --output_height 8 --checkpoint_dir first --sample_dir a")
    import pictures

    config, facts, source = runs.find(
        {"dataset": "photos", "batch_size": 8, "output_height": 8, "checkpoint_dir": "first"}
    )
    gan = pictures.load(config, facts, source)
    folder = tmp_path / "checkpoint/photos_8_8_8"
    folder.mkdir(parents=True)
    gan.save_generator(folder / "generator.npz")
    (tmp_path / "first/photos_8_8_8/config.json").rename(folder / "generator.json")
    run = "--dataset photos --batch_size 8 --output_height 8"
    code, screen, _ = here(f"{run} --sample_dir b")
    assert code == 0 and "the shipped generator checkpoint/photos_8_8_8/generator.npz" in screen
    a, b = (np.asarray(Image.open(tmp_path / name / "test.png")).astype(int) for name in "ab")
    assert np.abs(a - b).max() <= 2  # half precision
    kept = (folder / "generator.npz").read_bytes()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 5")
    assert code == 0 and "generator.npz is not used and stays as it is" in screen
    assert (folder / "generator.npz").read_bytes() == kept


@pytest.mark.parametrize(
    "words, message",
    [
        ("--train --dataset nowhere", "there is no folder data/nowhere"),
        ("--dataset photos", "checkpoint/photos_64_28_28: no checkpoint"),
        ("--gif", "samples: no train_*.png there"),
        ("--train --dataset photos --batch_size 500", "larger than the 44 training images"),
        ("--train --dataset photos --batch_size 8 --sample_dir file/x", "file"),
        ("--train --dataset photos --batch_size 8 --checkpoint_dir file", "file"),
        ("--train --dataset photos --clip_down 1", "must be below --clip_up"),
        ("--train --dataset photos --output_height 3", "--output_height 3: expected"),
        ("--train --dataset photos --critic_num 0", "--critic_num 0: expected"),
        ("--gif --sample_dir /proc", "/proc: no train_*.png"),
        (f"--train --dataset {'x' * 300}", "expected a plain name"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    here, image_folder, tmp_path, words, message
):
    image_folder("photos", size=(8, 8))
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    code, screen, errors = here(words)
    assert code == 2 and errors.startswith("main.py: ") and errors.count("\n") == 1
    assert message in errors
    after = [path for path in tmp_path.rglob("*") if ".cache" not in path.parts]
    assert screen == "" and sorted(after) == before


def test_layer_norm_is_quiet(program, image_folder):
    image_folder("photos")
    done = program("--train", *SMALL.split(), "--critic_norm", "layer", "--max_iterations", "1")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_dry_run_tells_all_and_changes_nothing(here, image_folder, tmp_path):
    image_folder("photos")
    before = sorted(tmp_path.rglob("*"))
    code, screen, _ = here(f"--train {SMALL} --dry_run")
    assert code == 0 and sorted(tmp_path.rglob("*")) == before
    for part in ("optimizer adam", "44 training images of 44, 16 held out", "Device: ", "linear1"):
        assert part in screen
    assert re.search(r"Time: \d+\.\d\d s per iteration", screen)
    assert re.search(r"Disk: \d+ MB at most", screen)
    assert "clip_up (no effect)" in screen and "max_iterations None" in screen
    here(f"--train {SMALL} --max_iterations 10")
    before = sorted(tmp_path.rglob("*"))
    assert here(f"--train {SMALL} --output_width 9 --dry_run")[0] == 0
    assert sorted(tmp_path.rglob("*")) == before
    code, screen, _ = here(f"--train {SMALL} --max_iterations 5 --dry_run")
    assert code == 0 and "is at iteration 10: nothing left to train" in screen
    code, screen, _ = here("--dataset photos --batch_size 8 --output_height 8 --dry_run")
    assert code == 0 and "make the test pictures with checkpoint/photos_8_8_8/ckpt-10" in screen
    words = "--dataset photos --batch_size 8 --output_height 8 --evaluate --dry_run"
    assert "make the scores of 10000 pictures with" in here(words)[1]
    assert here("--gif --dry_run --sample_dir nowhere")[0] == 2


def test_a_dry_run_converts_a_part_of_a_large_folder_and_tells_of_all(
    here, image_folder, tmp_path, monkeypatch
):
    image_folder("photos", count=400, classes=3)
    monkeypatch.setattr(dry_run, "SAMPLE", 50)
    converted = []
    read = imagefile.read_image
    monkeypatch.setattr(imagefile, "read_image", lambda *x: converted.append(x) or read(*x))
    before = sorted(tmp_path.rglob("*"))
    code, screen, _ = here(f"--train {SMALL} --dry_run")
    assert code == 0 and sorted(tmp_path.rglob("*")) == before and len(converted) == 50
    assert "380 training images of 380, 20 held out" in screen and "3 classes" in screen
    assert "to state 1175 in" in screen  # 25 epochs of 380 // 8
    assert re.search(r"Conversion: about \d+ s for 400 files, 0\.1 MB in data/\.cache", screen)
    assert here(f"--train {SMALL} --max_iterations 5")[0] == 0
    converted.clear()
    screen = here(f"--train {SMALL} --max_iterations 10 --dry_run")[1]
    assert "from state 5 to state 10" in screen and "Conversion" not in screen
    assert converted == []


LOADED = """
import atexit, sys, main
heavy = {"tensorflow", "keras", "matplotlib"}
atexit.register(lambda: print(sorted(heavy & set(sys.modules))))
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["--help"], ["--gif", "True"]])
def test_help_and_gif_load_no_tensorflow(tmp_path, words):
    (tmp_path / "samples").mkdir()
    utils.save_png(tmp_path / "samples/train_00_0000.png", np.zeros((4, 4, 1), np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert ("--LAMBDA" in done.stdout) == (words == ["--help"])
    assert (tmp_path / "samples/training.gif").exists() == (words != ["--help"])


def test_help_answers_in_under_half_a_second():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.5
