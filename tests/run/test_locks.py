"""The lock on a folder, when two trainings want it at once and after a kill."""

import fcntl
import os

import pytest

from run import folders
from system.errors import Refused


def test_a_training_that_comes_second_leaves_the_first_its_lock(tmp_path, monkeypatch):
    """Both find a fresh folder; the other one locks it between this one's two steps."""
    whole, winner = fcntl.flock, []

    def flock(file, how):
        if not winner:
            winner.append(open(file.name, "r+"))  # noqa: SIM115
            whole(winner[0], how)
        whole(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    place = tmp_path / "new"
    with pytest.raises(Refused, match="in use by another command"), folders.claim(place):
        pass
    with winner[0] as file:
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(place / ".lock"))


def test_a_lock_left_by_a_longer_process_number_is_written_anew(tmp_path):
    (tmp_path / ".lock").write_text("123456789012\n")
    with folders.claim(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
