"""The log of a run: its rows, the same as events, and what becomes of damaged ones."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
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
    """Read a log of the row of iteration 10 and these lines, as a run at iteration 60 does."""
    path = folder / "log.jsonl"
    path.write_text("".join(f"{line}\n" for line in (json.dumps(row(10)), *lines)))
    return log.read_rows(path, 60)


@pytest.mark.parametrize("name", row(10))
def test_a_row_with_anything_but_numbers_that_tensorboard_takes_is_damage(tmp_path, name):
    for value in ("a", [1], True, float("nan"), float("inf"), 1e39, 10**400, -(10**400)):
        with pytest.raises(
            Failed, match=rf"line 2 is damaged \({name} is .* from .* to .*; correct"
        ):
            read_after_10(tmp_path, json.dumps(row(20) | {name: value}))


@pytest.mark.parametrize("name", ["iteration", "epoch"])
def test_a_row_says_of_which_iteration_it_is(tmp_path, name):
    fewer = {n: value for n, value in row(20).items() if n != name}
    for damaged in (fewer, fewer | {name: None}):
        with pytest.raises(Failed, match=rf"line 2 is damaged \({name} is null"):
            read_after_10(tmp_path, json.dumps(damaged))


@pytest.mark.parametrize("name, value", [("iteration", -5), ("iteration", 20.0), ("epoch", -1)])
def test_a_number_that_no_row_can_have_is_damage(tmp_path, name, value):
    with pytest.raises(Failed, match=rf"line 2 is damaged \({name} is {value}, expected a "):
        read_after_10(tmp_path, json.dumps(row(20) | {name: value}))


def test_epochs_rise_as_iterations_do(tmp_path):
    lines = json.dumps(row(20, epoch=2)), json.dumps(row(30, epoch=1))
    with pytest.raises(Failed, match=r"line 3 is damaged \(epoch is 1, expected .* from 2 to"):
        read_after_10(tmp_path, *lines)


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
    """Return what TensorBoard shows of a run: {column: iterations}."""
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return {n: [e.step for e in events.Tensors(n)] for n in events.Tags()["tensors"]}


def test_a_column_that_cannot_be_shown_is_kept(tmp_path):
    values = "a", "\ud800", 10**400, [[[]]], {"y": None}, float("nan"), True
    rows = [row(i, x=value) | {"\ud800": 1.0} for i, value in enumerate(values, 1)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    book = log.Log(tmp_path, 7, 0, 10)
    utils.plot_log(tmp_path / "loss.png", book.rows)
    assert path.read_bytes() == before
    assert shown(tmp_path).keys() == row(10).keys() - {"iteration"}


@pytest.mark.parametrize("name", [*log.MEASURED, *log.TIMES])
def test_rows_that_lack_a_column_go_on_without_it(tmp_path, name):
    older = {n: value for n, value in row(10).items() if n != name}
    lines = json.dumps(older), json.dumps(row(20) | {name: None})
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    book = log.Log(tmp_path, 20, 0, 10)
    utils.plot_log(tmp_path / "a.png", book.rows)
    assert name not in shown(tmp_path)
    book.write(30, 0, dict.fromkeys(log.MEASURED, 9.0), 9)
    assert shown(tmp_path)[name] == [30] and shown(tmp_path)["epoch"] == [10, 20, 30]


def test_the_penalty_of_a_single_row_is_plotted(tmp_path):
    rows = [row(10, penalty=None), row(20, penalty=5.0)]
    utils.plot_log(tmp_path / "a.png", rows)
    utils.plot_log(tmp_path / "b.png", [rows[0], row(20, penalty=None)])
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_one_more_number_of_a_step_is_a_column_without_another_word(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(row(10)) + "\n")
    book = log.Log(tmp_path, 10, 0, 10)
    written = book.write(20, 0, {"d_loss": 1.0, "accuracy": np.float32(0.5)}, 9)
    assert list(written)[-3:] == ["accuracy", "seconds", "images_per_second"]
    assert written["accuracy"] == 0.5 and written["penalty"] is None
    with pytest.raises(Failed, match="accuracy is inf at iteration 30"):
        book.write(30, 0, {"accuracy": np.float32(np.inf)}, 9)
    book = log.Log(tmp_path, 20, 0, 10)  # a restart
    book.write(30, 0, {"accuracy": 0.75}, 9)
    assert shown(tmp_path)["accuracy"] == [20, 30]
    assert [r.get("accuracy") for r in log.read_rows(book.path, 30)] == [None, 0.5, 0.75]
    utils.plot_log(tmp_path / "loss.png", book.rows)


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

    def seen(iteration):
        return outputs.Outputs._images_seen(SimpleNamespace(config=config), iteration)

    book = log.Log(tmp_path, 10, seen(10), 10)
    clock[0] += 10
    written = book.write(30, 0, dict.fromkeys(log.MEASURED, 0.0), seen(30))
    assert (written["seconds"], written["images_per_second"]) == (510, 20 * 5 * 8 / 10)


def test_tensorboard_events_tell_what_the_log_tells(tmp_path):
    book = log.Log(tmp_path, 0, 0, 10)
    for i in (10, 20, 30):
        book.write(i, 0, dict.fromkeys(log.MEASURED, float(i)), 9)
    log.Log(tmp_path, 20, 0, 10)  # a restart from iteration 20
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
        ('"seconds": ', '"epoch": "x", "seconds": '),
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
