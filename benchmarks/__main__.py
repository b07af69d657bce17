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
from benchmarks import against, card, peer_keras, program, steps  # noqa: E402

STEPS = """# Benchmarks

Made by `python -m benchmarks` on {date}: {environment}.

## The steps of Algorithm 1

An iteration is five updates of the critic and one of the generator, in batches of 64 images. GFLOP
are the operations that the formulas need (`needed_flops` in `benchmarks/steps.py`).
"""
ON_CPU = """
The inputs are at hand, and each step is waited for. ms is the median of 11 iterations, after two
that do not count. In rows marked "plain" TensorFlow derives everything by itself.

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
    measure = card.measure if device.has_gpu() else steps.measure
    lines = PARTS[name]().items() if name in PARTS else [(f"`{name}`", *measure(name))]
    for what, *numbers in lines:
        shown = (f"{float(f'{number:.3g}'):,g}" for number in numbers)
        print(f"| {what} | {' | '.join(shown)} |", flush=True)


def main():
    """Print the page, or only the rows that are asked for, or a comparison of two commits."""
    rows = list(steps.ROWS)
    if device.has_gpu():  # where all rows are plain
        rows = [name for name in rows if not name.endswith("-plain")]
    names = [*rows, *PARTS]
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    text = f"measure these rows alone: {', '.join(names)}"
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=names, help=text)
    text = "time rows of another commit in turn with this one's, and print the ratios"
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
            for name in part:  # in a process of its own, which prints it
                subprocess.run([sys.executable, "-m", "benchmarks", "--rows", name], check=True)


if __name__ == "__main__":
    main()
