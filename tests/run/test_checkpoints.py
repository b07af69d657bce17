"""Checkpoints of a run: which are kept, and what happens where one cannot be read."""

import os
import re
import resource

import pytest
import tensorflow as tf
from conftest import FIND, RUN, SMALL, assert_same_run, checkpoint_values
from numpy.testing import assert_array_equal

import ops
from run import checkpoints, weights
from scores import evaluate, feature_networks
from system.errors import Failed

pytestmark = pytest.mark.usefixtures("with_xla")  # compared with runs of other processes
NEWEST = "ckpt-40.data-00000-of-00001"
SKIPPED = r"photos_8_8_8/ckpt-40 cannot be read and is skipped \([^{}]+\)\n"


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


DAMAGES = {
    "cut short": lambda f: cut(f / NEWEST),
    "a flipped bit": lambda f: flip_a_bit(f / NEWEST),
    "zero bytes": lambda f: (f / NEWEST).write_bytes(b""),
    "all zeros": lambda f: (f / NEWEST).write_bytes(bytes((f / NEWEST).stat().st_size)),
    "data missing": lambda f: (f / NEWEST).unlink(),
    "index cut short": lambda f: cut(f / "ckpt-40.index"),
    "index of zero bytes": lambda f: (f / "ckpt-40.index").write_bytes(b""),
    "index flipped": lambda f: flip_a_bit(f / "ckpt-40.index"),
}


def contents(folder, pattern="ckpt-*"):
    """Return all that these files hold, by name."""
    return {path.name: path.read_bytes() for path in folder.glob(pattern)}


def iterations(folder):
    """List the iterations of a folder's checkpoints."""
    return [iteration for iteration, _ in checkpoints.list_checkpoints(folder)]


def make_files(folder, *numbers):
    """Make files with the names of checkpoints."""
    for iteration in numbers:
        for ending in ("index", "data-00000-of-00001"):
            (folder / f"ckpt-{iteration}.{ending}").touch()


# Which are kept.


def named(folder):
    """List the iterations in TensorFlow's file `checkpoint`; the newest must be as it says."""
    found = tf.train.get_checkpoint_state(str(folder)).all_model_checkpoint_paths
    assert tf.train.latest_checkpoint(str(folder)) == found[-1]
    return [int(path.rsplit("-", 1)[1]) for path in found]


def test_the_newest_three_checkpoints_are_kept_and_named_as_tensorflow_does(tmp_path):
    make_files(tmp_path, 9, 100, 20, 3)
    checkpoints.keep_newest(tmp_path)
    assert iterations(tmp_path) == [100, 20, 9] and named(tmp_path) == [9, 20, 100]
    assert not list(tmp_path.glob("ckpt-3.*"))


def test_what_cannot_be_read_does_not_count_and_stays_until_a_newer_one_is_saved(tmp_path):
    make_files(tmp_path, 9, 100, 20, 3)
    checkpoints.keep_newest(tmp_path, [100])
    assert iterations(tmp_path) == [100, 20, 9, 3] and named(tmp_path) == [3, 9, 20]
    make_files(tmp_path, 30)  # older than what cannot be read
    checkpoints.keep_newest(tmp_path, [100])
    assert iterations(tmp_path) == [100, 30, 20, 9] and named(tmp_path) == [9, 20, 30]
    make_files(tmp_path, 110)
    checkpoints.keep_newest(tmp_path, [100])
    assert iterations(tmp_path) == [110, 30, 20] and named(tmp_path) == [20, 30, 110]
    assert not list(tmp_path.glob("ckpt-100.*"))


@pytest.mark.parametrize("content", [None, "", 'model_checkpoint_path: "ckpt-99"\n', "\xff\0{"])
def test_tensorflows_list_of_checkpoints_may_be_gone_or_wrong(here, folder, content, still):
    (folder / "checkpoint").unlink()
    if content is not None:
        (folder / "checkpoint").write_text(content)
    code, screen, errors = here(f"--train {SMALL} --max_iterations 41")
    assert (code, errors) == (0, "") and "Going on from iteration 40 of 41" in screen
    assert 'model_checkpoint_path: "ckpt-41"' in (folder / "checkpoint").read_text()


@pytest.mark.parametrize("renamed", [0, 1])
def test_a_checkpoint_that_was_not_written_to_its_end_is_none(gan, folder, monkeypatch, renamed):
    before = contents(folder)
    whole, calls = os.replace, iter(range(9))

    def replace(*paths):
        if next(calls) == renamed:
            raise KeyboardInterrupt  # in place of a kill
        whole(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", replace)
        gan.save(folder, 60)
    assert iterations(folder) == [40, 20]
    checkpoints.remove_leftovers(folder)
    assert contents(folder) == before


def test_what_a_kill_left_of_a_checkpoint_is_removed(here, folder, still):
    (folder / "ckpt-42.new_temp").mkdir()
    (folder / "ckpt-42.new_temp/part").touch()
    (folder / "ckpt-43.new.index").touch()
    (folder / "ckpt-41.data-00000-of-00001").touch()
    (folder / "ckpt-40.index").unlink()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 45")
    assert code == 0 and "Going on from iteration 20 of 45" in screen and "skipped" not in screen
    assert {path.name.split(".")[0] for path in folder.glob("ckpt-*")} == {
        *("ckpt-20", "ckpt-40", "ckpt-45")
    }


def test_a_first_checkpoint_that_was_never_finished_is_none(here, folder, still):
    for name in ("checkpoint", "ckpt-40.index", "ckpt-20.index", "ckpt-20.data-00000-of-00001"):
        (folder / name).unlink()
    code, screen, _ = here(f"--train {SMALL} --max_iterations 2")
    assert code == 0 and "Going on" not in screen and "Done: 2 iterations" in screen
    assert iterations(folder) == [2] and not (folder / NEWEST).exists()


# What cannot be read.


def restore_newest(gan, folder):
    """Restore the newest checkpoint in a folder that can be read."""
    return weights.restore_newest(gan, checkpoints.list_checkpoints(folder), folder)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_read_is_skipped_and_stays(gan, folder, capsys, damage):
    wanted = checkpoint_values(folder / "ckpt-20")
    DAMAGES[damage](folder)
    before = contents(folder)
    checkpoints.remove_leftovers(folder)
    assert restore_newest(gan, folder) == (20, [40])
    assert re.fullmatch(f".*{SKIPPED}", capsys.readouterr().out)
    checkpoints.keep_newest(folder, [40])
    assert contents(folder) == before
    gan.save(folder / "again", 20)
    for name, value in checkpoint_values(folder / "again/ckpt-20").items():
        assert_array_equal(value, wanted[name], err_msg=name)


def test_what_could_not_be_read_is_trained_again_and_counts_again(here, trained, folder, tmp_path):
    flip_a_bit(folder / NEWEST)
    # Where all seemed done, too.
    code, screen, _ = here(f"--train {SMALL} --max_iterations 40")
    assert code == 0 and "Going on from iteration 20 of 40" in screen
    assert re.search(f"checkpoint/{SKIPPED}", screen) and named(folder) == [20, 40]
    assert_same_run(trained / RUN, folder, trained / "samples", tmp_path / "samples")
    code, screen, _ = here(f"--train {SMALL} --max_iterations 40")
    assert code == 0 and "is at iteration 40: nothing left to train" in screen
    assert "skipped" not in screen


def test_what_was_trained_again_stays_when_the_same_start_goes_further(here, folder, still):
    flip_a_bit(folder / NEWEST)
    assert here(f"--train {SMALL} --max_iterations 60")[0] == 0
    assert iterations(folder) == [60, 40, 20] and named(folder) == [20, 40, 60]


def test_what_cannot_be_read_stays_until_the_run_is_past_it(here, folder, still):
    flip_a_bit(folder / NEWEST)
    damaged = contents(folder, "ckpt-40.*")
    words = f"--train {SMALL} --save_every 3"
    code, screen, _ = here(f"{words} --max_iterations 35")
    assert code == 0 and "Going on from iteration 20 of 35" in screen
    assert iterations(folder) == [40, 35, 33, 30] and contents(folder, "ckpt-40.*") == damaged
    code, screen, _ = here(f"{words} --max_iterations 42")
    assert code == 0 and re.search(SKIPPED, screen) and "Going on from iteration 35 of 42" in screen
    assert iterations(folder) == [42, 39, 36]


def test_pictures_are_made_of_the_newest_checkpoint_that_can_be_read(here, folder):
    flip_a_bit(folder / NEWEST)
    before = contents(folder, "*")
    for words in ("", "--generate 2"):
        code, screen, errors = here(f"{FIND} {words}")
        assert (code, errors) == (0, "") and re.match(f"checkpoint/{SKIPPED}", screen)
        assert f"Weights: {RUN}/ckpt-20\n" in screen
        assert contents(folder, "*") == before


EVALUATE = f"{FIND} --evaluate True --evaluate_images 150"


def test_scores_are_of_the_newest_checkpoint_that_can_be_read(here, labelled, monkeypatch):
    folder, scored = labelled / RUN, []
    for path in folder.glob("ckpt-2.*"):
        (folder / path.name.replace("-2.", "-40.")).write_bytes(path.read_bytes())
    flip_a_bit(folder / NEWEST)
    before = contents(folder, "*")
    monkeypatch.setattr(feature_networks, "feature_network", lambda *rest: None)
    monkeypatch.setattr(evaluate, "evaluate", lambda gan, *rest: scored.append(gan.source))
    code, screen, errors = here(EVALUATE)
    assert (code, errors) == (0, "") and re.search(f"checkpoint/{SKIPPED}", screen)
    assert scored == [f"{RUN}/ckpt-2"] and contents(folder, "*") == before


@pytest.mark.parametrize(
    "words",
    [f"--train {SMALL} --conditional True --max_iterations {end}" for end in (2, 4)]
    + [FIND, f"{FIND} --generate 2", EVALUATE],
)
def test_with_none_that_can_be_read_the_program_fails_and_nothing_changes(here, labelled, words):
    (labelled / RUN / "ckpt-2.index").write_bytes(b"")
    cut(labelled / RUN / "ckpt-2.data-00000-of-00001")
    (labelled / "samples/.run").write_text("a" * 64)  # another run's pictures are there

    def everything():
        return {
            path: path.read_bytes()
            for path in labelled.rglob("*")
            if path.is_file() and path.name != ".lock" and ".cache" not in path.parts
        }

    before = everything()
    code, screen, errors = here(words)
    assert code == 1 and errors.count("\n") == 1
    assert (
        f"{RUN}: none of its checkpoints can be read; bring one back, or delete the folder"
        in errors
    )
    assert screen.count(" cannot be read and is skipped (") == 1 and everything() == before


@pytest.mark.parametrize("error", ["ResourceExhausted", "Unavailable", "Unknown"])
def test_what_the_system_refuses_costs_no_checkpoint(gan, folder, monkeypatch, capsys, error):
    def read(prefix):
        words = f"{{{{function_node x}}}} {prefix}.index; Too many open files [Op:RestoreV2]"
        raise getattr(tf.errors, f"{error}Error")(None, None, words)

    before = contents(folder)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Failed, match="none of its checkpoints can be"),
    ):
        patch.setattr(gan.checkpoint, "read", read)
        restore_newest(gan, folder)
    assert capsys.readouterr().out.count("(Too many open files)\n") == 2
    assert contents(folder) == before
    assert restore_newest(gan, folder) == (40, [])


def test_a_checkpoint_that_cannot_be_opened_stays(gan, folder, monkeypatch, capsys):
    """With no file handle left, which TensorFlow reports as it does a file cut short."""
    before = contents(folder)
    saved = checkpoints.list_checkpoints(folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, limits[1]))
    try:
        with pytest.raises(Failed, match="none of its checkpoints can be read"):
            weights.restore_newest(gan, saved, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(last)
    assert capsys.readouterr().out.count(" cannot be read and is skipped (") == 2
    assert contents(folder) == before


@pytest.mark.parametrize(
    "layer, tasks",
    [("conv2d", [f"--train {SMALL}"]), ("deconv2d", [f"--train {SMALL}", FIND])],
)
def test_a_checkpoint_of_other_networks_is_named_and_stays(here, folder, monkeypatch, layer, tasks):
    """Pictures need the generator alone, whose layers are deconvolutions."""
    whole, before = getattr(ops, layer), contents(folder)

    def wider(x, filters, *rest, **more):
        return whole(x, filters + 1, *rest, **more)

    monkeypatch.setattr(ops, layer, wider)
    for words in tasks:
        code, _, errors = here(words)
        assert code == 1 and errors.count("\n") == 1
        assert f"{RUN}/ckpt-40: does not fit the networks" in errors
    assert contents(folder) == before


def test_a_checkpoint_without_its_configuration_is_refused(here, folder):
    (folder / "config.json").unlink()
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 2 and "config.json: damaged" in errors and errors.count("\n") == 1
