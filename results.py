"""Trains and scores the runs of the README's tables of results, and prints these.

Started in the project's folder. What is finished is not done again; stop it at any moment. Faces
are trained where there are some in data/faces.
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

import signals

SHIPPED = "checkpoint/mnist_64_28_28/scores.json"
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
MNIST = "--dataset mnist", "mnist_64_28_28"  # flags, and the name of the folder that they make
FACES = (
    "--epoch 200 --batch_size 64 --input_height 96 --output_height 48 --dataset faces",
    "faces_64_48_48",
)
COLUMNS = {
    "Frechet distance": ("frechet_distance", 2, 1),
    "kernel distance, x 1000": ("kernel_distance", 2, 1000),
    "precision": ("precision", 3, 1),
    "recall": ("recall", 3, 1),
    "recognised, %": ("recognised", 2, 100),
}
HEADS = ["run", "flags", "iterations", "generator", *COLUMNS, "minutes"]
FACES_HEADS = ["run", "flags", "iterations", "w_distance", "w_distance_val", "minutes"]


def main(folder):
    """Do what is missing in `folder`, then print the tables and every row's commands."""
    if list(Path(SHIPPED).parent.glob("ckpt-*.index")):
        sys.exit(f"{Path(SHIPPED).parent} hides the shipped generator: move that run away")
    tables = [(HEADS, body) for body in mnist_tables(folder)]
    faces = Run(folder, "faces", "", 0, FACES)
    if faces.is_done(LAST) or Path("data/faces").is_dir():
        tables.append((FACES_HEADS, [faces_line(faces)]))
    for heads, body in tables:
        print("|", " | ".join(heads), "|")
        print("|" + "---|" * len(heads))
        print("\n".join(body), end="\n\n")
    print_commands(folder)
    print(f"faces:\n\n    python main.py {faces.training(LAST)}")


def mnist_tables(folder):
    """Train and score all on MNIST; returns the rows of the results and those of the choices."""
    lines, choices, networks = [], [], set()
    for name, (extra, states, seeds) in RUNS.items():
        for state in states:
            runs = [Run(folder, name, extra, seed) for seed in range(seeds)]
            for run in runs:
                run.reach(state)
            made = rows(name, runs, state)
            if state == LAST and seeds > 1:
                lines += made
            else:
                choices += made[:1]  # of the averaged generator
            networks |= {run.scores(state)["network_digest"] for run in runs}
    shipped = score_shipped(Path(folder))
    if len(networks | {shipped["network_digest"]}) > 1:
        sys.exit(f"scores in {folder} are of different networks: delete the scores-*.json of some")
    lines.append(line(["shipped generator", "", "", "averaged"], [shipped["scores"]["averaged"]]))
    lines.append(line(["real images (the floor)", "", "", ""], [shipped["scores"]["floor"]]))
    return lines, choices


def faces_line(run):
    """Train the run of faces, unless that has been done; make its line, without any score."""
    if not run.is_done(LAST):
        call(run.training(LAST))
    log = run.log()
    falls = [f"{log[0][name]:.1f} to {log[-1][name]:.1f}" for name in FACES_HEADS[3:5]]
    return f"| faces | `{FACES[0]}` | {LAST:,} | {' | '.join(falls)} | {run.minutes(LAST):.0f} |"


def print_commands(folder):
    """Print the two commands behind each row's first seed."""
    for name, (extra, states, seeds) in RUNS.items():
        run = Run(folder, name, extra, 0)
        for state in states:
            print(f"{name}, {state:,} iterations, seed 0 of {seeds}:\n")
            print(f"    python main.py {run.training(state)}\n    python main.py {run.scoring()}\n")
    print("shipped generator and floor:\n\n    python main.py --dataset mnist --evaluate True\n")


def score_shipped(folder):
    """Score the shipped generator, unless that has been done; returns its scores."""
    kept = folder / "shipped.json"
    if not kept.exists():
        call(f"--dataset mnist --evaluate True --sample_dir {shlex.quote(str(folder))}")
        Path(SHIPPED).replace(kept)
    return json.loads(kept.read_text())


class Run:
    """A training of one of the RUNS, or of faces, with one seed, in a folder of its own."""

    def __init__(self, folder, name, extra, seed, data=MNIST):
        place = Path(folder) / f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
        self.data, self.extra, self.seed = data[0], extra, seed
        self.folder = place / data[1]
        inner = shlex.quote(str(place)), shlex.quote(str(place / "samples"))
        self.places = "--checkpoint_dir {} --sample_dir {}".format(*inner)

    def training(self, state):
        """Return the flags that train it to a state."""
        words = f"{self.data} --train True {self.extra} --seed {self.seed}"
        return " ".join(f"{words} --max_iterations {state} {self.places}".split())

    def scoring(self):
        """Return the flags that score it."""
        return f"{self.data} --evaluate True {self.places}"

    def reach(self, state):
        """Train it to a state and score it there, unless that has been done."""
        if self._kept(state).exists():
            return
        call(self.training(state))
        call(self.scoring())
        found = json.loads((self.folder / "scores.json").read_text())
        if found["iteration"] != state:
            sys.exit(f"{self.folder} is at {found['iteration']}, beyond {state}: delete it")
        (self.folder / "scores.json").replace(self._kept(state))

    def _kept(self, state):
        return self.folder / f"scores-{state}.json"

    def scores(self, state):
        """Read what `reach` kept."""
        return json.loads(self._kept(state).read_text())

    def log(self):
        """Read the rows of the log."""
        return [json.loads(row) for row in (self.folder / "log.jsonl").read_text().splitlines()]

    def is_done(self, state):
        """Tell whether it has been trained to a state."""
        return (self.folder / f"ckpt-{state}.index").exists()

    def minutes(self, state):
        """Say how long the training takes to a state, by the lower quartile of its log's paces.

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


def rows(name, runs, state):
    """Make the lines of a run: averaged generator and raw one, mean and spread over seeds."""
    minutes = statistics.median(run.minutes(state) for run in runs)
    found = [run.scores(state)["scores"] for run in runs]
    flags = f"`{runs[0].extra}`" if runs[0].extra else ""
    return [
        line([name, flags, f"{state:,}", kind], [scores[kind] for scores in found], minutes)
        for kind in ("averaged", "raw")
    ]


def line(cells, scores, minutes=None):
    """Make a line that begins with some cells; with several seeds, mean ± standard deviation."""
    cells = list(cells)
    for column, digits, factor in COLUMNS.values():
        values = [factor * row[column] for row in scores if column in row]
        cell = f"{statistics.mean(values):.{digits}f}" if values else ""
        if len(values) > 1:
            cell += f" ± {statistics.stdev(values):.{digits}f}"
        cells.append(cell)
    cells.append("" if minutes is None else f"{minutes:.0f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default="results", help="where runs and scores go")
    main(parser.parse_args().folder)
