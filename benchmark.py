"""Measures the real training on this machine, in JSON lines: python benchmark.py [step] [loop].

Run it alone: whatever else runs takes its share of the processor.
"""

import json
import statistics
import sys
import tempfile
import time

import numpy as np

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


def report(part, **values):
    """Print one JSON line."""
    numbers = {k: round(v, 2) if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"part": part, **numbers}), flush=True)


PARTS = {"step": measure_step, "loop": measure_loop}


if __name__ == "__main__":
    device.import_tensorflow()
    for chosen in sys.argv[1:] or PARTS:
        PARTS[chosen]()
