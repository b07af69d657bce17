"""The whole program as its user meets it: files, screen, exit codes, the same bits again."""

import dataclasses
import json
import os
import re
import resource
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    FIND,
    ROOT,
    RUN,
    SMALL,
    assert_same_run,
    checkpoint_values,
    log_rows,
    run_to_end,
    train_in,
)
from numpy.testing import assert_array_equal

import draws
import utils
from datasets import dataset, image_file
from run import checkpoints, dry_run

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
    assert f"Going on from iteration {half} of {iterations}" in done.stdout
    folders = [tmp_path / name / "mnist_64_28_28" for name in ("whole", "halves")]
    assert_same_run(*folders, tmp_path / "whole/samples", tmp_path / "halves/samples")


@pytest.mark.slow
@pytest.mark.parametrize("mode", FULL_WIDTH)
def test_forty_full_width_iterations_equal_twenty_and_twenty(program, tmp_path, mode):
    interrupted_and_whole(program, tmp_path, FULL_WIDTH[mode], 40)


def test_the_same_command_in_another_process_gives_the_same_bits(program, trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    done = program("--train", *SMALL.split(), "--max_iterations", 40)
    assert (done.returncode, done.stderr) == (0, "")
    one, other = trained, tmp_path
    assert_same_run(one / RUN, other / RUN, one / "samples", other / "samples")


@pytest.mark.usefixtures("with_xla")
def test_rhythms_and_stops_change_no_bit_of_a_run(here, trained, folder):
    rhythm = "--sample_every 7 --log_every 3 --save_every 11 --checkpoint_dir b --sample_dir b/s"
    for end in (13, 40):
        assert here(f"--train {SMALL} {rhythm} --max_iterations {end}")[0] == 0
    values = checkpoint_values(trained / RUN / "ckpt-40")
    others = checkpoint_values("b/photos_8_8_8/ckpt-40")
    for name, value in values.items():
        assert_array_equal(value, others[name], err_msg=name)


def test_a_row_tells_of_the_last_critic_update_and_validates_after_it(trained, gan):
    """Row 40 against the iteration done by hand from iteration 39."""
    here = dataclasses.replace(gan.config, data_dir=str(trained / "data"))
    data = dataset.load(dataset.source_of(here), here.train_size)
    gan.restore(str(trained / RUN / "ckpt-20"))
    for i in range(21, 40):
        gan.train_iteration(data, i)
    updates = range(gan.config.updates_before(40), gan.config.updates_before(41))
    measured = [gan.critic_step(*gan.inputs.critic(data, m)) for m in updates]
    before = float(gan.validate(data))
    z, labels = draws.generator_draws(0, 40, 8, gan.config.z_dim, "uniform")
    expected = measured[-1] | gan.generator_step(z, labels, None, np.float32(0.8))
    expected |= {"w_distance_val": gan.validate(data)}
    row = log_rows(trained / RUN)[-1]
    assert row["iteration"] == 40
    assert row["d_loss"] == pytest.approx(row["penalty"] - row["w_distance"], rel=1e-5)
    for name, value in expected.items():
        assert row[name] == float(value), name
    assert row["w_distance_val"] != before
    assert row["d_loss"] not in [float(one["d_loss"]) for one in measured[:-1]]


def test_a_training_leaves_the_files_and_the_screen_that_are_promised(
    here, image_folder, still, tmp_path
):
    image_folder("photos")
    code, screen, errors = here(f"--train {SMALL} --epoch 41 --save_every 100")
    assert (code, errors) == (0, "")  # 44 training images, 5 iterations per epoch
    folder, samples = tmp_path / "checkpoint/photos_8_8_8", tmp_path / "samples"
    names = {path.name.split(".data")[0] for path in folder.iterdir() if "events" not in path.name}
    assert names == {
        *(".lock", "checkpoint", "config.json", "log.jsonl"),
        *(f"ckpt-{iteration}{end}" for iteration in (100, 200, 205) for end in ("", ".index")),
    }
    assert list(folder.glob("events.out.tfevents.*"))
    grids = [utils.grid_name(iteration, 5) for iteration in (*range(0, 205, 20), 205)]
    pictures = {"real.png", "loss.png", "training.gif", ".lock", ".run", *grids}
    assert {path.name for path in samples.iterdir()} == pictures
    assert grids[-1] == "train_41_0000.png"
    rows = log_rows(folder)
    assert [row["iteration"] for row in rows] == list(range(10, 206, 10))
    assert list(json.loads((folder / "log.jsonl").read_text().splitlines()[0])) == [
        *("iteration", "epoch", "d_loss", "g_loss", "w_distance", "w_distance_val"),
        *("penalty", "slope", "seconds", "images_per_second"),
    ]
    assert [row["epoch"] for row in rows] == [row["iteration"] // 5 for row in rows]
    lines = screen.splitlines()
    assert re.fullmatch(r"Device: .+, \d+ threads, float32", lines[0])
    assert lines[1] == "Training images: samples/real.png"
    line = r"Epoch: \[40\] \[   0/   5\] time: \d+\.\d, d_loss: -?\d+\.\d+, g_loss: -?\d+\.\d+"
    assert re.fullmatch(line, lines[2])
    code, screen, _ = here(f"--train {SMALL} --epoch 41 --save_every 100")
    assert code == 0 and "is at iteration 205: nothing left to train" in screen


def test_going_on_removes_the_grid_of_an_earlier_end_that_is_off_the_raster(here, folder, still):
    code, screen, _ = here(f"--train {SMALL} --sample_every 15 --max_iterations 50")
    assert code == 0 and "Going on from iteration 40 of 50" in screen
    assert [path.name for _, path in utils.list_grids("samples")] == [
        utils.grid_name(iteration, 5) for iteration in (0, 20, 45, 50)
    ]


def test_from_scratch_an_earlier_runs_pictures_are_removed_and_it_says_so(here, folder, still):
    Path("samples/mine.png").touch()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 10 --checkpoint_dir other")
    assert code == 0 and "5 pictures of another run in samples removed" in screen
    grids = {utils.grid_name(iteration, 5) for iteration in (0, 10)}
    names = {path.name for path in Path("samples").glob("*.png")}
    assert names == {"mine.png", "real.png", "loss.png", *grids}


def test_changed_settings_are_refused_and_nothing_changes(here, folder, tmp_path):
    here(f"--train {SMALL} --max_iterations 40")  # converts the folder
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    code, _, errors = here(f"--train {SMALL} --max_iterations 60 --ema 0.5 --learning_rate 1e-3")
    assert code == 2 and errors.count("\n") == 1
    assert "ema is 0.999 in the run and 0.5 here" in errors
    assert "learning_rate is 0.0002 in the run and 0.001 here" in errors
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_grids_of_another_run_in_the_same_folder_are_removed_on_going_on(here, folder, still):
    here(f"--train {SMALL.replace('batch_size 8', 'batch_size 16')} --max_iterations 10")
    code, screen, errors = here(f"--train {SMALL} --max_iterations 43")
    assert (code, errors) == (0, "") and "4 pictures of another run in samples removed" in screen
    assert [path.name for _, path in utils.list_grids("samples")] == [utils.grid_name(43, 5)]
    assert checkpoints.list_checkpoints(folder)[0][0] == 43


@pytest.mark.parametrize("lost", [True, False])
def test_grids_stay_where_nothing_tells_whose_they_are(here, folder, lost, still):
    samples = folder.parent.parent / "samples"
    before = {path.name for _, path in utils.list_grids(samples)}
    (samples / ".run").unlink() if lost else (samples / ".run").write_bytes(b"")
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors) == (0, "") and "removed" not in screen
    assert before <= {path.name for _, path in utils.list_grids(samples)}


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


@pytest.mark.usefixtures("with_xla")
def test_layer_norm_is_quiet(tmp_path, image_folder, capfd):
    """Keras' and TensorFlow's own layer norm warn, the latter from C++."""
    image_folder("photos")
    train_in(tmp_path, f"{SMALL} --critic_norm layer --max_iterations 1")
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("with_xla")
@pytest.mark.parametrize("arch", ["dcgan", "resnet"])
def test_labels_are_quiet(arch, tmp_path, image_folder, capfd):
    """Derivatives of a tile of the bias, or of a mean, would have oneDNN complain, from C++."""
    image_folder("photos", classes=3)
    train_in(tmp_path, f"{SMALL} --arch {arch} --conditional True --max_iterations 1")
    assert capfd.readouterr().err == ""


def test_a_dry_run_tells_all_and_changes_nothing(here, folder, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, screen, _ = here(f"--train {SMALL} --checkpoint_dir none --dry_run")
    assert code == 0
    for part in ("optimizer adam", "44 training images of 44, 16 held out", "Device: ", "linear1"):
        assert part in screen
    assert re.search(r"Time: \d+\.\d\d s per iteration", screen)
    assert re.search(r"Disk: \d+ MB at most", screen)
    assert "clip_up (no effect)" in screen and "max_iterations None" in screen
    code, screen, _ = here(f"--train {SMALL} --max_iterations 5 --dry_run")
    assert code == 0 and "is at iteration 40: nothing left to train" in screen
    code, screen, _ = here(f"{FIND} --dry_run")
    assert code == 0 and "make the test pictures with checkpoint/photos_8_8_8/ckpt-40" in screen
    assert "make the scores of 10000 pictures with" in here(f"{FIND} --evaluate --dry_run")[1]
    assert here("--gif --dry_run --sample_dir nowhere")[0] == 2
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_decodes_a_part_of_a_large_folder_and_tells_of_all(here, labelled, monkeypatch):
    monkeypatch.setattr(dry_run, "SAMPLE", 50)
    converted = []
    read = image_file.read_image
    monkeypatch.setattr(image_file, "read_image", lambda *x: converted.append(x) or read(*x))
    words = f"--train {SMALL} --conditional True --dry_run"
    before = sorted(labelled.rglob("*"))
    code, screen, _ = here(f"{words} --cache_dir none --checkpoint_dir none")
    assert code == 0 and sorted(labelled.rglob("*")) == before and len(converted) == 50
    assert "380 training images of 380, 20 held out" in screen and "3 classes" in screen
    assert "to iteration 1175 in" in screen  # 25 epochs of 380 // 8
    assert re.search(r"Conversion: at most \d+ s for 400 files, 0\.1 MB in none", screen)
    here(f"--train {SMALL} --conditional True --max_iterations 2")  # converts the copied folder
    converted.clear()
    screen = here(f"{words} --max_iterations 10")[1]
    assert "from iteration 2 to iteration 10" in screen and "Conversion" not in screen
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
    done = run_to_end(
        [sys.executable, "-c", LOADED, *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert ("--LAMBDA" in done.stdout) == (words == ["--help"])
    assert (tmp_path / "samples/training.gif").exists() == (words != ["--help"])


def test_help_answers_in_under_half_a_second():
    """Of the processor's time, as others may keep it busy."""
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run_to_end([sys.executable, "main.py", "--help"], cwd=ROOT).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5
