"""What surrounds the steps: start, loop, folder of images, memory.

Each function returns {what is measured: number} and wants a process of its own.
"""

import importlib.util
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import config as flags
from benchmarks import steps
from datasets import dataset


def measure_start():
    """Measure how long help, the picture of the real images and first iterations take.

    Whoever starts a run would miss it, and whoever adds an import.
    """
    helps = [seconds_until(["--help"])[-1] for _ in range(21)][1:]  # the first one reads the disk
    starts = [time_start() for _ in range(3)]
    return {"`--help`, s (median of 20)": statistics.median(helps)} | {
        f"default run, {what}, s": statistics.median(start[what] for start in starts)
        for what in starts[0]
    }


def time_start():
    """Start a default run and resume it; returns {what is seen: seconds}."""
    with tempfile.TemporaryDirectory() as folder:
        words, log = default_run(folder)
        words += ["--log_every", "1", "--max_iterations"]

        picture = Path(folder, "real.png")
        first = seconds_until([*words, "1"], picture.exists, lambda: has_rows(log, 1))
        again = seconds_until([*words, "2"], lambda: has_rows(log, 2))
    return {
        "real.png": first[0],
        "first iteration": first[1],
        "first iteration of a resume": again[0],
    }


def time_first_iteration():
    """Start a default run; returns the seconds to its first iteration."""
    with tempfile.TemporaryDirectory() as folder:
        words, log = default_run(folder)
        words += ["--log_every", "1", "--max_iterations", "1"]
        return seconds_until(words, lambda: has_rows(log, 1))[0]


def has_rows(log, count):
    """Return whether a log has that many rows."""
    return log.exists() and log.read_text().count("\n") == count


def default_run(folder):
    """Return the words that train the default run in `folder`, and the path of its log."""
    words = ["--train", "--checkpoint_dir", folder, "--sample_dir", folder]
    return words, Path(folder, flags.Config().run_name, "log.jsonl")


def seconds_until(words, *events):
    """Run the program; returns the seconds until each event, a function, and until its end."""
    words, start, times = [sys.executable, "main.py", *words], time.perf_counter(), []
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as running:
        for happened in events:
            while not happened() and running.poll() is None:
                time.sleep(0.005)
            times.append(time.perf_counter() - start)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, words)
    return [*times, time.perf_counter() - start]


def measure_loop():
    """Measure 400 iterations of the default run with all that they leave, by its log.

    Whoever changes the loop would miss it: the steps alone are the row `dcgan-28-gp-float32`.
    """
    with tempfile.TemporaryDirectory() as folder:
        words, log = default_run(folder)
        seconds_until([*words, "--max_iterations", "450"])
        rows = [json.loads(line) for line in log.read_text().splitlines()]
    seconds = {row["iteration"]: row["seconds"] for row in rows}
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "default run, an iteration with all that it leaves, ms": (seconds[450] - seconds[50]) / 0.4,
        "default run, most memory, MB": most,
    }


def measure_folder(count=100_000):
    """Convert a folder of JPEG files of 64x64 pixels, a thousand different ones, and open it again.

    Whoever trains on own images would miss it, and whoever changes how they are kept.
    """
    with tempfile.TemporaryDirectory() as data_dir:
        rng, folder = np.random.default_rng(0), Path(data_dir, "images")
        folder.mkdir()
        for k in range(1000):
            small, file = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), io.BytesIO()
            Image.fromarray(small).resize((64, 64)).save(file, "JPEG")
            for i in range(k, count, 1000):
                (folder / f"{i:06d}.jpg").write_bytes(file.getvalue())
        source = dataset.source_of(
            flags.Config(dataset="images", data_dir=data_dir, output_height=64)
        )
        before, start = peak_mb(), time.perf_counter()
        dataset.load(source)
        converted = time.perf_counter()
        dataset.load(source)
        end = time.perf_counter()
    what = f"folder of {count:,} files"
    return {
        f"{what}, converted, files/s": count / (converted - start),
        f"{what}, opened again, s": end - converted,
        f"{what}, memory for both, MB": peak_mb() - before,
    }


def measure_peers():
    """Measure the default networks without labels here and as others would write them.

    Who asks whether this program is worth its own kernels would miss it.
    """
    from benchmarks import peer_keras

    ms = {"this program": steps.measure("dcgan-28-gp-float32-unlabelled")["ms"]}
    ms["in the manner of Keras' example"] = peer_keras.measure()
    if importlib.util.find_spec("torch"):
        call = "from benchmarks import peer_torch; print(peer_torch.measure())"
        words = [sys.executable, "-c", call]
        ms["PyTorch"] = float(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
    return {f"`dcgan` 28x28 without labels, {who}, ms": value for who, value in ms.items()}


def measure_growth():
    """Measure how much more memory 2,000 small iterations take than the first 200.

    Whoever trains for days would miss it.
    """
    data = steps.load_data(8)
    gan = steps.build(data, arch="symmetric", batch_size=8)
    peaks = []
    for i in range(1, 2201):
        float(gan.train_iteration(data, i)["g_loss"])
        if i in (200, 2200):
            peaks.append(peak_mb())
    return {"memory growth in 2,000 iterations, MB": peaks[1] - peaks[0]}


def peak_mb():
    """Return the most memory that this process has had so far, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
