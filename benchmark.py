"""Measures the real program on this machine, in JSON lines: python benchmark.py [PART ...].

The parts are step, loop and data; without any, all of them. `data` measures a large synthetic set,
and data/faces and data/animals where they are there.

Run it alone: whatever else runs takes its share of the processor.
"""

import io
import json
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

REPEATS = 20
NETWORKS = {
    "dcgan gp": {},
    "dcgan regular": {"mode": "regular", "critic_boost": 0},
    "symmetric gp": {"arch": "symmetric"},
}


def medians_ms(functions, repeats=REPEATS):
    """Time functions in turns, after two rounds that do not count: the median of each in ms."""
    times = [[] for _ in functions]
    for _ in range(repeats + 2):
        for function, durations in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            durations.append(time.perf_counter() - start)
    return [1000 * statistics.median(durations[2:]) for durations in times]


def matmul_peak():
    """Measure the fp32 rate of a large matrix product, in GFLOP/s."""
    import tensorflow as tf

    size = 2048
    a, b = tf.random.stateless_normal([2, size, size], [1, 2])
    multiply = tf.function(lambda: tf.matmul(a, b)[0, 0])
    return 2 * size**3 / medians_ms([lambda: float(multiply())])[0] / 1e6


def bare_iteration(gan, data):
    """Return a function that runs one iteration's steps on inputs that are ready, and waits."""
    config = gan.config
    images, labels = data.critic_batch(config.seed, config.batch_size, 0)
    labels = labels if gan.classes else None
    z, alpha, _ = draws.critic_draws(config.seed, 0, config.batch_size, config.z_dim)

    decay = np.float32(0.999)

    def run():
        for _ in range(config.critic_num):
            gan.critic_step(images, labels, z, alpha, None)
        float(gan.generator_step(z, labels, decay))

    return run


def measure_step():
    """Measure bare iterations of each pair of networks on MNIST."""
    from model import WGAN

    data = dataset.load(flags.Config())
    for name, values in NETWORKS.items():
        gan = WGAN(settings.resolve(flags.Config(**values), data.facts), data.facts)
        (milliseconds,) = medians_ms([bare_iteration(gan, data)])
        report("step", networks=name, ms_per_iteration=milliseconds, matmul_gflops=matmul_peak())


def measure_loop():
    """Measure what the loop adds to the bare iterations of the default MNIST run, by its parts."""
    import runs
    import train

    with tempfile.TemporaryDirectory() as folder:
        config = flags.Config(checkpoint_dir=folder, sample_dir=folder)
        data = dataset.load(config)
        config = settings.resolve(config, data.facts)
        training = train.Training(config, data, train.last_state(config))
        runs.Path(config.run_dir).mkdir()
        training.prepare_model([], None)
        gan, bare = training.gan, bare_iteration(training.gan, data)
        states = iter(range(1, 10**6))

        def iteration():
            measured = gan.train_iteration(data, 10 + next(states))
            return {name: float(value) for name, value in measured.items()}

        def row():
            training.state += 50
            training.log.write(training.state, 0, measured | {"w_distance_val": gan.validate(data)})

        measured = iteration()
        parts = dict(zip(("bare", "iteration"), medians_ms([bare, iteration]), strict=True))
        parts |= dict(zip(("row", "grid"), medians_ms([row, training.write_grid]), strict=True))
        (parts["checkpoint"],) = medians_ms([training.save], 5)
    total = parts["iteration"] + parts["row"] / config.log_every
    total += parts["grid"] / config.sample_every + parts["checkpoint"] / config.save_every
    report("loop", **{f"{name}_ms": value for name, value in parts.items()}, total_ms=total)
    report("loop", overhead_percent=100 * (total / parts["bare"] - 1))


def measure_data():
    """Measure what becomes of folders, each in a process of its own for the sake of its memory.

    The synthetic one has 200,000 files of 64x64 pixels, 1,000 different ones.
    """
    for name, size in (("faces", 48), ("animals", 64)):
        if Path("data", name).is_dir():
            subprocess.run(
                [sys.executable, __file__, "folder", "data", name, str(size)], check=True
            )
    with tempfile.TemporaryDirectory() as data_dir:
        folder = Path(data_dir, "synthetic")
        folder.mkdir()
        rng = np.random.default_rng(0)
        for k in range(1000):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((64, 64)).save(file, "JPEG")
            for i in range(k, 200_000, 1000):
                (folder / f"{i:06d}.jpg").write_bytes(file.getvalue())
        subprocess.run(
            [sys.executable, __file__, "folder", data_dir, "synthetic", "64"], check=True
        )


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
        (values["batch_of_320_ms"],) = medians_ms(
            [lambda: data.critic_batch(0, 320, next(batches))]
        )
    report("data", folder=name, **values)


def peak_memory():
    """Return the most memory this process has had so far, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def report(part, **values):
    """Print one JSON line."""
    numbers = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"part": part, **numbers}), flush=True)


PARTS = {"step": measure_step, "loop": measure_loop, "data": measure_data}


if __name__ == "__main__":
    if sys.argv[1:2] == ["folder"]:
        measure_folder(*sys.argv[2:])
    else:
        device.import_tensorflow()
        for chosen in sys.argv[1:] or PARTS:
            PARTS[chosen]()
