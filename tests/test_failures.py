"""Runs that are interrupted, or fail while they train: signals, numbers, disks, folders."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, RUN, SMALL, checkpoint_values, log_rows

import model
import runs
import train
import utils

pytestmark = pytest.mark.program


def hear_ctrl_c():
    """Undo what a shell does to its background jobs, under which these tests may run, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(place, words, **streams):
    """Start a training of `SMALL` in a folder; returns the process."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), "--train", *SMALL.split(), *words.split()],
        cwd=place,
        preexec_fn=hear_ctrl_c,
        **streams,
    )


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_saves_the_state_and_says_how_to_go_on(
    image_folder, tmp_path, number, code
):
    image_folder("photos")
    folder = tmp_path / "checkpoint/photos_8_8_8"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(tmp_path, "--log_every 1 --epoch 100000", **pipes)
    deadline = time.time() + 120
    while time.time() < deadline and not (
        (folder / "log.jsonl").exists() and len((folder / "log.jsonl").read_bytes()) > 2000
    ):
        time.sleep(0.05)
    process.send_signal(number)
    screen, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    state = max(state for state, _ in runs.list_checkpoints(folder))
    assert f"Interrupted: state {state} is saved. The same command goes on from there." in screen
    assert errors.splitlines() == ["Stopping after this iteration; once more stops at once."]
    assert log_rows(folder)[-1]["iteration"] == state
    if state % 20:
        assert not (tmp_path / "samples" / utils.grid_name(state, 5)).exists()
    assert os.path.exists(folder / "config.json")


def test_a_second_interruption_stops_at_once_and_does_no_harm(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("ckpt-*")}
    endless = folder.parent / "photos_16_8_8"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    words = "--batch_size 16 --critic_num 1000000"
    process = start(folder.parent.parent, words, **pipes)
    deadline = time.time() + 120
    while not (endless / "config.json").exists() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    assert "once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130 and (endless / "config.json").exists()
    assert before == {path.name: path.read_bytes() for path in folder.glob("ckpt-*")}


def test_an_interruption_of_the_last_iteration_finds_the_run_done(here, image_folder, monkeypatch):
    image_folder("photos")
    leave = train.Training.leave_traces

    def interrupted(self, measured, bar):
        if self.state == 5:
            os.kill(os.getpid(), signal.SIGINT)
        leave(self, measured, bar)

    monkeypatch.setattr(train.Training, "leave_traces", interrupted)
    code, screen, _ = here(f"--train {SMALL} --max_iterations 5")
    assert code == 0 and "Done: 5 iterations" in screen and "Interrupted" not in screen


@pytest.mark.parametrize("distribute", ["none", "mirrored"])
def test_an_interruption_before_the_first_iteration_saves_state_0(
    here, folder, monkeypatch, distribute
):
    write = train.Training.write_grid

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGINT)
        write(self)

    monkeypatch.setattr(train.Training, "write_grid", interrupted)
    places = "--checkpoint_dir another --sample_dir others"
    code, screen, _ = here(f"--train {SMALL} --distribute {distribute} {places}")
    assert code == 130 and "state 0 is saved" in screen
    assert [state for state, _ in runs.list_checkpoints("another/photos_8_8_8")] == [0]


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
def test_a_batch_too_large_for_the_memory_is_one_line(here, folder, monkeypatch, error):
    def exhausted(self, data, i):
        raise error

    monkeypatch.setattr(model.WGAN, "train_iteration", exhausted)
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and errors.count("\n") == 1
    assert "out of memory at iteration 40; state 40 is saved" in errors and "--batch_size" in errors


def test_pictures_too_many_for_the_memory_are_one_line(here, folder, monkeypatch):
    def exhausted(self, z, labels, raw):
        raise MemoryError

    monkeypatch.setattr(model.WGAN, "sample", exhausted)
    code, _, errors = here(f"--generate 5 {SMALL}")
    assert (code, errors.count("\n")) == (1, 1) and "out of memory" in errors


def test_a_second_signal_ends_the_process_whatever_code_it_hits():
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import signals

with signals.caught():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as TensorFlow, where C++ has called Python
        os._exit(1)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=hear_ctrl_c
    )
    assert ended.returncode == 130
    assert ended.stderr.endswith("once more stops at once.\nmain.py: interrupted\n")


def test_ctrl_c_that_ends_the_reader_of_the_screen_too_saves_all_the_same(folder):
    """As in `python main.py ... | tee log`, where both hear it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    words = "--max_iterations 100000 --save_every 100000"
    program = start(folder.parent.parent, words, **pipes)
    while len(log_rows(folder)) <= 5:
        assert program.poll() is None
        time.sleep(0.05)
    program.stdout.close()
    program.send_signal(signal.SIGINT)
    assert program.wait(60) == 130
    assert runs.list_checkpoints(folder)[0][0] > 50


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
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, preexec_fn=hear_ctrl_c
    )
    assert (ended.returncode, ended.stderr) == (code, "main.py: interrupted\n")


@pytest.mark.parametrize("log_every", [2, 50])
def test_a_learning_rate_that_is_far_too_large_stops_the_run(
    here, image_folder, tmp_path, log_every
):
    image_folder("photos")
    words = f"--train {SMALL} --max_iterations 7 --learning_rate 1e9 --log_every {log_every}"
    code, _, errors = here(words)
    assert code == 1 and errors.count("\n") == 1
    found = re.search(r"(\w+) is (inf|-inf|nan|not finite) at iteration (\d+); the last", errors)
    assert int(found[3]) <= min(log_every, 7) and "smaller --learning_rate" in errors
    assert not runs.list_checkpoints(tmp_path / RUN)


def test_a_nan_stops_the_run_within_a_row_and_keeps_the_last_checkpoint(here, folder, monkeypatch):
    import draws

    whole = draws.critic_draws

    def spoilt(seed, m, *rest):
        z, alpha, noise = whole(seed, m, *rest)
        return z * (np.nan if m >= 5 * 42 else 1), alpha, noise

    monkeypatch.setattr(draws, "critic_draws", spoilt)
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "d_loss is nan at iteration 50; the last checkpoint is kept" in errors
    assert runs.list_checkpoints(folder)[0][0] == 40
    monkeypatch.setattr(draws, "critic_draws", whole)
    code, screen, _ = here(f"--train {SMALL} --max_iterations 50")
    assert code == 0 and "Going on from state 40 of 50" in screen


def test_a_gif_that_cannot_be_made_does_not_cost_the_checkpoint(here, image_folder, tmp_path):
    image_folder("photos")
    (tmp_path / "samples").mkdir()
    here(f"--train {SMALL} --max_iterations 10")
    (tmp_path / "samples/train_00_0001.png").write_bytes(b"")
    code, screen, _ = here(f"--train {SMALL} --max_iterations 13")
    assert code == 0 and "No training.gif: samples/train_00_0001.png: cannot be read" in screen
    assert runs.list_checkpoints(tmp_path / "checkpoint/photos_8_8_8")[0][0] == 13
    code, _, errors = here("--gif")
    assert code == 2 and "train_00_0001.png: cannot be read" in errors


def test_a_screen_on_a_full_disk_stops_no_training(folder):
    with open("/dev/full", "w") as full:
        pipes = {"stdout": full, "stderr": subprocess.PIPE}
        program = start(folder.parent.parent, "--max_iterations 60", **pipes)
    _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, b"")
    assert runs.list_checkpoints(folder)[0][0] == 60


def limited(folder, size, *words):
    """Run the training with a limit on the size of the files that it writes, in bytes."""
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), "--train", *SMALL.split(), *words],
        cwd=folder.parent.parent,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "size, message",
    [
        (200_000, "ckpt-60: cannot be written"),
        (4_000, "File too large at iteration 60; state 40 is saved"),
    ],
)
def test_a_disk_without_room_is_named_and_the_last_checkpoint_stays_good(
    here, folder, size, message
):
    here(f"--train {SMALL} --max_iterations 40")  # converts the folder
    done = limited(folder, size, "--max_iterations", "60", "--sample_every", "1000")
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("main.py: ") and "Traceback" not in done.stderr
    assert runs.list_checkpoints(folder)[0][0] == 40 and not list(folder.glob("*_temp"))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and "Going on from state 40 of 60" in screen


def test_a_disk_too_full_for_events_is_one_line(here, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", refuse)
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and errors.count("\n") == 1
    assert "events cannot be written (No space left on device)" in errors


@pytest.mark.parametrize("gone", [RUN, "samples"])
def test_a_folder_deleted_under_the_program_ends_it_in_one_line(folder, gone):
    top = folder.parent.parent
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = start(top, "--epoch 100000", **pipes)
    deadline = time.time() + 120
    while runs.list_checkpoints(folder)[0][0] == 40 and time.time() < deadline:
        time.sleep(0.05)
    (top / gone).rename(top / "elsewhere")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and errors.count("\n") == 1 and gone in errors
    assert "the same command goes on" in errors and not (top / gone).exists()
    kept = top / "elsewhere" if gone == RUN else folder
    assert checkpoint_values(runs.list_checkpoints(kept)[0][1])


# Files from outside.


def test_a_training_that_slips_in_before_the_lock_is_noticed(here, folder, monkeypatch):
    whole, lists = runs.list_checkpoints, iter([[], None])
    monkeypatch.setattr(
        runs, "list_checkpoints", lambda path: whole(path) if next(lists, None) is None else []
    )
    before = sorted(path.name for path in folder.glob("ckpt-*"))
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 2 and "another training has just ended there" in errors
    assert before == sorted(path.name for path in folder.glob("ckpt-*"))


@pytest.mark.parametrize("rhythm, last", [("", 5), ("--log_every 99 --sample_every 99", 20)])
def test_a_folder_that_another_training_made_again_is_not_written_to(
    here, folder, monkeypatch, rhythm, last
):
    samples, states = folder.parent.parent / "samples", []
    whole = model.WGAN.train_iteration

    def train_iteration(*arguments):
        states.append(None)
        if len(states) == last:
            for place in (folder, samples):
                shutil.rmtree(place)
                place.mkdir()
                (place / ".lock").touch()
        return whole(*arguments)

    monkeypatch.setattr(model.WGAN, "train_iteration", train_iteration)
    code, _, errors = here(f"--train {SMALL} {rhythm} --max_iterations 70")
    assert code == 1 and "the folder was deleted" in errors and errors.count("\n") == 1
    assert [[p.name for p in place.iterdir()] for place in (folder, samples)] == [[".lock"]] * 2


@pytest.mark.parametrize("words", ["--train", ""])
@pytest.mark.parametrize("where", ["data/photos", "data/photos/inner"])
def test_nothing_is_written_into_the_data_set(here, folder, words, where):
    data = folder.parent.parent / "data/photos"
    (data / "train_00_0000.png").touch()
    before = sorted(data.iterdir())
    code, _, errors = here(f"{words} {SMALL} --sample_dir {where}")
    assert code == 2 and "inside the data set" in errors and sorted(data.iterdir()) == before
