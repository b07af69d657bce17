"""results.py trains and scores each run once, and its table has means and spreads over seeds."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PATIENCE, ROOT

import config as flags
from benchmarks import results

ROW_OF_FACES = (
    "| faces | `--epoch 200 --batch_size 64 --input_height 96 --output_height 48 --dataset faces`"
)


def fake_program(calls):
    """Leave what the program would, with scores that tell the seed."""

    def call(words):
        calls.append(words)
        typed = flags.parse(words.split()).given
        name = {"mnist": "mnist_64_28_28", "faces": "faces_64_48_48"}[typed["dataset"]]
        folder = Path(typed.get("checkpoint_dir", "checkpoint"), name)
        folder.mkdir(parents=True, exist_ok=True)
        if "train" in typed:
            slow = {0: 3, 1: 1, 2: 0.5}[typed["seed"]]
            paces = [0.06 * slow * k for k in range(1, 8)]  # lower quartile: the second
            clock = enumerate(itertools.accumulate(100 * pace for pace in paces), 1)
            rows = [{"iteration": 100 * i, "seconds": seconds} for i, seconds in clock]
            rows[0] |= {"w_distance": 9.0, "w_distance_val": 8.0}
            rows[-1] |= {"w_distance": 3.0, "w_distance_val": 2.5}
            (folder / f"ckpt-{typed['max_iterations']}.index").touch()
            (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (folder / "seed").write_text(str(typed["seed"]))
            return
        seed = int((folder / "seed").read_text()) if (folder / "seed").exists() else 0
        row = {"frechet_distance": 1.0 + seed, "kernel_distance": 0.001, "precision": 0.5}
        row |= {"recall": 0.25, "recognised": 0.96}
        if (folder / "seed").exists():  # others were scored before that distance was there
            row |= {"earth_movers_distance": 4.5}
        scores = {name: row for name in ("averaged", "raw", "floor")}
        trained = re.search(r"max_iterations (\d+)", calls[-2]) if len(calls) > 1 else None
        found = {"network_digest": "ab", "iteration": int(trained[1]) if trained else None}
        (folder / "scores.json").write_text(json.dumps(found | {"scores": scores}))

    return call


def test_each_run_is_trained_and_scored_once_and_the_table_has_means(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(results, "call", fake_program(calls))
    results.main("out")
    table = capsys.readouterr().out
    trained = [words for words in calls if "--train" in words]
    assert len(trained) == len(set(trained)) == 3 * 9 + 6
    lines, choices = table.split("\n\n")[:2]
    scored = (
        "2.00 ± 1.00 | 1.00 ± 0.00 | 4.50 ± 0.00 | 0.500 ± 0.000 | 0.250 ± 0.000 | 96.00 ± 0.00"
    )
    assert f"\n| gp |  | 3,000 | averaged | {scored} | 6 |\n" in lines
    assert f"\n| gp, symmetric | `--arch symmetric` | 3,000 | raw | {scored} | 6 |\n" in lines
    assert "| shipped generator |  |  | averaged | 1.00 | 1.00 |  | 0.500 | 0.250 |" in lines
    assert f"\n| gp |  | 2,000 | averaged | {scored} | 4 |\n" in choices
    assert "| gp, boosted | `--critic_boost 25` | 2,000 | averaged | 1.00 |" in choices
    assert "raw" not in choices and len(lines.splitlines()) == 2 + 2 * 4 + 2
    of_seed_0 = [words for words in calls if "-0 --sample_dir" in words]
    assert len(of_seed_0) == 2 * (13 + 2)  # 13 runs, two of them scored at two states
    for words in of_seed_0:
        assert f"\n    python main.py {words}\n" in table
    results.main("out")
    assert len(calls) == 2 * len(trained) + 1  # nothing is done again
    assert capsys.readouterr().out == table
    Path("data/faces").mkdir(parents=True)
    results.main("out")
    (faces,) = calls[2 * len(trained) + 1 :]
    assert f"{ROW_OF_FACES} | 1,600 | 9.0 to 3.0 | 8.0 to 2.5 | 10 |" in capsys.readouterr().out
    results.main("out")
    assert calls[-1] is faces and f"\n    python main.py {faces}\n" in capsys.readouterr().out
    other = next(Path("out").glob("gp-1/*/scores-2000.json"))
    text = other.read_text()
    other.write_text(text.replace('"ab"', '"cd"'))
    with pytest.raises(SystemExit, match="are of different networks"):
        results.main("out")
    other.write_text(text)
    kept = next(Path("out").glob("gp-0/*/scores-2000.json"))
    kept.rename(kept.with_name("scores.json"))  # what the program finds is at state 3000 by now
    beyond = {"iteration": 3000, "scores": {}}
    place = kept.with_name("scores.json")
    monkeypatch.setattr(results, "call", lambda words: place.write_text(json.dumps(beyond)))
    with pytest.raises(SystemExit, match="is at 3000, beyond 2000"):
        results.main("out")


def test_a_run_that_hides_the_shipped_generator_is_refused_before_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "call", None)
    folder = Path("checkpoint/mnist_64_28_28")
    folder.mkdir(parents=True)
    (folder / "ckpt-400.index").touch()
    with pytest.raises(SystemExit, match="hides the shipped generator"):
        results.main("out")


CALL = """
import sys
sys.path.insert(0, {root!r})
from benchmarks import results
results.call("")
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
    assert script.stderr.readline() == "python main.py \n"
    assert script.stderr.readline() == "ready\n"
    if number == signal.SIGINT:
        os.killpg(script.pid, number)  # as a terminal does
    else:
        script.send_signal(number)
    screen, errors = script.communicate(timeout=PATIENCE)
    assert (script.returncode, screen, errors) == (128 + number, "", "saved\n")
