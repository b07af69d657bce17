"""Runs that are interrupted, or fail while they train: signals, numbers, disks, folders."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    PATIENCE,
    ROOT,
    RUN,
    SMALL,
    checkpoint_values,
    log_rows,
    run_to_end,
    wait_until,
)

import model
import utils
from run import checkpoints, outputs

# What happens between two iterations, for tests to happen then.


def at_iteration(monkeypatch, number, happen):
    """Call `happen()` in a training after an iteration, before its row, grid and checkpoint."""
    advance = outputs.Outputs.advance

    def advance_and_happen(self, iteration):
        if iteration == number:
            happen()
        advance(self, iteration)

    monkeypatch.setattr(outputs.Outputs, "advance", advance_and_happen)


def interrupt(number=signal.SIGINT):
    """Send a signal to this process."""
    os.kill(os.getpid(), number)


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
HEARD = "Stopping after this iteration; once more stops at once.\n"


@pytest.mark.parametrize("number, code", SIGNALS)
def test_an_interruption_saves_its_iteration_and_says_how_to_go_on(
    here, folder, still, monkeypatch, number, code
):
    at_iteration(monkeypatch, 43, lambda: interrupt(number))
    found, screen, errors = here(f"--train {SMALL} --log_every 1 --max_iterations 100")
    assert (found, errors) == (code, HEARD)
    assert "Interrupted: iteration 43 is saved. The same command goes on from there.\n" in screen
    assert checkpoints.list_checkpoints(folder)[0][0] == log_rows(folder)[-1]["iteration"] == 43
    assert not Path("samples", utils.grid_name(43, 5)).exists()


def start_training(start, place, words, **streams):
    """Start a training of `SMALL` in a folder; returns the process."""
    words = [sys.executable, ROOT / "main.py", "--train", *SMALL.split(), *words.split()]
    return start(words, cwd=place, **streams)


@pytest.mark.slow
@pytest.mark.parametrize("number, code", SIGNALS)
def test_a_process_that_is_interrupted_saves_its_iteration(start, folder, number, code):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start_training(start, folder.parent.parent, "--epoch 100000", **pipes)
    wait_until(lambda: len(log_rows(folder)) > 5, process)
    process.send_signal(number)
    screen, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (code, HEARD)
    assert f"Interrupted: iteration {checkpoints.list_checkpoints(folder)[0][0]} is saved" in screen


@pytest.mark.slow
def test_a_second_interruption_stops_at_once_and_does_no_harm(start, folder):
    before = {path.name: path.read_bytes() for path in folder.glob("ckpt-*")}
    place, endless = folder.parent.parent, folder.parent / "photos_16_8_8"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    words = "--batch_size 16 --critic_num 1000000 --sample_dir others"
    process = start_training(start, place, words, **pipes)
    # The grid of iteration 0 is written where signals are caught already.
    wait_until((place / "others" / utils.grid_name(0, 2)).exists, process)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == HEARD
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and (endless / "config.json").exists()
    assert not list(endless.glob("ckpt-*"))
    assert before == {path.name: path.read_bytes() for path in folder.glob("ckpt-*")}


def test_an_interruption_of_the_last_iteration_finds_the_run_done(here, folder, still, monkeypatch):
    at_iteration(monkeypatch, 45, interrupt)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 45")
    assert (code, errors) == (0, HEARD)
    assert "Done: 45 iterations" in screen and "Interrupted" not in screen


@pytest.mark.parametrize("distribute", ["none", "mirrored"])
def test_an_interruption_before_the_first_iteration_saves_iteration_0(
    here, folder, monkeypatch, distribute
):
    write = outputs.Outputs.write_grid

    def interrupted(*arguments):
        interrupt()
        write(*arguments)

    monkeypatch.setattr(outputs.Outputs, "write_grid", interrupted)
    places = "--checkpoint_dir another --sample_dir others"
    code, screen, errors = here(f"--train {SMALL} --distribute {distribute} {places}")
    assert (code, errors) == (130, HEARD) and "iteration 0 is saved" in screen
    assert [i for i, _ in checkpoints.list_checkpoints("another/photos_8_8_8")] == [0]


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
def test_a_batch_too_large_for_the_memory_is_one_line(here, folder, monkeypatch, error):
    def exhausted(self, data, i):
        raise error

    monkeypatch.setattr(model.WGAN, "train_iteration", exhausted)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors.count("\n")) == (1, 1) and "Stopped at iteration 40: iter" in screen
    assert "out of memory: end other programs, or use a smaller --batch_size" in errors


@pytest.mark.parametrize("task", ["--train --max_iterations 60", "--generate 5"])
def test_a_failure_of_tensorflow_is_one_line(here, folder, monkeypatch, task):
    def fail(*_):
        raise tf.errors.InternalError(None, None, "Autotuner could not compile any configs")

    for name in ("train_iteration", "sample"):
        monkeypatch.setattr(model.WGAN, name, fail)
    code, screen, errors = here(f"{task} {SMALL}")
    assert (code, errors.count("\n")) == (1, 1)
    assert "TensorFlow failed (Autotuner could not compile any configs): install" in errors
    assert ("Stopped at iteration 40: iteration 40 is saved" in screen) == ("train" in task)


def test_pictures_too_many_for_the_memory_are_one_line(here, folder, monkeypatch):
    def exhausted(self, z, labels):
        raise MemoryError

    monkeypatch.setattr(model.WGAN, "sample", exhausted)
    code, _, errors = here(f"--generate 5 {SMALL}")
    assert (code, errors.count("\n")) == (1, 1) and "out of memory" in errors


def test_a_second_signal_ends_the_process_whatever_code_it_hits():
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from system import signals

with signals.caught():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as TensorFlow, where C++ has called Python
        os._exit(1)
"""
    ended = run_to_end([sys.executable, "-c", script])
    assert ended.returncode == 130
    assert ended.stderr.endswith("once more stops at once.\nmain.py: interrupted\n")


def test_ctrl_c_that_ends_the_reader_of_the_screen_too_saves_all_the_same(start, folder):
    """As in `python main.py ... | tee log`, where both hear it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    words = "--max_iterations 100000 --save_every 100000"
    program = start_training(start, folder.parent.parent, words, **pipes)
    wait_until(lambda: len(log_rows(folder)) > 5, program)
    program.stdout.close()
    program.send_signal(signal.SIGINT)
    assert program.wait(PATIENCE) == 130
    assert checkpoints.list_checkpoints(folder)[0][0] > 50


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_before_there_is_anything_to_save_is_one_line(number, code):
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import config, main


def parse(argv):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as while TensorFlow is imported
    os.kill(os.getpid(), {int(number)})

config.parse = parse
main.main([])
"""
    ended = run_to_end([sys.executable, "-c", script])
    assert (ended.returncode, ended.stderr) == (code, "main.py: interrupted\n")


def test_a_learning_rate_that_is_far_too_large_stops_the_run(here, image_folder, tmp_path):
    image_folder("photos")
    code, _, errors = here(f"--train {SMALL} --max_iterations 7 --learning_rate 1e9")
    assert code == 1 and errors.count("\n") == 1
    assert re.search(r"\w+'s \S+ is not finite at iteration 7; the last checkpoint", errors)
    assert "smaller --learning_rate" in errors
    assert not checkpoints.list_checkpoints(tmp_path / RUN)


def test_a_nan_stops_the_run_within_a_row_and_keeps_the_last_checkpoint(here, folder, monkeypatch):
    import draws

    whole = draws.critic_draws

    def spoilt(seed, m, *rest):
        z, alpha, noise = whole(seed, m, *rest)
        return z * (np.nan if m >= 5 * 42 else 1), alpha, noise

    monkeypatch.setattr(draws, "critic_draws", spoilt)
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "d_loss is nan at iteration 50; the last checkpoint is kept" in errors
    assert checkpoints.list_checkpoints(folder)[0][0] == 40
    assert [row["iteration"] for row in log_rows(folder)] == [10, 20, 30, 40]


def test_a_gif_that_cannot_be_made_does_not_cost_the_checkpoint(here, folder, still):
    Path("samples/train_00_0001.png").write_bytes(b"")
    code, screen, _ = here(f"--train {SMALL} --max_iterations 43")
    assert code == 0 and "No training.gif: samples/train_00_0001.png: cannot be read" in screen
    assert checkpoints.list_checkpoints(folder)[0][0] == 43
    code, _, errors = here("--gif")
    assert code == 2 and "train_00_0001.png: cannot be read" in errors


def test_a_screen_on_a_full_disk_stops_no_training(here, folder, still, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors) == (0, "")
    assert checkpoints.list_checkpoints(folder)[0][0] == 60


@contextlib.contextmanager
def files_limited(size):
    """Let this process write no file beyond a size in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [200_000, 20_000])  # with room for the plot, and without
def test_a_disk_without_room_is_named_and_the_last_checkpoint_stays_good(here, folder, still, size):
    here(f"--train {SMALL} --max_iterations 40")  # converts the folder
    with files_limited(size):
        code, _, errors = here(f"--train {SMALL} --max_iterations 60 --sample_every 1000")
    assert code == 1 and errors.count("\n") == 1
    assert (
        "ckpt-60: cannot be written (File too large); earlier checkpoints stay: make room" in errors
    )
    assert checkpoints.list_checkpoints(folder)[0][0] == 40 and not list(folder.glob("*_temp"))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and "Going on from iteration 40 of 60" in screen


def test_a_disk_without_room_for_events_starts_no_training(here, folder, still):
    here(f"--train {SMALL} --max_iterations 40")  # converts the folder
    with files_limited(4_000):
        code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and errors.count("\n") == 1
    assert "TensorBoard's events cannot be written (File too large); make" in errors
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and "Going on from iteration 40 of 60" in screen


def test_a_disk_too_full_for_events_is_one_line(here, folder, still, monkeypatch):
    def refuse(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", refuse)
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and errors.count("\n") == 1
    assert "events cannot be written (No space left on device)" in errors


@pytest.mark.parametrize("gone", [RUN, "samples"])
def test_a_folder_deleted_under_the_program_ends_it_in_one_line(
    here, folder, still, monkeypatch, gone
):
    at_iteration(monkeypatch, 65, lambda: os.rename(gone, "elsewhere"))
    code, screen, errors = here(f"--train {SMALL} --epoch 100000")
    assert code == 1 and errors.count("\n") == 1 and gone in errors
    assert "The same command goes on" in screen and not os.path.exists(gone)
    # Without a folder for pictures the iteration is saved all the same.
    kept, iteration = (Path("elsewhere"), 60) if gone == RUN else (folder, 80)
    assert checkpoints.list_checkpoints(kept)[0][0] == iteration
    assert checkpoint_values(kept / f"ckpt-{iteration}")


# Folders that others write to.


def test_a_training_that_slips_in_before_the_lock_is_noticed(here, folder, monkeypatch):
    whole, calls = checkpoints.list_checkpoints, iter(range(9))
    monkeypatch.setattr(
        checkpoints, "list_checkpoints", lambda path: whole(path) if next(calls) else []
    )
    before = sorted(path.name for path in folder.glob("ckpt-*"))
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 2 and "another training has just ended there" in errors
    assert before == sorted(path.name for path in folder.glob("ckpt-*"))


@pytest.mark.parametrize("words", ["--train", ""])
@pytest.mark.parametrize("where", ["data/photos", "data/photos/inner"])
def test_nothing_is_written_into_the_data_set(here, folder, words, where):
    data = folder.parent.parent / "data/photos"
    (data / "train_00_0000.png").touch()
    before = sorted(data.iterdir())
    code, _, errors = here(f"{words} {SMALL} --sample_dir {where}")
    assert code == 2 and "inside the data set" in errors and sorted(data.iterdir()) == before
