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
from benchmarks import against, card, peer_keras, program, steps  # noqa: E402

STEPS = """# Benchmarks

Made by `python -m benchmarks` on {date}: {environment}.

## The steps of Algorithm 1

An iteration is five critic updates and one generator update, in batches of 64 images. GFLOP is the
number of operations that the equations need (`needed_flops` in `benchmarks/steps.py`).
"""
ON_CPU = """
The inputs are already in memory, and the measurement waits for each step. ms is the median of 11
iterations, after two that do not count. In rows marked "plain" TensorFlow computes all derivatives.

| row | ms | GFLOP |
|---|---|---|"""
ON_GPU = """
ms is the mean of 100 iterations as a training does them, after ten that do not count. The rate is
that of a product of two matrices of 8192x8192 in the row's precision. The card is idle for the part
of the time that the same steps do not take when their inputs are on the card.

| row | ms | GFLOP | of the card's product rate, % | idle, % |
|---|---|---|---|---|"""
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
    measure = card.measure if device.has_gpu() else steps.measure
    lines = PARTS[name]().items() if name in PARTS else [(f"`{name}`", *measure(name))]
    for what, *numbers in lines:
        shown = (f"{float(f'{number:.3g}'):,g}" for number in numbers)
        print(f"| {what} | {' | '.join(shown)} |", flush=True)


def main():
    """Print the page, or only the rows of --rows, or a comparison of two commits."""
    rows = list(steps.ROWS)
    if device.has_gpu():  # where all rows are plain
        rows = [name for name in rows if not name.endswith("-plain")]
    names = [*rows, *PARTS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    text = f"measure only these rows: {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=text)
    text = "measure another commit and this one alternately, and print the ratios"
    parser.add_argument("--against", metavar="COMMIT", help=text)
    typed = parser.parse_args()
    if typed.against and set(typed.rows or ()) & set(PARTS):
        parser.error(f"--against: not with {', '.join(PARTS)}; choose rows of the steps")
    if typed.against:
        against.compare(typed.against, typed.rows or rows)
    elif typed.rows:
        for name in typed.rows:
            print_row(name)
    else:
        facts = ", ".join(f"{name} {value}" for name, value in device.environment().items())
        head = STEPS.format(date=datetime.date.today(), environment=facts)
        head += ON_GPU if device.has_gpu() else ON_CPU
        for text, part in ((head, rows), (PROGRAM, PARTS)):
            print(text, flush=True)
            for name in part:  # each in its own process, which prints the row
                subprocess.run([sys.executable, "-m", "benchmarks", "--rows", name], check=True)


if __name__ == "__main__":
    main()
