"""Measures the program on this machine and prints a page of Markdown: python -m benchmarks > FILE.

Start it in the project's folder. It takes a quarter of an hour. Run nothing else at the same time:
it would make the program slower.
"""

import argparse
import datetime
import subprocess
import sys

from system import device

device.import_tensorflow()
from benchmarks import against, peer_keras, program, steps  # noqa: E402

STEPS = """# Benchmarks

Made by `python -m benchmarks` on {date}: {device}, {threads} threads, TensorFlow {tensorflow},
Keras {keras}, NumPy {numpy}, Pillow {pillow}.

## The steps of Algorithm 1

An iteration is five critic updates and one generator update, in batches of 64 images. The inputs
are already in memory, and the measurement waits for each step. ms is the median of 11 iterations,
after two that do not count. GFLOP is the number of operations that the equations need
(`needed_flops` in `benchmarks/steps.py`). In rows marked "plain" TensorFlow computes all
derivatives.

| row | ms | GFLOP |
|---|---|---|"""
PROGRAM = """
## The whole program

The default run is `--train` without other flags. Its seconds count from the start of the command.

| what | |
|---|---|"""
PARTS = {
    "start": program.measure_start,
    "loop": program.measure_loop,
    "growth": program.measure_growth,
    "peer": peer_keras.measure,
}


def print_row(name):
    """Measure a row of the steps or one of the PARTS, and print its lines of Markdown."""
    lines = PARTS[name]().items() if name in PARTS else [(f"`{name}`", *steps.measure(name))]
    for what, *numbers in lines:
        shown = (f"{float(f'{number:.3g}'):,g}" for number in numbers)
        print(f"| {what} | {' | '.join(shown)} |", flush=True)


def main():
    """Print the page, or only the rows of --rows, or a comparison of two commits."""
    names = [*steps.ROWS, *PARTS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    text = f"measure only these rows: {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=text)
    text = "measure another commit and this one alternately, and print the ratios"
    parser.add_argument("--against", metavar="COMMIT", help=text)
    typed = parser.parse_args()
    if typed.against and set(typed.rows or ()) & set(PARTS):
        parser.error(f"--against: not with {', '.join(PARTS)}; choose rows of the steps")
    if typed.against:
        against.compare(typed.against, typed.rows or steps.ROWS)
    elif typed.rows:
        for name in typed.rows:
            print_row(name)
    else:
        head = STEPS.format(date=datetime.date.today(), **device.environment())
        for text, rows in ((head, steps.ROWS), (PROGRAM, PARTS)):
            print(text, flush=True)
            for name in rows:  # each in its own process, which prints the row
                subprocess.run([sys.executable, "-m", "benchmarks", "--rows", name], check=True)


if __name__ == "__main__":
    main()
