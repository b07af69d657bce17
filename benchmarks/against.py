"""Compares the speed of another commit with this one's: python -m benchmarks --against COMMIT.

The other commit's files are in a temporary folder. They get these benchmarks, so that the same code
measures both commits. Each commit is measured in its own process.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy import stats

from benchmarks import steps
from system import device

PAIRS = 9
HEAD = """Each ratio is the time of an iteration of this commit divided by the time of {commit}. The
inputs are already in memory. Ratios and ms are medians of {pairs} pairs, measured alternately. The
brackets contain the 95 % interval of the median. {device}, {threads} threads; oneDNN may use
{oneDNN instructions}.

| row | time | processor time | ms before | ms |
|---|---|---|---|---|"""


def compare(commit, rows):
    """Print a table of ratios, each row as soon as it is measured."""
    print(HEAD.format(commit=commit, pairs=PAIRS, **device.environment()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/files.zip"
        subprocess.run(["git", "archive", "--output", archive, commit], check=True)
        shutil.unpack_archive(archive, folder)
        shutil.copytree("benchmarks", f"{folder}/benchmarks", dirs_exist_ok=True)
        for row in rows:
            print(f"| `{row}` | {' | '.join(measure(row, folder))} |", flush=True)


def measure(row, folder):
    """Measure a row in `folder` and here alternately; return the cells of its table row."""
    call = f"from benchmarks.__main__ import against; against.answer({row!r})"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with (
        subprocess.Popen([sys.executable, "-c", call], cwd=folder, **pipes) as before,
        subprocess.Popen([sys.executable, "-c", call], **pipes) as now,
    ):
        ask([before, now])  # This pair does not count.
        times = np.array([ask([before, now], pair % 2) for pair in range(PAIRS)])
    ratios = times[:, 1] / times[:, 0]
    medians = np.median(times[:, :, 0], axis=0)
    return [*map(show, ratios.T), *(f"{ms:,.0f}" for ms in medians)]


def ask(sides, backwards=False):
    """Let two processes measure once, one after the other: [time, processor time] of each, ms."""
    found = []
    for side in sides[::-1] if backwards else sides:
        side.stdin.write(b"\n")
        if not (line := side.stdout.readline()):  # It has failed, and stderr says why.
            raise subprocess.CalledProcessError(side.wait(), side.args)
        found.append(json.loads(line))
    return found[::-1] if backwards else found


def answer(row):
    """Measure a row once for each line on stdin, and print [time, processor time] in ms."""
    _, iterate = steps.prepare(**steps.ROWS[row])
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        iterate()
        end = time.perf_counter(), time.process_time()
        print(json.dumps([1000 * (b - a) for a, b in zip(start, end, strict=True)]), flush=True)


def show(ratios):
    """Return the median of ratios with its 95 % interval, as text."""
    interval = stats.quantile_test(ratios, q=1, p=0.5).confidence_interval(0.95)
    return f"{np.median(ratios):.2f} ({interval.low:.2f} to {interval.high:.2f})"
