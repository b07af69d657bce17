"""The log of a run: its rows, the same as events, and what becomes of damaged ones."""

import json
import re
import sys
from types import SimpleNamespace

import pytest
from conftest import SMALL, make_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import utils
from run import log, outputs
from system.errors import Failed


def row(iteration, **values):
    names = dict.fromkeys(log.MEASURED, 1.0)
    return {
        "iteration": iteration,
        "epoch": 0,
        **names,
        "seconds": 1.0,
        "images_per_second": 9.0,
    } | values


def test_going_on_cuts_rows_beyond_the_checkpoint_and_a_last_line_cut_short(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in (10, 20, 30)) + '{"iteration": 4')
    assert [r["iteration"] for r in log.read_rows(path, 20)] == [10, 20]
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [10, 20]


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row(10)) + "\nnonsense\n" + json.dumps(row(30)) + "\n")
    with pytest.raises(Failed, match=r"log.jsonl: line 2 is damaged"):
        log.read_rows(path, 30)


def read_after_10(folder, *lines):
    """Read a log of the row of iteration 10 and these lines, as a run at state 60 does."""
    path = folder / "log.jsonl"
    path.write_text("".join(f"{line}\n" for line in (json.dumps(row(10)), *lines)))
    return log.read_rows(path, 60)


@pytest.mark.parametrize("name", [name for name in row(10) if name not in log.MEASURED])
def test_a_row_with_anything_but_numbers_that_tensorboard_takes_is_damage(tmp_path, name):
    for value in (None, "a", [1], True, float("nan"), float("inf"), 1e39, 10**400, -(10**400)):
        with pytest.raises(
            Failed, match=rf"line 2 is damaged \({name} is .* from .* to .*; correct"
        ):
            read_after_10(tmp_path, json.dumps(row(20) | {name: value}))
    fewer = {n: value for n, value in row(20).items() if n != name}
    with pytest.raises(Failed, match=rf"line 2 is damaged \({name} is null"):
        read_after_10(tmp_path, json.dumps(fewer))


@pytest.mark.parametrize(
    "name, value", [("iteration", -5), ("iteration", 20.0), ("epoch", -1), ("seconds", -1.0)]
)
def test_a_number_that_no_row_can_have_is_damage(tmp_path, name, value):
    with pytest.raises(Failed, match=rf"line 2 is damaged \({name} is {value}, expected a "):
        read_after_10(tmp_path, json.dumps(row(20) | {name: value}))


@pytest.mark.parametrize("iterations", [(10,), (20, 20), (30, 20)])
def test_rows_that_are_there_twice_or_in_another_order_are_damage(tmp_path, iterations):
    with pytest.raises(Failed, match=rf"line {len(iterations) + 1} is damaged \(iteration"):
        read_after_10(tmp_path, *(json.dumps(row(i)) for i in iterations))


@pytest.mark.parametrize(
    "line", ["[" * 100000, '{"x": ' + "[" * 100000, "9" * 5000, '"\\ud800"', "", "[1]", "{} {}"]
)
def test_no_text_makes_the_log_crash(tmp_path, line):
    # The reason is free of JSON's own "line 1", which is not the file's.
    with pytest.raises(Failed, match=r"log\.jsonl: line 2 is damaged \((?!.*line 1)") as failure:
        read_after_10(tmp_path, line)
    assert "\n" not in str(failure.value) and len(str(failure.value)) < 300


def shown(folder):
    """Return what TensorBoard shows of a run: {column: states}."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {n: [e.step for e in events.Tensors(n)] for n in events.Tags()["tensors"]}


def test_a_column_that_the_program_does_not_know_is_kept_and_not_shown(tmp_path):
    values = "a", "\ud800", 10**400, [[[]]], {"y": None}, float("nan"), True
    rows = [row(i, x=value) | {"\ud800": 1.0} for i, value in enumerate(values, 1)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    book = log.Log(tmp_path, 7, 0, 10)
    utils.plot_log(tmp_path / "loss.png", book.rows)
    assert path.read_bytes() == before
    assert shown(tmp_path).keys() == row(10).keys() - {"iteration"}


def test_rows_that_are_older_than_a_column_go_on_without_it(tmp_path):
    fewer = {n: value for n, value in row(10).items() if n not in ("penalty", "slope")}
    (tmp_path / "log.jsonl").write_text(json.dumps(fewer) + "\n")
    book = log.Log(tmp_path, 10, 0, 10)
    utils.plot_log(tmp_path / "a.png", book.rows)
    book.write(20, 0, dict.fromkeys(log.MEASURED, 9.0), 9)
    utils.plot_log(tmp_path / "b.png", book.rows)
    utils.plot_log(tmp_path / "c.png", [book.rows[0], book.rows[1] | {"penalty": None}])
    assert shown(tmp_path)["slope"] == [20] and shown(tmp_path)["d_loss"] == [10, 20]
    pictures = {(tmp_path / f"{name}.png").read_bytes() for name in "abc"}
    assert len(pictures) == 3  # the penalty of one row is seen


def test_a_log_of_bytes_that_are_no_text_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(Failed, match=r"log.jsonl: line 1 is damaged"):
        log.read_rows(tmp_path / "log.jsonl", 30)


def test_a_number_that_is_none_stops_the_run_by_name(tmp_path):
    book = log.Log(tmp_path, 0, 0, 10)
    measured = dict.fromkeys(log.MEASURED, 0.5)
    assert book.write(50, 0, measured, 9)["penalty"] == 0.5
    with pytest.raises(Failed, match="g_loss is nan at iteration 100"):
        book.write(100, 0, measured | {"g_loss": float("nan")}, 9)
    assert len(log.read_rows(tmp_path / "log.jsonl", 100)) == 1


def test_seconds_go_on_over_a_restart_and_speed_counts_critic_images(tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").write_text(json.dumps(row(10, seconds=500.0)) + "\n")
    config = make_config(critic_num=5, batch_size=8)
    clock = [1000.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: clock[0])

    def seen(state):
        return outputs.Outputs._images_seen(SimpleNamespace(config=config), state)

    book = log.Log(tmp_path, 10, seen(10), 10)
    clock[0] += 10
    written = book.write(30, 0, dict.fromkeys(log.MEASURED, 0.0), seen(30))
    assert (written["seconds"], written["images_per_second"]) == (510, 20 * 5 * 8 / 10)


def test_tensorboard_events_tell_what_the_log_tells(tmp_path):
    book = log.Log(tmp_path, 0, 0, 10)
    for i in (10, 20, 30):
        book.write(i, 0, dict.fromkeys(log.MEASURED, float(i)), 9)
    log.Log(tmp_path, 20, 0, 10)  # a restart from state 20
    assert shown(tmp_path)["w_distance"] == [10, 20]
    assert "slope" in shown(tmp_path) and "iteration" not in shown(tmp_path)


def test_without_tensorboard_the_log_is_written_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log.Log(tmp_path, 0, 0, 10).write(10, 0, dict.fromkeys(log.MEASURED, 0.0), 9)
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert not list(tmp_path.glob("events*"))


@pytest.mark.parametrize("left, first", [(0, 1), (2, 21)])
def test_a_log_that_lost_rows_is_told_of(here, folder, left, first, still):
    rows = (folder / "log.jsonl").read_text().splitlines(keepends=True)
    (folder / "log.jsonl").write_text("".join(rows[:left]))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0 and f"log.jsonl has no rows from {first} to 40" in screen


def test_a_whole_log_is_not_told_of(here, folder, still):
    assert "has no rows" not in here(f"--train {SMALL} --max_iterations 60")[1]


@pytest.mark.parametrize(
    "old, new",
    [
        ('"seconds": ', '"x": '),
        ('"iteration": 20', '"iteration": "20"'),
        ('"iteration": 20', '"iteration": 20 20'),
        ('{"iteration": 20', '["iteration", 20'),
    ],
)
def test_a_damaged_row_is_named_and_no_row_lost(here, folder, old, new):
    path = folder / "log.jsonl"
    path.write_text(path.read_text().replace(old, new))
    before = path.read_bytes()
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 1 and re.search(r"log.jsonl: line \d is damaged", errors)
    assert errors.count("\n") == 1 and path.read_bytes() == before


def test_one_more_number_of_the_steps_is_one_more_column(tmp_path):
    measured = dict.fromkeys(log.MEASURED, 0.5)
    log.Log(tmp_path, 0, 0, 10).write(10, 0, measured, 9)
    book = log.Log(tmp_path, 10, 9, 10)
    book.write(20, 0, measured | {"spread": 0.25}, 18)
    assert shown(tmp_path)["spread"] == [20] and shown(tmp_path)["d_loss"] == [10, 20]
    rows = log.read_rows(tmp_path / "log.jsonl", 20)
    assert [row.get("spread") for row in rows] == [None, 0.25]
    with pytest.raises(Failed, match="spread is inf at iteration 30"):
        book.write(30, 0, measured | {"spread": float("inf")}, 27)
