"""Times rows of another commit alternately with this one's: python -m benchmarks --against COMMIT.

The other commit's program lies in a git worktree for that time, with this commit's benchmarks in
it: both are measured by the same code, each in a process of its own.
"""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from scipy import stats

from system import device

device.import_tensorflow()
from benchmarks import program, steps  # noqa: E402

PAIRS = 9
ROWS = [
    "dcgan-28-gp-float32",
    "dcgan-28-regular-float32",
    "dcgan-28-gp-float32-unlabelled",
    "symmetric-28-gp-float32",
    "dcgan-32-gp-float32-labels",
    "dcgan-48-gp-float32",
    "dcgan-64-gp-float32",
    "dcgan-28-gp-bfloat16",
]
START = "first iteration"
HEAD = """This commit's times as a share of those of {commit}: an iteration with its inputs at
hand, or `--train` until its first iteration. Medians of {pairs} pairs, measured in turn, and in
brackets the 95 % interval of the median. {device}, {threads} threads.

| row | oneDNN may use | time | processor time | ms before | ms |
|---|---|---|---|---|---|"""


def compare(commit, rows):
    """Print a table of ratios, each row as soon as it is measured."""
    print(HEAD.format(commit=commit, pairs=PAIRS, **device.environment()), flush=True)
    with worktree(commit) as other:
        for allowed in instructions():
            for row in rows:
                if allowed != "AVX2" or "bfloat16" not in row:  # which oneDNN then aborts on
                    print(f"| {' | '.join(ratios(row, other, allowed))} |", flush=True)


def instructions():
    """List what to let oneDNN use: where there is AVX-512, AVX2 alone, too."""
    here = os.environ.get("ONEDNN_MAX_CPU_ISA", "all")
    return [here, "AVX2"] if device.has_avx512() and not device.has_gpu() else [here]


@contextlib.contextmanager
def worktree(commit):
    """Check another commit out into a folder of its own, with this one's benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        add = ["git", "worktree", "add", "--quiet", "--force", "--detach", folder, commit]
        subprocess.run(add, check=True)
        try:
            shutil.copytree("benchmarks", f"{folder}/benchmarks", dirs_exist_ok=True)
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], check=True)


def ratios(row, other, allowed):
    """Measure a row in turn in both folders; returns the cells of its line."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": allowed}
    call = f"from benchmarks import against; against.measure({row!r})"
    words = [sys.executable, "-c", call]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    with (
        subprocess.Popen(words, cwd=other, **pipes) as before,
        subprocess.Popen(words, **pipes) as now,
    ):
        both = [before, now]
        for side in both:
            ask(side)  # once that does not count
        measured = [alternate(both, backwards=pair % 2) for pair in range(PAIRS)]
        for side in both:
            side.stdin.close()
    walls, processors = zip(*measured, strict=True)
    cells = [show([now / before for before, now in times]) for times in (walls, processors)]
    medians = [f"{statistics.median(times):,.0f}" for times in zip(*walls, strict=True)]
    return [f"`{row}`", allowed, *cells, *medians]


def alternate(both, backwards):
    """Ask both sides one after the other: [before, now] of time, and of processor time."""
    order = both[::-1] if backwards else both
    found = [ask(side) for side in order]
    return list(zip(*(found[::-1] if backwards else found), strict=True))


def ask(side):
    """Have one side measure once: its time and processor time in ms."""
    with contextlib.suppress(BrokenPipeError):
        side.stdin.write("\n")
        side.stdin.flush()
    if not (answer := side.stdout.readline()):
        raise subprocess.CalledProcessError(side.wait(), side.args)  # it has said why
    return json.loads(answer)


def show(values):
    """Write a median with its interval."""
    interval = stats.quantile_test(values, q=1, p=0.5).confidence_interval(0.95)
    return f"{statistics.median(values):.2f} ({interval.low:.2f} to {interval.high:.2f})"


def measure(row):
    """Measure a row once per line of stdin, and print time and processor time in ms."""
    once = program.time_first_iteration if row == START else iteration(row)
    for _ in sys.stdin:
        before, start = sum(os.times()[:4]), time.perf_counter()
        seconds = once() or time.perf_counter() - start
        processor = sum(os.times()[:4]) - before
        print(json.dumps([1000 * seconds, 1000 * processor]), flush=True)


def iteration(row):
    """Return a function that does an iteration of a row."""
    gan, data = steps.prepare(row)
    critic_step, generator_step = steps.ready_steps(gan, data)

    def once():
        for _ in range(gan.config.critic_num):
            critic_step()
        generator_step()

    once()
    return once
