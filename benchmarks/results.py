"""Trains and scores the runs behind the tables of docs/results.md, and prints their rows.

Start it in the project's folder. You can stop it at any moment: the same command resumes it. If
data/faces has images, it also trains on these, but does not score that run.
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from config import parse
from system import signals

# Each run has its flags, the iterations at which it is scored, and its number of seeds.
RUNS = {
    "gp": ("", (2000, 3000), 3),
    "gp, bfloat16": ("--precision bfloat16", (2000,), 3),
    "gp, no critic norm": ("--critic_norm none", (2000,), 3),
    "regular": ("--mode regular", (2000, 3000), 3),
    "gp, without labels": ("--conditional False", (3000,), 3),
    "gp, symmetric": ("--arch symmetric", (3000,), 3),
    "gp, symmetric, layer norm": ("--arch symmetric --critic_norm layer", (3000,), 1),
    "gp, RMSProp": ("--optimizer rmsprop", (2000,), 3),
    "gp, boosted": ("--critic_boost 25", (2000,), 1),
    "gp, shorter average": ("--ema 0.99", (2000,), 1),
    "regular, Adam": ("--mode regular --optimizer adam", (2000,), 1),
    "regular, no critic norm": ("--mode regular --critic_norm none", (2000,), 1),
    "regular, not boosted": ("--mode regular --critic_boost 0", (2000,), 1),
}
# The run with faces: its flags, and its last iteration.
FACES = "--epoch 200 --batch_size 64 --input_height 96 --output_height 48 --dataset faces", 1600
FACES_LAST = FACES[1]
# Each column of scores has its name in scores.json, its digits, and its factor.
COLUMNS = {
    "Frechet distance": ("frechet_distance", 2, 1),
    "kernel distance, x 1000": ("kernel_distance", 2, 1000),
    "earth mover's distance": ("earth_movers_distance", 2, 1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
    "recognised, %": ("recognised", 2, 100),
}
HEAD = ["run", "flags", "iterations", "generator", *COLUMNS, "minutes"]


def main(folder):
    """Train and score what is missing in `folder`; print each row as soon as it is scored."""
    print_row(*HEAD)
    print_row(*["---"] * len(HEAD))
    digests = set()
    for name, (flags, iterations, seeds) in RUNS.items():
        for iteration in iterations:
            runs = [score(folder, name, flags, seed, iteration) for seed in range(seeds)]
            digests |= {run["network_digest"] for run in runs}
            if len(digests) > 1:
                sys.exit(f"{folder} has scores by different networks: delete some scores-*.json")
            head = [name, f"`{flags}`" if flags else "", f"{iteration:,}"]
            minutes = f"{statistics.median(run['minutes'] for run in runs):.0f}"
            for kind in ("averaged", "raw"):
                print_row(*head, kind, *cells([run["scores"][kind] for run in runs]), minutes)
    print_row("real images (the floor)", "", "", "", *cells([runs[0]["scores"]["floor"]]), "")
    if Path("data/faces").is_dir():
        call(f"{folder}/faces-0", f"{FACES[0]} --train True --max_iterations {FACES_LAST}")


def print_row(*texts):
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(texts)} |", flush=True)


def cells(scores):
    """Return a text for each of the COLUMNS; with several seeds, mean ± standard deviation."""
    texts = []
    for column, digits, factor in COLUMNS.values():
        values = [factor * each[column] for each in scores if column in each]
        text = f"{statistics.mean(values):.{digits}f}" if values else ""
        if len(values) > 1:
            text += f" ± {statistics.stdev(values):.{digits}f}"
        texts.append(text)
    return texts


def score(folder, name, flags, seed, iteration):
    """Train a run on MNIST until an iteration and score it there, unless that is already done.

    The run has its own folder in `folder`. Returns the content of its scores.json, with `minutes`.
    """
    place = f"{folder}/{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    flags = f"--dataset mnist {flags}"
    run = Path(place, parse(flags.split()).run_name)
    kept, new = run / f"scores-{iteration}.json", run / "scores.json"
    if not kept.exists():
        call(place, f"{flags} --train True --seed {seed} --max_iterations {iteration}")
        call(place, f"{flags} --evaluate True")
        if (reached := json.loads(new.read_text())["iteration"]) != iteration:
            sys.exit(f"{run} is at iteration {reached}, beyond {iteration}: delete it")
        new.replace(kept)
    log = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    seconds = max(row["seconds"] for row in log if row["iteration"] <= iteration)
    return json.loads(kept.read_text()) | {"minutes": seconds / 60}


def call(place, flags):
    """Run main.py in folders below `place`, with its output on stderr. If it fails, exit as it did.

    Ctrl-C reaches main.py directly, and SIGTERM is passed on. Then it saves its run before it ends.
    """
    words = ["--checkpoint_dir", place, "--sample_dir", f"{place}/samples", *flags.split()]
    print("python main.py", *words, file=sys.stderr, flush=True)
    words = [sys.executable, "main.py", *words]
    with (
        subprocess.Popen(words, stdout=sys.stderr) as program,
        signals.handled(lambda number, _: number == signal.SIGTERM and program.terminate()),
    ):
        code = program.wait()
    if code:
        sys.exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.results", description=__doc__)
    parser.add_argument("folder", nargs="?", default="results", help="folder for runs and scores")
    main(parser.parse_args().folder)
