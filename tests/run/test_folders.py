"""Folders that a run writes into: what is refused, and the lock."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import ROOT, RUN, SMALL

from run import folders
from system.errors import Refused

HOLD = """
import sys, time

from run import folders

with folders.claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_second_training_in_a_folder_is_refused_and_a_dead_one_leaves_no_lock(start, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(folder)]
    holder = start(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(Refused, match=f"in use by another command, process {holder.pid}"),
        folders.claim(folder),
    ):
        pass
    holder.kill()
    holder.wait()
    with folders.claim(folder):
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("place", [RUN, "samples"])
def test_a_folder_in_use_is_refused_before_anything_changes(here, folder, tmp_path, place):
    others = "--sample_dir new" if place == RUN else "--checkpoint_dir new"
    with folders.claim(tmp_path / place):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        code, _, errors = here(f"--train {SMALL} {others}")
        assert (code, errors.count("\n")) == (2, 1)
        assert f"{place}: in use by another command, process {os.getpid()}; wait" in errors
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="choose another folder"), folders.claim(tmp_path / "file/c"):
        pass


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path):
    with pytest.raises(Refused, match="File name too long; choose another folder"):
        folders.check_folder(tmp_path / ("x" * 300), tmp_path / "data")


@pytest.mark.parametrize("target", ["nowhere", "link"])  # the latter is the link itself
def test_a_link_that_leads_nowhere_is_no_folder(tmp_path, target):
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(Refused, match=f"{tmp_path}/link.*; choose another folder"):
        folders.check_folder(tmp_path / "link", tmp_path / "data")


def test_a_disk_without_room_for_the_lock_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(Refused, match=f"{tmp_path}: .*; choose"), folders.claim(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_one_folder_may_hold_the_run_and_its_pictures(tmp_path):
    with folders.claim(tmp_path / "both", f"{tmp_path}/./both"):
        assert (tmp_path / "both/.lock").exists()
