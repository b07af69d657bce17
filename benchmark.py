"""Measures the real program on this machine and prints JSON lines.

All parts take about ten minutes. `data` measures a large synthetic set, and data/faces and
data/animals where they are there. Run it alone: whatever else runs takes its share of the
processor. benchmark_report.py makes the tables and the plot of BENCHMARKS.md from the lines.
"""

import argparse
import contextlib
import datetime
import io
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import config as flags
import dataset
import device
import draws
import settings
import train

PROGRAM = Path(__file__).parent / "main.py"
device.import_tensorflow()
from benchmark_replicas import measure_replicas  # noqa: E402
from benchmark_steps import (  # noqa: E402
    build,
    measure_scaling,
    measure_step,
    median_ms,
    medians_ms,
    random_data,
    report,
)


def measure_loop():
    """Measure what the loop adds to the bare iterations of the default MNIST run, by its parts."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = flags.Config(checkpoint_dir=folder, sample_dir=folder)
        data = dataset.load(config)
        config = settings.resolve(config, data.facts)
        training = train.Training(config, data, locks=[])  # nobody else knows this folder
        Path(config.run_dir).mkdir()
        training.prepare_model([], None)
        training.prepare_folder()
        gan, states = training.gan, itertools.count(1)
        inputs = gan.critic_inputs(data, 0)
        z, labels = draws.generator_draws(0, 1, config.batch_size, config.z_dim, gan.label_counts)

        def bare():
            for _ in range(config.critic_num):
                gan.critic_step(*inputs)
            float(gan.generator_step(z, labels, np.float32(0.999)))

        def iteration():
            measured = gan.train_iteration(data, 10 + next(states))
            return {name: float(value) for name, value in measured.items()}

        def row():
            training.state += config.log_every
            training.log.write(training.state, 0, measured | {"w_distance_val": gan.validate(data)})

        measured = iteration()
        parts = dict(zip(("bare", "iteration"), medians_ms([bare, iteration]), strict=True))
        parts |= {"row": median_ms(row), "grid": median_ms(training.write_grid)}
        parts["checkpoint"] = median_ms(training.save, 5)
    total = parts["iteration"] + parts["row"] / config.log_every
    total += parts["grid"] / config.sample_every + parts["checkpoint"] / config.save_every
    report("loop", **{f"{name}_ms": value for name, value in parts.items()}, total_ms=total)
    report("loop", overhead_percent=100 * (total / parts["bare"] - 1))


def measure_data():
    """Measure what becomes of folders, each in a process of its own for the sake of its memory.

    The synthetic one has 100,000 files of 64x64 pixels, 1,000 different ones.
    """
    for name, size in (("faces", 48), ("animals", 64)):
        if Path("data", name).is_dir():
            run_part("folder", "data", name, size)
    with tempfile.TemporaryDirectory() as data_dir:
        folder = Path(data_dir, "synthetic")
        folder.mkdir()
        rng = np.random.default_rng(0)
        for k in range(1000):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((64, 64)).save(file, "JPEG")
            for i in range(k, 100_000, 1000):
                (folder / f"{i:06d}.jpg").write_bytes(file.getvalue())
        run_part("folder", data_dir, "synthetic", 64)


def run_part(*words):
    """Measure a part in a process of its own."""
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def measure_folder(data_dir, name, size):
    """Convert a folder into a temporary cache, open it again, and draw batches of 320 from it."""
    with tempfile.TemporaryDirectory() as cache_dir:
        config = flags.Config(
            dataset=name, data_dir=data_dir, cache_dir=cache_dir, output_height=int(size)
        )
        before, start = peak_memory(), time.perf_counter()
        count = len(dataset.load(config).images)
        values = {"files": count, "files_per_second": count / (time.perf_counter() - start)}
        start = time.perf_counter()
        data = dataset.load(config)
        values["open_again_s"] = time.perf_counter() - start
        values["memory_growth_mb"] = peak_memory() - before
        batches = iter(range(10**6))
        np.add.reduce(data.images, axis=None)  # warms the page cache
        values["batch_of_320_ms"] = median_ms(lambda: data.critic_batch(0, 320, next(batches)))
    report("data", folder=name, **values)


def peak_memory():
    """Return the most memory this process has had so far, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure_start(repeats=3):
    """Measure seconds from a command of the default MNIST run to what it shows, in medians of 3."""
    helps = [seconds_until([sys.executable, PROGRAM, "--help"], lambda: False) for _ in range(21)]
    report("start", what="--help", seconds=statistics.median(helps[1:]), repeats=20)
    times = {"picture of real images": [], "first iteration": [], "first iteration of a resume": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, PROGRAM, "--train", "--log_every", "1"]
            words += ["--checkpoint_dir", folder, "--sample_dir", folder]
            log = Path(folder, "mnist_64_28_28", "log.jsonl")

            def has_rows(count, log=log):
                return log.exists() and log.read_text().count("\n") >= count

            picture, once = Path(folder, "real.png"), [*words, "--max_iterations", "1"]
            times["picture of real images"].append(seconds_until(once, picture.exists))
            for path in Path(folder).iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            times["first iteration"].append(seconds_until(once, lambda: has_rows(1), kill=False))
            again = [*words, "--max_iterations", "2"]
            times["first iteration of a resume"].append(seconds_until(again, lambda: has_rows(2)))
    for what, seconds in times.items():
        report("start", what=what, seconds=statistics.median(seconds), repeats=repeats)


def seconds_until(words, seen, kill=True):
    """Start a program and return the seconds until `seen` is true or the program ends well."""
    start = time.perf_counter()
    program = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while program.poll() is None and not seen():
        time.sleep(0.005)
    seconds = time.perf_counter() - start
    if program.returncode:
        raise subprocess.CalledProcessError(program.returncode, words)
    if kill:
        program.kill()
    program.wait()
    return seconds


def measure_memory():
    """Measure the memory of default runs, and how it grows over 2,000 iterations of small ones."""
    for words in (
        ("dcgan", 28, 1, 10, 64, 5),
        ("dcgan", 64, 3, 0, 64, 5),
        ("symmetric", 8, 1, 0, 8, 2200),
    ):
        run_part("run_memory", *words)


def measure_run_memory(arch, *numbers):
    """Run some iterations and report the process' memory, and its growth after the first 200."""
    size, channels, classes, batch_size, iterations = map(int, numbers)
    data = random_data(size, channels, classes)
    gan = build(data, arch=arch, batch_size=batch_size)
    values = {}
    for i in range(1, iterations + 1):
        float(gan.train_iteration(data, i)["g_loss"])
        if i == 200:
            values["growth_mb"] = -peak_memory()
    values["peak_mb"] = peak_memory()
    if "growth_mb" in values:
        values["growth_mb"] += values["peak_mb"]
    report("memory", arch=arch, size=size, iterations=iterations, **values)


PARTS = {
    "step": measure_step,
    "loop": measure_loop,
    "data": measure_data,
    "start": measure_start,
    "memory": measure_memory,
    "scaling": measure_scaling,
    "replicas": measure_replicas,
}
INNER = {"folder": measure_folder, "run_memory": measure_run_memory}


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in INNER:
        INNER[sys.argv[1]](*sys.argv[2:])
    else:
        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("part", nargs="*", default="all", choices=["all", *PARTS])
        chosen = parser.parse_args().part
        report("machine", date=str(datetime.date.today()), **device.environment())
        for part in PARTS if "all" in chosen else chosen:
            PARTS[part]()
