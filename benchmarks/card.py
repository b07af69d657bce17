"""What a GPU makes of the rows of the steps: how long it idles, how much of its rate it uses."""

import time

import numpy as np
import tensorflow as tf

from benchmarks import steps
from config import Config
from model import WGAN

ITERATIONS = 100  # timed ones; the 11th is the first, and the 200th would be a boosted one
FIRST = 11
SIZE = 8192  # rows and columns of the matrices whose product is timed


def measure(name):
    """Measure a row of steps.ROWS as a training does it, with inputs of its own for every update.

    Returns the ms of an iteration, the GFLOP that it needs, its share of the card's product rate,
    and the share of the time in which the card waits, both in %. The latter is from the time of the
    same steps on inputs that are there already, none of which is waited for.
    """
    flags = dict(steps.ROWS[name])
    classes = flags.pop("classes", 0)
    config = Config(**flags)
    data = steps.load_data(config.output_height, classes)
    gan = WGAN(config, data.facts)
    critic, generator = steps.needed_flops(gan)
    gflop = (gan.config.critic_num * critic + generator) / 1e9
    whole = seconds_each(lambda i: gan.train_iteration(data, i)["g_loss"])
    busy = seconds_each(repeated(gan, data))
    share = gflop / whole / product_rate(gan.config.precision)
    return 1000 * whole, gflop, 100 * share, 100 * max(0.0, 1 - busy / whole)


def repeated(gan, data):
    """Return a function that does an iteration's steps, each on the same inputs."""
    inputs = gan.inputs.critic(data, 0), gan.inputs.generator(data, 1)
    first, second = tf.nest.map_structure(
        lambda x: None if x is None else tf.convert_to_tensor(x), inputs
    )

    def iterate(_):
        for _ in range(gan.config.critic_num):
            gan.critic_step(*first)
        return gan.generator_step(*second, np.float32(gan.config.ema))["g_loss"]

    return iterate


def seconds_each(iterate, count=ITERATIONS):
    """Return the mean seconds of `iterate(i)`, queued without waiting, after ten that compile."""
    for i in range(1, FIRST):
        last = iterate(i)
    float(last)  # waits for all that is queued
    start = time.perf_counter()
    for i in range(FIRST, FIRST + count):
        last = iterate(i)
    float(last)
    return (time.perf_counter() - start) / count


def product_rate(precision, size=SIZE):
    """Return the GFLOP/s of a product of two large matrices, float32 or bfloat16."""
    a, b = (tf.cast(tf.fill([size, size], value), precision) for value in (0.5, 0.25))
    product = tf.function(tf.matmul, autograph=False, jit_compile=True)
    ms = steps.median_ms(lambda: float(product(a, b)[0, 0]))
    return 2 * size**3 / 1e6 / ms
