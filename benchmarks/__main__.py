"""Measures the program on this machine and prints a page of Markdown: python -m benchmarks > FILE.

Start it in the project's folder. It takes a quarter of an hour, and has to run alone: other work
takes its share of the processor.
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

An iteration is five updates of the critic and one of the generator, in batches of 64 images. Its
inputs are at hand, and each step is waited for. ms is the median of 11 iterations, after two that
do not count. GFLOP are the operations that the formulas need (`needed_flops` in
`benchmarks/steps.py`). In rows marked "plain" TensorFlow derives everything by itself.

| row | ms | GFLOP |
|---|---|---|"""
PROGRAM = """
## The whole program

The default run is `--train` alone. Its seconds count from the command.

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
    """Print the page, or only the rows that are asked for, or a comparison of two commits."""
    names = [*steps.ROWS, *PARTS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    text = f"measure these rows alone: {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=text)
    text = "time rows of another commit in turn with this one's, and print the ratios"
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
            for name in rows:  # in a process of its own, which prints it
                subprocess.run([sys.executable, "-m", "benchmarks", "--rows", name], check=True)


if __name__ == "__main__":
    main()
