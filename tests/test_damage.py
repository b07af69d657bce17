"""What a run finds damaged, cut or gone when it is started again."""

import os
import re
import resource
import shutil

import numpy as np
import pytest
from conftest import ROOT, RUN, SMALL, checkpoint_values, tf
from numpy.testing import assert_array_equal

import model
import runs
import utils
import weights
from errors import Failed

pytestmark = pytest.mark.program

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
    assert weights.restore_newest(gan, runs.list_checkpoints(folder)) == 20
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


@pytest.mark.parametrize("error", ["ResourceExhausted", "Unavailable", "Unknown"])
def test_what_the_system_refuses_is_no_damage(gan, folder, monkeypatch, error):
    def read(prefix):
        words = f"{{{{function_node x}}}} {prefix}.index; Too many open files [Op:RestoreV2]"
        raise getattr(tf.errors, f"{error}Error")(None, None, words)

    with monkeypatch.context() as patch, pytest.raises(Failed, match=r"\(Too many open files\)"):
        patch.setattr(gan.checkpoint, "read", read)
        weights.restore_newest(gan, runs.list_checkpoints(folder))
    assert not list(folder.glob("*.damaged"))


def test_a_checkpoint_that_cannot_be_opened_is_no_damaged_one(gan, folder):
    """With no file handle left, which TensorFlow reports as it does a file cut short."""
    checkpoints = runs.list_checkpoints(folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, limits[1]))
    try:
        with pytest.raises(Failed, match=r"\(Too many open files\)"):
            weights.restore_newest(gan, checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(last)
    assert not list(folder.glob("*.damaged"))


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


def test_what_was_set_aside_outlives_its_name(gan, folder):
    runs.set_aside(str(folder / "ckpt-40"))
    gan.save(str(folder / "ckpt-40"), 40)
    runs.keep_newest(folder, 1)
    gan.save(str(folder / "ckpt-50"), 50)
    runs.keep_newest(folder, 1)
    assert [state for state, _ in runs.list_checkpoints(folder)] == [50]
    assert len(list(folder.glob("ckpt-40.*.damaged"))) == 2


def test_checkpoints_without_any_index_are_not_started_over_even_with_an_empty_state_file(
    here, folder
):
    (folder / "checkpoint").write_text("")
    for path in folder.glob("ckpt-*.index"):
        path.unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 70")
    assert code == 1 and "all checkpoints there are damaged" in errors


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


def test_a_checkpoint_without_its_configuration_is_refused(here, image_folder, tmp_path):
    image_folder("photos")
    here(f"--train {SMALL} --max_iterations 5")
    (tmp_path / "checkpoint/photos_8_8_8/config.json").unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 9")
    assert code == 2 and "config.json: damaged" in errors and errors.count("\n") == 1


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


@pytest.mark.parametrize("content", [b"z" * 64, b"\xff" * 64, b"", b"abc"])
def test_a_damaged_note_of_whose_pictures_they_are_costs_none(here, folder, content):
    samples = folder.parent.parent / "samples"
    before = {path.name for _, path in utils.list_grids(samples)}
    (samples / ".run").write_bytes(content)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors) == (0, "") and "removed" not in screen
    assert before <= {path.name for _, path in utils.list_grids(samples)}


def test_a_run_from_before_a_flag_existed_has_its_default(here, folder):
    change(folder / "config.json", ',\n    "precision": "float32"', "")
    code, _, errors = here(f"--train {SMALL} --precision bfloat16 --max_iterations 60")
    assert code == 2 and "precision is float32 in the run and bfloat16 here" in errors
    assert here(f"--train {SMALL} --max_iterations 60")[0] == 0


@pytest.mark.parametrize("left, first", [(0, 1), (2, 21)])
def test_a_log_that_lost_rows_is_told_of(here, folder, left, first):
    rows = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:left]))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and f"log.jsonl has no rows from {first} to 40" in screen


def test_a_whole_log_is_not_told_of(here, folder):
    assert "has no rows" not in here(f"--train {SMALL} --max_iterations 60")[1]


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
