"""Measures the program on this machine and prints Markdown: python -m benchmarks > FILE.

Started in the project's folder; it takes a quarter of an hour. Run it alone: whatever else runs
takes its share of the processor.
"""

import argparse
import datetime
import functools
import json
import subprocess
import sys

from system import device

device.import_tensorflow()
from benchmarks import against, program, steps  # noqa: E402

HEAD = """# Benchmarks

Made by `python -m benchmarks` on {date}: {device}, {threads} threads, TensorFlow {tensorflow},
Keras {keras}, NumPy {numpy}, Pillow {pillow}.

**{seconds} s for 10,000 critic and 2,000 generator updates** of the symmetric networks on MNIST
(28x28, gp, float32, batch 64).

## The steps of Algorithm 1

An iteration is five critic updates and a generator update of batch 64, inputs at hand, each step
waited for: medians of 11, after two that do not count. GFLOP is the work that the formulas cannot
do without (`needed_flops` in `benchmarks/steps.py`). % relates its rate to that of a product of
2048x2048 float32 matrices, measured beside each row: on a shared processor compare that rather than
times. The last column is the time of 10,000 critic and 2,000 generator updates. Rows "plain" leave
every derivative to TensorFlow's own forms.
"""
PROGRAM = """
## The whole program

The default run is `--train` alone. Its seconds count from the command, medians of three.

| what | |
|---|---|"""
PARTS = {
    "start": program.measure_start,
    "loop": program.measure_loop,
    "folder": program.measure_folder,
    "growth": program.measure_growth,
    "peers": program.measure_peers,
}


@functools.cache
def measure(name):
    """Measure a row in a process of its own; returns {column: text or number}."""
    print(name, file=sys.stderr, flush=True)
    words = [sys.executable, "-m", "benchmarks", "--rows", name]
    return json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)["row"]


def show(value):
    """Write a cell: a text, or a number with three significant digits."""
    if isinstance(value, str):
        return value
    value = float(f"{value:.3g}")
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def print_all():
    """Measure everything and print it, each row as soon as it is measured."""
    first = measure(steps.ROWS[0])
    head = device.environment() | {"date": datetime.date.today()}
    print(HEAD.format(seconds=show(first[steps.SECONDS]), **head))
    print(f"| {' | '.join(first)} |\n|{'---|' * len(first)}")
    for name in steps.ROWS:
        print(f"| {' | '.join(map(show, measure(name).values()))} |", flush=True)
    print(PROGRAM)
    for name in PARTS:
        for what, value in measure(name).items():
            print(f"| {what} | {show(value)} |", flush=True)


def main():
    """Measure all, or only the rows that are asked for, as JSON lines."""
    names = [*dict.fromkeys([*steps.ROWS, *PARTS, *against.ROWS, against.START])]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    what = f"measure these alone, and print JSON lines: {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=what)
    what = "measure this commit's rows in turn with another commit's, and print the ratios"
    parser.add_argument("--against", metavar="COMMIT", help=what)
    typed = parser.parse_args()
    chosen = typed.rows
    if typed.against:
        against.compare(typed.against, chosen or [*against.ROWS, against.START])
        return
    if chosen is None:
        print_all()
        return
    for name in chosen:
        row = PARTS[name]() if name in PARTS else steps.measure(name)
        print(json.dumps({"name": name, "row": row}), flush=True)


if __name__ == "__main__":
    main()
