"""results.py trains and scores each run once, and its table has means and spreads over seeds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT

import config as flags
from benchmarks import results

SCORED = "2.00 ± 1.00 | 1.00 ± 0.00 | 4.50 | 0.500 ± 0.000 | 0.250 ± 0.000 | 96.00 ± 0.00"


def fake_program(calls):
    """Leave what the program would, with scores that tell the seed."""

    def call(place, words):
        calls.append((place, words))
        typed = flags.parse(words.split()).given
        folder = Path(place, flags.Config(**typed).run_name)
        folder.mkdir(parents=True, exist_ok=True)
        if "train" in typed:
            state, seed = typed["max_iterations"], typed.get("seed", 0)
            seconds = {0: 0.06, 1: 0.12, 2: 0.18}[seed]
            rows = [{"iteration": i, "seconds": seconds * i} for i in range(50, state + 1, 50)]
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "run.json").write_text(json.dumps([state, seed]))
            return
        assert typed["evaluate"] and "seed" not in typed  # which would be that of the pictures
        state, seed = json.loads((folder / "run.json").read_text())
        row = {"frechet_distance": 1.0 + seed, "kernel_distance": 0.001, "precision": 0.5}
        row |= {"recall": 0.25, "recognised": 0.96}
        if seed == 0:  # others were scored before that distance was there
            row |= {"earth_movers_distance": 4.5}
        scores = {name: row for name in ("averaged", "raw", "floor")}
        found = {"network_digest": "ab", "iteration": state, "scores": scores}
        (folder / "scores.json").write_text(json.dumps(found))

    return call


def test_each_run_is_trained_and_scored_once_and_its_rows_have_means(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(results, "call", fake_program(calls))
    results.main("out")
    table = capsys.readouterr().out
    trained = [call for call in calls if "--train" in call[1]]
    states = sum(len(states) * seeds for _, states, seeds in results.RUNS.values())
    assert len(trained) == len(set(trained)) == states and len(calls) == 2 * states
    assert len(table.splitlines()) == 2 + 2 * 15 + 1  # 13 runs, two of them at two states
    assert f"\n| gp |  | 2,000 | averaged | {SCORED} | 4 |\n" in table
    assert f"\n| gp |  | 3,000 | averaged | {SCORED} | 6 |\n" in table
    assert f"\n| gp, symmetric | `--arch symmetric` | 3,000 | raw | {SCORED} | 6 |\n" in table
    one = "1.00 | 1.00 | 4.50 | 0.500 | 0.250 | 96.00"
    assert f"\n| gp, boosted | `--critic_boost 25` | 2,000 | averaged | {one} | 2 |\n" in table
    assert f"\n| real images (the floor) |  |  |  | {one} |  |\n" in table
    assert calls[:2] == [
        ("out/gp-0", "--dataset mnist  --train True --seed 0 --max_iterations 2000"),
        ("out/gp-0", "--dataset mnist  --evaluate True"),
    ]
    results.main("out")
    assert len(calls) == 2 * states and capsys.readouterr().out == table  # nothing is done again


@pytest.fixture
def one_run(tmp_path, monkeypatch):
    """Two seeds of a single run, with the calls of the program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "RUNS", {"gp, small": ("--batch_size 8", (100,), 2)})
    calls = []
    monkeypatch.setattr(results, "call", fake_program(calls))
    return calls


def test_faces_are_trained_where_there_are_some(one_run):
    results.main("out")
    assert len(one_run) == 4
    Path("data/faces").mkdir(parents=True)
    results.main("out")
    words = f"{results.FACES[0]} --train True --max_iterations 1600"
    assert one_run[4:] == [("out/faces-0", words)]


def test_scores_by_different_networks_are_refused(one_run):
    results.main("out")
    kept = Path("out/gp-small-1/mnist_8_28_28/scores-100.json")
    kept.write_text(kept.read_text().replace('"ab"', '"cd"'))
    with pytest.raises(SystemExit, match="has scores by different networks"):
        results.main("out")


def test_a_run_that_is_further_than_its_scores_is_refused(one_run, monkeypatch):
    results.main("out")
    Path("out/gp-small-0/mnist_8_28_28/run.json").write_text("[200, 0]")
    call = results.call

    def trained_already(place, words):
        if "--train" not in words:
            call(place, words)

    monkeypatch.setattr(results, "call", trained_already)
    Path("out/gp-small-0/mnist_8_28_28/scores-100.json").unlink()
    with pytest.raises(SystemExit, match="is at iteration 200, beyond 100: delete it"):
        results.main("out")


CALL = """
import sys
sys.path.insert(0, {root!r})
from benchmarks import results
results.call("runs", "")
print("not reached")
"""
SAVES = """
import signal, sys, time
def save(number, frame):
    print("saved", flush=True)
    time.sleep(1)
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_program_to_save(start, tmp_path, number):
    (tmp_path / "main.py").write_text(SAVES)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    words = [sys.executable, "-c", CALL.format(root=str(ROOT))]
    script = start(words, cwd=tmp_path, **pipes)
    words = "--checkpoint_dir runs --sample_dir runs/samples"
    assert script.stderr.readline() == f"python main.py {words}\n"
    assert script.stderr.readline() == "ready\n"
    if number == signal.SIGINT:
        os.killpg(script.pid, number)  # as a terminal does
    else:
        script.send_signal(number)
    screen, errors = script.communicate(timeout=PATIENCE)
    assert (script.returncode, screen, errors) == (128 + number, "", "saved\n")
