"""Runs that are interrupted, damaged or short of room, and what a file from outside may not do."""

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
from conftest import ROOT, SMALL, checkpoint_values, log_rows
from numpy.testing import assert_array_equal
from PIL import Image

import model
import runs
import train
import utils

pytestmark = pytest.mark.program


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the data and the run that `SMALL` describes, at state 40 after 20."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(2)
    (folder / "data/photos").mkdir(parents=True)
    for i in range(60):
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"data/photos/{i}.jpg")
    words = [sys.executable, str(ROOT / "main.py"), "--train", *SMALL.split()]
    subprocess.run([*words, "--max_iterations", "40"], cwd=folder, check=True)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """The folder of that run's checkpoints in a copy of its own."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / RUN


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


RUN = "checkpoint/photos_8_8_8"
NEWEST = "ckpt-40.data-00000-of-00001"


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "cut short": lambda f: cut(f / NEWEST),
    "a flipped bit": lambda f: flip_a_bit(f / NEWEST),
    "zero bytes": lambda f: (f / NEWEST).write_bytes(b""),
    "all zeros": lambda f: (f / NEWEST).write_bytes(bytes((f / NEWEST).stat().st_size)),
    "data missing": lambda f: (f / NEWEST).unlink(),
    "index cut short": lambda f: cut(f / "ckpt-40.index"),
    "index of zero bytes": lambda f: (f / "ckpt-40.index").write_bytes(b""),
    "index flipped": lambda f: flip_a_bit(f / "ckpt-40.index"),
    "index missing": lambda f: (f / "ckpt-40.index").unlink(),
    "index and state file missing": lambda f: [
        (f / name).unlink() for name in ("ckpt-40.index", "checkpoint")
    ],
}


@pytest.fixture(scope="module")
def gan(trained):
    """A model of that run."""
    return model.WGAN.load(trained / RUN)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_newest_good_one_taken(gan, folder, damage):
    wanted = checkpoint_values(folder / "ckpt-20")
    DAMAGES[damage](folder)
    runs.remove_leftovers(folder)
    assert train.restore_newest(gan, runs.list_checkpoints(folder)) == 20
    damaged = [path.name for path in folder.glob("*.damaged")]
    assert damaged and all(name.startswith("ckpt-40.") for name in damaged)
    gan.save(str(folder / "ckpt-again"), 20)
    for name, value in checkpoint_values(folder / "ckpt-again").items():
        assert_array_equal(value, wanted[name], err_msg=name)


@pytest.mark.parametrize("damage", ["a flipped bit", "index missing"])
def test_what_a_damaged_checkpoint_held_is_trained_again(here, folder, damage):
    wanted = checkpoint_values(folder / "ckpt-40")
    DAMAGES[damage](folder)
    # Where all seemed done, too.
    code, screen, _ = here(f"--train {SMALL} --max_iterations 40")
    assert code == 0 and "Going on from state 20 of 40" in screen
    assert re.search(r"checkpoint/photos_8_8_8/ckpt-40 is damaged \(.*\): renamed", screen)
    for name, value in checkpoint_values(folder / "ckpt-40").items():
        assert_array_equal(value, wanted[name], err_msg=name)
    code, screen, _ = here(f"--train {SMALL} --max_iterations 40")
    assert code == 0 and "is at iteration 40: nothing left to train" in screen


@pytest.mark.parametrize("content", [None, "", 'model_checkpoint_path: "ckpt-99"\n', "\xff\0{"])
def test_tensorflows_state_file_may_be_gone_or_wrong(here, folder, content):
    (folder / "checkpoint").unlink()
    if content is not None:
        (folder / "checkpoint").write_text(content)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 41")
    assert (code, errors) == (0, "") and "Going on from state 40 of 41" in screen
    assert 'model_checkpoint_path: "ckpt-41"' in (folder / "checkpoint").read_text()


def test_with_no_good_checkpoint_left_the_program_does_not_start_anew(here, folder):
    for path in folder.glob("ckpt-*.index"):
        path.write_bytes(b"")
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "no checkpoint there is whole" in errors
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "all checkpoints there are damaged" in errors
    assert len(list(folder.glob("ckpt-*.data*.damaged"))) == 2


def test_without_any_index_the_program_does_not_start_anew(here, folder):
    for path in folder.glob("ckpt-*.index"):
        path.unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "all checkpoints there are damaged" in errors


def test_a_first_checkpoint_that_was_never_finished_is_no_damage(here, folder):
    for name in ("checkpoint", "ckpt-40.index", "ckpt-20.index", "ckpt-20.data-00000-of-00001"):
        (folder / name).unlink()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 2")
    assert code == 0 and "Done: 2 iterations" in screen


def test_a_checkpoint_of_other_networks_is_no_damaged_one(
    here, image_folder, tmp_path, monkeypatch
):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10")
    import ops

    whole = ops.conv2d
    monkeypatch.setattr(ops, "conv2d", lambda x, filters, *rest: whole(x, filters + 1, *rest))
    code, _, errors = here(f"--train {SMALL} --max_iterations 20")
    assert code == 1 and "does not fit the networks" in errors and errors.count("\n") == 1
    assert (tmp_path / "checkpoint/photos_8_8_8/ckpt-10.index").exists()


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


def test_what_a_kill_left_of_a_checkpoint_is_removed(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 10")
    folder = tmp_path / "checkpoint/photos_8_8_8"
    (folder / "ckpt-12.new_temp").mkdir()
    (folder / "ckpt-12.new_temp/part").touch()
    (folder / "ckpt-13.new.index").touch()
    (folder / "ckpt-11.data-00000-of-00001").touch()
    assert here(f"--train {SMALL} --max_iterations 15")[0] == 0
    states = {path.name.split(".")[0] for path in folder.glob("ckpt-*")}
    assert states == {"ckpt-10", "ckpt-15"}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: (f / "generator.npz").write_bytes(b""), "generator.npz: damaged"),
        (lambda f: (f / "generator.npz").unlink(), "generator.npz: damaged"),
        (lambda f: cut(f / "generator.npz"), "generator.npz: damaged"),
        (lambda f: (f / "generator.json").write_text("{}"), "generator.json: damaged"),
        (lambda f: change(f / "generator.json", '"z_dim": 10', '"z_dim": "ten"'), "damaged"),
    ],
)
def test_a_damaged_shipped_generator_is_refused_in_one_line(
    here, image_folder, tmp_path, spoil, message
):
    from conftest import make_data, make_gan

    data = make_data()
    gan = make_gan(data, dataset="photos")
    folder = tmp_path / "checkpoint/photos_8_8_8"
    folder.mkdir(parents=True)
    gan.save_generator(folder / "generator.npz")
    runs.write_config(folder / "generator.json", gan.config, data.facts, {})
    run = "--dataset photos --batch_size 8 --output_height 8"
    assert here(run)[0] == 0
    spoil(folder)
    code, _, errors = here(run)
    assert code == 2 and message in errors and errors.count("\n") == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def change(path, old, new):
    path.write_text(path.read_text().replace(old, new))


def test_a_checkpoint_without_its_configuration_is_refused(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 5")
    (tmp_path / "checkpoint/photos_8_8_8/config.json").unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 9")
    assert code == 2 and "config.json: damaged" in errors and errors.count("\n") == 1


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


@pytest.mark.parametrize("content", [b"z" * 64, b"\xff" * 64, b"", b"abc"])
def test_a_damaged_note_of_whose_pictures_they_are_costs_none(here, folder, content):
    samples = folder.parent.parent / "samples"
    before = {path.name for _, path in utils.list_grids(samples)}
    (samples / ".run").write_bytes(content)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors) == (0, "") and "removed" not in screen
    assert before <= {path.name for _, path in utils.list_grids(samples)}


@pytest.mark.parametrize(
    "old, new",
    [
        ('"environment": {', '"environment": "x", "y": {'),
        ("8,", "[8],"),
        ('"batch_size": 8', '"batch_size": null'),
    ],
)
def test_a_configuration_of_other_types_is_refused(here, folder, old, new):
    change(folder / "config.json", old, new)
    for words in ("--train --max_iterations 60", "--generate 2"):
        code, _, errors = here(f"{words} {SMALL}")
        assert code == 2 and "config.json: damaged" in errors and errors.count("\n") == 1


@pytest.mark.parametrize("left, first", [(0, 1), (2, 21)])
def test_a_log_that_lost_rows_is_told_of(here, folder, left, first):
    rows = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:left]))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and f"log.jsonl has no rows of iterations {first} to 40" in screen


def test_a_whole_log_is_not_told_of(here, folder):
    assert "has no rows" not in here(f"--train {SMALL} --max_iterations 60")[1]


def test_a_screen_on_a_full_disk_stops_no_training(folder):
    with open("/dev/full", "w") as full:
        pipes = {"stdout": full, "stderr": subprocess.PIPE}
        program = start(folder.parent.parent, "--max_iterations 60", **pipes)
    _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, b"")
    assert runs.list_checkpoints(folder)[0][0] == 60


def test_a_training_that_slips_in_before_the_lock_is_noticed(here, folder, monkeypatch):
    whole, lists = runs.list_checkpoints, iter([[], None])
    monkeypatch.setattr(
        runs, "list_checkpoints", lambda path: whole(path) if next(lists, None) is None else []
    )
    before = sorted(path.name for path in folder.glob("ckpt-*"))
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 2 and "another training has just ended there" in errors
    assert before == sorted(path.name for path in folder.glob("ckpt-*"))


@pytest.mark.parametrize("content", [b"no archive", "npy", "encrypted"])
def test_whatever_is_wrong_with_a_shipped_generator_is_one_line(here, tmp_path, content):
    folder = tmp_path / "checkpoint/mnist_64_28_28"
    shutil.copytree(ROOT / "checkpoint/mnist_64_28_28", folder)
    path = folder / "generator.npz"
    if content == "npy":
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    elif content == "encrypted":
        spoilt = bytearray(path.read_bytes())
        spoilt[spoilt.rindex(b"PK\1\2") + 8] |= 1  # the flag bit, in the last directory entry
        path.write_bytes(spoilt)
    else:
        path.write_bytes(content)
    code, _, errors = here("")
    assert code == 2 and "generator.npz: damaged" in errors and errors.count("\n") == 1


# Short of room.


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


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_shipped_generator_with_a_pickle_in_it_is_refused_and_not_run(here, tmp_path):
    folder = tmp_path / "checkpoint/mnist_64_28_28"
    shutil.copytree(ROOT / "checkpoint/mnist_64_28_28", folder)
    with np.load(folder / "generator.npz") as archive:
        arrays = dict(archive)
    arrays[next(iter(arrays))] = np.array([Trap(tmp_path / "sprung")], object)
    np.savez(folder / "generator.npz", **arrays)
    code, _, errors = here("")
    assert code == 2 and "generator.npz: damaged" in errors and not (tmp_path / "sprung").exists()
    with np.load(folder / "generator.npz", allow_pickle=True) as archive:
        dict(archive)
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize(
    "setting",
    ["\"noise\": \"__import__('os').mkdir('sprung')\"", '"dataset": "../x"'],
)
def test_a_configuration_from_outside_is_only_read(here, folder, setting):
    name = setting.split(":")[0]
    text = (folder / "config.json").read_text()
    text = (
        re.sub(f"{name}: [^,]*", setting, text)
        if name in text
        else text.replace('"settings": {', f'"settings": {{{setting},')
    )
    (folder / "config.json").write_text(text)
    code, _, errors = here(f"--train {SMALL} --max_iterations 50")
    assert code == 2 and errors.count("\n") == 1
    assert not (folder.parent.parent / "sprung").exists()


def test_class_folders_of_any_name_lead_to_no_other_folder(here, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("$(touch x)", "a;b", "ü é", "..c"):
        place = tmp_path / "data/photos" / name
        place.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}.jpg")
    code, _, errors = here(f"--train {SMALL} --conditional True --max_iterations 3")
    assert (code, errors) == (0, "")
    assert here("--dataset photos --batch_size 8 --output_height 8 --generate 30")[0] == 0
    made = {path.name for path in (tmp_path / "samples/generated").iterdir()}
    assert made == {"class_0", "class_1", "class_2"}  # a name that begins with a dot is hidden
    assert {path.name for path in tmp_path.iterdir()} == {"data", "checkpoint", "samples"}


def test_nothing_in_the_program_can_run_what_a_file_brings():
    dangerous = re.compile(
        r"\b(eval|exec|__import__)\(|pickle\.loads?\(|load_model|allow_pickle=True|"
        r"marshal|shelve|yaml|unsafe|Lambda\("
    )
    for path in ROOT.glob("*.py"):
        assert not dangerous.search(path.read_text()), path


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_checkpoint_that_was_not_written_to_its_end_is_none(gan, folder, monkeypatch, renamed):
    before = runs.list_checkpoints(folder)
    whole, calls = os.replace, iter(range(9))

    def replace(*paths):
        if next(calls) == renamed:
            raise KeyboardInterrupt  # in place of a kill
        whole(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        gan.save(str(folder / "ckpt-60"), 60)
    runs.remove_leftovers(folder)
    assert runs.list_checkpoints(folder) == before
    assert not [*folder.glob("ckpt-60*"), *folder.glob("*.new*")]


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


def test_a_disk_too_full_for_events_is_one_line(here, folder, monkeypatch):
    def refuse(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "x; No space left on device")

    monkeypatch.setattr(tf.summary, "scalar", refuse)
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and errors.count("\n") == 1
    assert "events cannot be written (No space left on device)" in errors


@pytest.mark.parametrize(
    "old, new",
    [
        ('"seconds": ', '"seconds": null, "x": '),
        ('"iteration": 20', '"iteration": 20.5'),
        ('"iteration": 20', '"iteration": 70'),
        ('"iteration": 20', '"x": "y", "iteration": 20'),
        ('"iteration": 20', '"iteration": 10'),
    ],
)
def test_a_damaged_row_is_named_and_no_row_lost(here, folder, old, new):
    change(folder / "log.jsonl", old, new)
    before = (folder / "log.jsonl").read_bytes()
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and re.search(r"log.jsonl: line \d is damaged", errors)
    assert errors.count("\n") == 1 and (folder / "log.jsonl").read_bytes() == before


def test_checkpoints_without_any_index_are_not_started_over_even_with_an_empty_state_file(
    here, folder
):
    (folder / "checkpoint").write_text("")
    for path in folder.glob("ckpt-*.index"):
        path.unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "all checkpoints there are damaged" in errors


def test_what_was_set_aside_outlives_its_name(gan, folder):
    runs.set_aside(str(folder / "ckpt-40"))
    gan.save(str(folder / "ckpt-40"), 40)
    runs.keep_newest(folder, 1)
    gan.save(str(folder / "ckpt-50"), 50)
    runs.keep_newest(folder, 1)
    assert [state for state, _ in runs.list_checkpoints(folder)] == [50]
    assert len(list(folder.glob("ckpt-40.*.damaged"))) == 2


def test_odd_names_are_one_line_or_no_matter(here, folder):
    place = folder.parent.parent
    (place / "loop").symlink_to("loop")
    with open(os.fsencode(place / "data/photos") + b"/b\xff.jpg", "wb") as file:
        file.write(b"rubbish")
    for words, said in (
        ("--sample_dir loop", "loop"),
        ("--checkpoint_dir c\udcff", "\\udcff: expected a name"),
    ):
        code, _, errors = here(f"--train {SMALL} {words}")
        assert code == 2 and said in errors and errors.count("\n") == 1
    code, screen, errors = here(f"--train {SMALL} --checkpoint_dir c --max_iterations 1")
    assert code == 0 and "1 of 61 files are left out" in screen


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
