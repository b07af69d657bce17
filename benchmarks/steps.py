"""How long the steps of Algorithm 1 take, and the work that they cannot do without.

Import it after `device.import_tensorflow()`.
"""

import dataclasses
import itertools
import math
import statistics
import time

import numpy as np
import tensorflow as tf

import config as flags
import ops
from datasets import dataset
from kernels import processor
from model import WGAN
from run import settings

# Names of the rows: networks, height of the images, mode and precision; then `none` where the
# critic has no norm though `auto` gives it one, and `plain` where, besides, kernels.py is left out;
# `labels` where random colour images have ten classes, `unlabelled` where MNIST's are not used.
# The first is the headline.
ROWS = [
    "-".join(words)
    for words in itertools.product(
        ("symmetric-28", "dcgan-28", "symmetric-32", "dcgan-48", "dcgan-64", "resnet-32"),
        ("gp", "regular"),
        ("float32", "bfloat16"),
    )
]
ROWS += ["dcgan-28-gp-float32-none", "dcgan-28-gp-float32-plain"]
ROWS += ["symmetric-28-gp-float32-plain", "dcgan-48-gp-float32-plain"]
SECONDS = "10,000 it., s"


def measure(name):
    """Measure one of the ROWS; returns {column: text or number}.

    Who changes a step, a network or a kernel would miss it.
    """
    arch, size, mode, precision, *more = name.split("-")
    gan, data = prepare(name)
    updates = gan.config.critic_num, 1
    critic_ms, generator_ms = time_steps(gan, data)
    ms = updates[0] * critic_ms + generator_ms
    gflop = sum(n * flops for n, flops in zip(updates, needed_flops(gan), strict=True)) / 1e9
    return {
        "networks": f"`{arch}` {size}x{size}{', plain' if more == ['plain'] else ''}",
        "mode": mode,
        "norm": gan.config.critic_norm,
        "precision": precision,
        "ms": ms,
        "GFLOP": gflop,
        "%": 100 * gflop / (ms / 1000) / product_gflop_per_s(),
        # In the second of the two earlier programs an iteration is a critic update, and every
        # fifth has a generator update.
        SECONDS: 10 * critic_ms + 2 * generator_ms,
    }


def prepare(name):
    """Build the model of a row; returns it and its data."""
    arch, size, mode, precision, *more = name.split("-")
    processor.PLAIN |= "plain" in more
    data = load_data(int(size), 10 if "labels" in more else 0)
    values = {"critic_norm": "none"} if {"none", "plain"} & set(more) else {}
    values |= {"conditional": False} if "unlabelled" in more else {}
    return build(data, arch=arch, mode=mode, precision=precision, **values), data


def time_steps(gan, data):
    """Measure both steps: median ms of critic and generator."""
    return [median_ms(step) for step in ready_steps(gan, data)]


def ready_steps(gan, data):
    """Return both steps as functions that have their inputs and wait for what they compute."""
    inputs = gan.critic_inputs(data, 0)
    others = *gan.generator_inputs(data, 1), np.float32(0.999)
    return (
        lambda: float(gan.critic_step(*inputs)["d_loss"]),
        lambda: float(gan.generator_step(*others)["g_loss"]),
    )


def median_ms(function, repeats=11):
    """Return the median time of a call in ms, after two calls that do not count."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times[2:])


def product_gflop_per_s(size=2048):
    """Measure the rate of a large float32 matrix product."""
    a, b = tf.random.stateless_normal([2, size, size], [1, 2])
    multiply = tf.function(tf.matmul)
    return 2 * size**3 / median_ms(lambda: float(multiply(a, b)[0, 0])) / 1e6


def load_data(size, classes=0):
    """Return MNIST for 28x28 pixels, else random colour images in memory, as many per class."""
    data = dataset.load(dataset.source_of(flags.Config()))
    if size == 28:
        return data
    known = {"class_names": tuple(map(str, range(classes))), "label_counts": (100,) * classes}
    facts = dataclasses.replace(data.facts, shape=(size, size, 3), **known)
    images = np.random.default_rng(0).integers(0, 256, (1000, *facts.shape), dtype=np.uint8)
    labels = np.arange(1000, dtype=np.int32) % classes if classes else None
    return dataset.Data(images, labels, np.arange(1000), np.arange(0), facts)


def build(data, **values):
    """Build the model of a run on a data set."""
    config = flags.Config(output_height=data.facts.shape[0], critic_boost=0, **values)
    return WGAN(settings.resolve(config, data.facts), data.facts)


def layer_flops(network):
    """List the operations (2 per multiplication) of each layer for one image, as in its formula.

    A convolution takes k k c f multiplications per pixel of its smaller maps (k is 1 where it could
    come before pixels are repeated or after their means), a product n m. Not counted are labels
    (what they add depends on the label alone), normalisation and activation.
    """
    flops = []
    for layer in network.layers:
        if not isinstance(layer, ops.Conv2D | ops.Deconv2D | ops.Linear):
            continue
        x = layer.input[0] if isinstance(layer.input, list) else layer.input
        if isinstance(layer, ops.Linear):
            flops.append(2 * x.shape[1] * layer.units)
            continue
        maps = layer.output if isinstance(layer, ops.Conv2D) else x
        taps = layer.make_kernel().shape[0] ** 2 if layer.size > 1 else 1
        flops.append(2 * math.prod(maps.shape[1:3]) * taps * x.shape[3] * layer.filters)
    return flops


def needed_flops(gan):
    """Count what one critic and one generator update cannot do without."""
    generator, critic = layer_flops(gan.generator), layer_flops(gan.critic)
    forward = sum(critic)
    # Fakes; real and fake images forward, back to each layer but the image, and to each kernel.
    critic_step = sum(generator) + 2 * (3 * forward - critic[0])
    if gan.config.mode == "gp":
        # Interpolates forward and back to the image; the way back derived with respect to each
        # kernel and to each of its own layers but the first, which starts from the score's 1.
        critic_step += 4 * forward - critic[-1]
        if gan.config.critic_norm == "layer":
            # A norm's derivative depends on its input, hence also back through the interpolates'
            # forward pass, from the last norm to each kernel and each layer but the image.
            critic_step += 2 * (forward - critic[-1]) - critic[0]
    # Fakes; scores; back through the critic to the image; generator's layers and kernels.
    generator_step = 3 * sum(generator) - generator[0] + 2 * forward
    size, times = gan.config.batch_size, gan.config.generator_batch
    return [size * critic_step, times * size * generator_step]
