"""What a command refuses because of its folders, its dry run refuses too, and changes nothing."""

import errno
import fcntl
import os

import pytest
from conftest import SMALL, assert_refused

LONG = "x" * 300
COMMANDS = ("--train", "", "--generate 2", "--evaluate", "--gif")


@pytest.mark.parametrize("cache", ["data/photos", "data/photos/made", "link/made"])
def test_a_cache_inside_the_data_set_is_refused(here, folder, tmp_path, cache):
    (tmp_path / "link").symlink_to("data/photos")
    before = sorted(tmp_path.rglob("*"))
    for mode in ("--train", "--train --dry_run", "--evaluate"):
        assert_refused(
            here, f"{mode} {SMALL} --cache_dir {cache}", "--cache_dir", "inside the data"
        )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("place", [LONG, "file/below"])
def test_a_folder_that_cannot_be_used_is_refused_also_by_a_dry_run(
    here, folder, tmp_path, words, place
):
    (tmp_path / "file").touch()
    for name in ("checkpoint_dir", "sample_dir"):
        if name == "sample_dir" or words != "--gif":
            for dry in ("", "--dry_run"):
                assert_refused(here, f"{words} {dry} {SMALL} --{name} {place}", place)


def test_a_folder_without_rights_is_refused_by_name(here, folder, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", refuse)
        assert_refused(here, SMALL, "checkpoint/photos_8_8_8: Permission denied")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for words in (*COMMANDS, "--train --cache_dir made"):
        errors = [here(f"{words} {dry} {SMALL}")[2] for dry in ("", "--dry_run")]
        assert errors[0] == errors[1] and "cannot be written" in errors[0]


def test_a_dry_run_sees_that_the_cache_cannot_be_written(here, folder, tmp_path):
    (tmp_path / "file").touch()
    for dry in ("", "--dry_run"):
        words = f"--train {dry} {SMALL} --cache_dir file/below"
        assert_refused(here, words, "--cache_dir file/below")


@pytest.mark.parametrize("place", ["samples", "checkpoint/photos_8_8_8"])
def test_a_dry_run_sees_a_locked_folder_and_locks_none(here, folder, tmp_path, place):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    words = f"--train --dry_run {SMALL} --max_iterations 40"
    with open(tmp_path / place / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert_refused(here, words, f"{place}: in use by another command, process ")
    (tmp_path / place / ".lock").unlink()
    del before[tmp_path / place / ".lock"], before[tmp_path / place]
    assert here(words)[0] == 0
    assert not (tmp_path / place / ".lock").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.parametrize("every, from_scratch, going_on", [(20, 4, 1), (25, 4, 2), (100, 2, 1)])
def test_a_training_that_would_be_is_told_how_many_grids_it_writes(
    here, folder, every, from_scratch, going_on
):
    """Those of iteration 0 and of the last one, too."""
    words = f"--train {SMALL} --sample_every {every} --max_iterations 60 --dry_run"
    assert f", {going_on} grids)" in here(words)[1]  # from iteration 40
    assert f", {from_scratch} grids)" in here(f"{words} --checkpoint_dir none")[1]
