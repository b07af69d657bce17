"""Trains and scores the runs behind the tables of results, and prints these.

Whoever doubts a number or changes a default would miss it. Started in the project's folder. What is
finished is not done again; stop it at any moment. Faces are trained where data/faces has some.
"""

import argparse
import itertools
import json
import shlex
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from system import signals

SHIPPED = Path("checkpoint/mnist_64_28_28")
SCORE_SHIPPED = "--dataset mnist --evaluate True"
# Of each run its flags, the iterations at which it is scored, and how many seeds it has.
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
LAST = 3000
FACES_LAST = 1600
MNIST = "--dataset mnist", "mnist_64_28_28"  # flags, and the name of the folder that they make
FACES = (
    "--epoch 200 --batch_size 64 --input_height 96 --output_height 48 --dataset faces",
    "faces_64_48_48",
)
# Of each column of scores its name in scores.json, its digits, and by what it is multiplied.
COLUMNS = {
    "Frechet distance": ("frechet_distance", 2, 1),
    "kernel distance, x 1000": ("kernel_distance", 2, 1000),
    "earth mover's distance": ("earth_movers_distance", 2, 1),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
    "recognised, %": ("recognised", 2, 100),
}
HEADS = ["run", "flags", "iterations", "generator", *COLUMNS, "minutes"]
FACES_HEADS = ["run", "flags", "iterations", "w_distance", "w_distance_val", "minutes"]


def main(folder):
    """Do what is missing in `folder`, then print the tables and every row's commands."""
    if list(SHIPPED.glob("ckpt-*.index")):
        sys.exit(f"{SHIPPED} hides the shipped generator: move that run away")
    trained = {
        name: [Run(folder, name, extra, seed) for seed in range(seeds)]
        for name, (extra, _, seeds) in RUNS.items()
    }
    found = {
        (name, state): [run.reach(state) for run in trained[name]]
        for name, (_, states, _) in RUNS.items()
        for state in states
    }
    shipped = score_shipped(Path(folder))
    if len({each["network_digest"] for each in sum(found.values(), [shipped])}) > 1:
        sys.exit(f"scores in {folder} are of different networks: delete the scores-*.json of some")
    lines, choices = [], []
    for (name, state), reached in found.items():
        if state == LAST and len(reached) > 1:
            lines += rows(trained[name], state, reached, ("averaged", "raw"))
        else:
            choices += rows(trained[name], state, reached, ("averaged",))
    lines.append(["shipped generator", "", "", "averaged", *cells([shipped], "averaged"), ""])
    lines.append(["real images (the floor)", "", "", "", *cells([shipped], "floor"), ""])
    print_table(HEADS, lines)
    print_table(HEADS, choices)
    faces = Run(folder, "faces", "", 0, FACES)
    if Path("data/faces").is_dir():
        print_table(FACES_HEADS, [faces_row(faces)])
    for name, state in found:
        run = trained[name][0]
        print(f"{name}, {state:,} iterations, seed 0 of {len(trained[name])}:\n")
        print(f"    python main.py {run.training(state)}\n    python main.py {run.scoring}\n")
    print(f"shipped generator and floor:\n\n    python main.py {SCORE_SHIPPED}\n")
    print(f"faces:\n\n    python main.py {faces.training(FACES_LAST)}")


def rows(runs, state, reached, kinds):
    """Return the rows of a run, one per kind of generator; `reached` are its scores, by seed."""
    minutes = statistics.median(run.minutes(state) for run in runs)
    head = [runs[0].name, quoted(runs[0].extra), f"{state:,}"]
    return [[*head, kind, *cells(reached, kind), f"{minutes:.0f}"] for kind in kinds]


def cells(reached, kind):
    """Return one kind's scores, a text per column; of several seeds, mean ± standard deviation."""
    texts = []
    for column, digits, factor in COLUMNS.values():
        scored = [each["scores"][kind] for each in reached]
        values = [factor * each[column] for each in scored if column in each]
        text = f"{statistics.mean(values):.{digits}f}" if values else ""
        if len(values) > 1:
            text += f" ± {statistics.stdev(values):.{digits}f}"
        texts.append(text)
    return texts


def quoted(words):
    """Return flags as Markdown's code."""
    return f"`{words}`" if words else ""


def print_table(heads, body):
    """Print rows of cells as a Markdown table."""
    for line in (heads, ["---"] * len(heads), *body):
        print(f"| {' | '.join(line)} |")
    print()


def score_shipped(folder):
    """Score the shipped generator, unless that has been done; returns its scores."""
    kept = folder / "shipped.json"
    if not kept.exists():
        call(f"{SCORE_SHIPPED} --sample_dir {shlex.quote(str(folder))}")
        (SHIPPED / "scores.json").replace(kept)
    return json.loads(kept.read_text())


def faces_row(run):
    """Train the run of faces, unless that has been done; return its row, without any score."""
    if not (run.folder / f"ckpt-{FACES_LAST}.index").exists():
        call(run.training(FACES_LAST))
    log = run.log()
    falls = [f"{log[0][name]:.1f} to {log[-1][name]:.1f}" for name in FACES_HEADS[3:5]]
    return ["faces", quoted(FACES[0]), f"{FACES_LAST:,}", *falls, f"{run.minutes(FACES_LAST):.0f}"]


class Run:
    """A training of one of the RUNS, or of faces, with one seed, in a folder of its own."""

    def __init__(self, folder, name, extra, seed, data=MNIST):
        place = Path(folder) / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
        self.name, self.extra, self.folder = name, extra, place / data[1]
        inner = [shlex.quote(str(path)) for path in (place, place / "samples")]
        self.places = f"--checkpoint_dir {inner[0]} --sample_dir {inner[1]}"
        words = data[0], "--train True", extra, f"--seed {seed}"
        self.words = " ".join(filter(None, words))
        self.scoring = f"{data[0]} --evaluate True {self.places}"

    def training(self, state):
        """Return the flags that train it to a state."""
        return f"{self.words} --max_iterations {state} {self.places}"

    def reach(self, state):
        """Train it to a state and score it there, unless that has been done; returns the scores."""
        kept, new = self.folder / f"scores-{state}.json", self.folder / "scores.json"
        if not kept.exists():
            call(self.training(state))
            call(self.scoring)
            reached = json.loads(new.read_text())["iteration"]
            if reached != state:
                sys.exit(f"{self.folder} is at {reached}, beyond {state}: delete it")
            new.replace(kept)
        return json.loads(kept.read_text())

    def log(self):
        """Read the rows of the log."""
        return [json.loads(row) for row in (self.folder / "log.jsonl").read_text().splitlines()]

    def minutes(self, state):
        """Return how long the training takes to a state, by the lower quartile of its log's paces.

        Hence without the time of pauses and of other work beside it.
        """
        paces = [
            (row["seconds"] - last["seconds"]) / (row["iteration"] - last["iteration"])
            for last, row in itertools.pairwise([{"seconds": 0, "iteration": 0}, *self.log()])
        ]
        return state * statistics.quantiles(paces, n=4)[0] / 60


def call(words):
    """Run the program, its screen on stderr; exits as it does where that is not well.

    Ctrl-C reaches it by itself; it saves what it has, and is waited for.
    """
    print(f"python main.py {words}", file=sys.stderr, flush=True)
    words = [sys.executable, "main.py", *shlex.split(words)]
    with subprocess.Popen(words, stdout=sys.stderr) as program:

        def pass_on(number, frame):
            if number == signal.SIGTERM:
                program.terminate()

        with signals.handled(pass_on):
            code = program.wait()
    if code:
        sys.exit(code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.results", description=__doc__)
    parser.add_argument("folder", nargs="?", default="results", help="where runs and scores go")
    main(parser.parse_args().folder)
