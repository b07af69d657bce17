"""What TensorBoard shows: the rows of the log, the settings, and the pictures that are on disk."""

import re
import sys
from pathlib import Path

import pytest
from conftest import RUN, SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import utils
from run import log
from system import device


def events_of(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def pictures(events, name):
    """Return {state: (width, height, bytes of the PNG)}; a state that is there twice fails."""
    found = {}
    for event in events.Tensors(f"pictures/{name}"):
        width, height, content = device.import_tensorflow().make_ndarray(event.tensor_proto)
        assert event.step not in found
        found[event.step] = int(width), int(height), content
    return found


def grids(place="samples"):
    steps = 5  # 60 images, 16 of them held out, in batches of 8
    return {
        epoch * steps + index: path.read_bytes() for (epoch, index), path in utils.list_grids(place)
    }


def test_pictures_and_settings_are_shown_at_their_states_also_after_a_restart(here, folder, still):
    before = grids()
    assert sorted(before) == [0, 20, 40]
    for end in (60, 80):
        assert here(f"--train {SMALL} --max_iterations {end}")[0] == 0
        events = events_of(RUN)
        shown = pictures(events, "generated")
        assert {state: content for state, (_, _, content) in shown.items()} == grids()
        assert sorted(shown) == list(range(0, end + 1, 20))
        assert {state: shown[state][2] for state in before} == before
        assert shown[0][:2] == (32, 32)  # nine pictures of 8x8 in three columns, with gaps of 2
        assert pictures(events, "real")[0][2] == Path("samples/real.png").read_bytes()
        (told,) = events.Tensors("configuration")
        text = told.tensor_proto.string_val[0].decode()
        assert re.search(rf"\| max_iterations \| `{end}` \|", text) and '| arch | `"sym' in text


def test_the_grid_of_an_earlier_end_is_not_shown(here, folder, still):
    assert here(f"--train {SMALL} --max_iterations 50")[0] == 0
    assert sorted(pictures(events_of(RUN), "generated")) == [0, 20, 40, 50]
    assert here(f"--train {SMALL} --max_iterations 60")[0] == 0
    assert sorted(pictures(events_of(RUN), "generated")) == [0, 20, 40, 60]


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_a_grid_that_is_no_picture_stops_no_training_and_is_not_shown(here, folder, still, content):
    path = sorted(Path("samples").glob("train_*.png"))[1]
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)
    assert here(f"--train {SMALL} --max_iterations 60")[0] == 0
    assert sorted(pictures(events_of(RUN), "generated")) == [0, 40, 60]


def test_settings_of_any_name_are_shown(tmp_path):
    log.Board(tmp_path, []).tell("configuration", {"dataset": "\udce4", "crop": None})
    (told,) = events_of(tmp_path).Tensors("configuration")
    assert b"| crop | `null` |" in told.tensor_proto.string_val[0]


def test_without_tensorboard_no_picture_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    board = log.Board(tmp_path, [])
    board.show("pictures/real", None, 0)
    board.tell("configuration", None)
    assert not list(tmp_path.iterdir())
