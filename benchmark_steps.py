"""How long the steps of Algorithm 1 take, for benchmark.py, and what they cannot do without.

Import it after `device.import_tensorflow()`.
"""

import itertools
import json
import math
import statistics
import time

import numpy as np
import tensorflow as tf

import config as flags
import dataset
import draws
import kernels
import ops
import settings
from model import WGAN

tf.get_logger().setLevel("ERROR")  # one model after the other is no retracing
PRECISIONS = "float32", "bfloat16"
REPEATS = 20
# (networks, height and channels of the images, classes)
NETWORKS = [
    ("dcgan", 28, 1, 10),
    ("symmetric", 28, 1, 0),
    ("symmetric", 32, 3, 0),
    ("dcgan", 48, 3, 0),
    ("dcgan", 64, 3, 0),
]
PLAIN_TOO = [("dcgan", 28), ("symmetric", 28), ("dcgan", 48)]


def medians_ms(functions, repeats=REPEATS):
    """Time functions in turns, after two rounds that do not count: the median of each in ms."""
    times = [[] for _ in functions]
    for _ in range(repeats + 2):
        for function, durations in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            durations.append(time.perf_counter() - start)
    return [1000 * statistics.median(durations[2:]) for durations in times]


def median_ms(function, repeats=REPEATS):
    """Time one function as `medians_ms` does."""
    return medians_ms([function], repeats)[0]


def matmul_peak(size=2048):
    """Measure the fp32 rate of a large matrix product, in GFLOP/s."""
    a, b = tf.random.stateless_normal([2, size, size], [1, 2])
    return 2 * size**3 / median_ms(lambda: float(multiply(a, b)[0, 0])) / 1e6


@tf.function
def multiply(a, b):
    """Multiply two matrices."""
    return tf.matmul(a, b)


def random_data(size, channels, classes=0, count=1024):
    """Make a data set of random square images in memory."""
    rng = np.random.default_rng(0)
    facts = dataset.Facts(
        shape=(size, size, channels),
        available=count,
        held_out=0,
        class_names=tuple(str(k) for k in range(classes)),
        label_counts=(count // max(1, classes),) * classes,
        image_files=False,
        pixels="",
        fingerprint="",
    )
    images = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.int32) if classes else None
    return dataset.Data(images, labels, np.arange(count), np.arange(0), facts)


def build(data, **values):
    """Build the model of a run on a data set."""
    size = data.facts.shape[0]
    config = flags.Config(output_height=size, critic_boost=0, **values)
    return WGAN(settings.resolve(config, data.facts), data.facts)


def layer_flops(network):
    """List the operations (2 per multiplication) of each layer for one image, as in its formula.

    A convolution takes k k c f multiplications per pixel of its smaller maps, a product n m.
    Normalisation and activation are not counted.
    """
    flops = []
    for layer in network.layers:
        if isinstance(layer, ops.Conv2D | ops.Deconv2D):
            form = layer.convolution
            pixels = math.prod(math.ceil(length / form.stride) for length in form.image_size)
            flops.append(2 * pixels * math.prod(layer.kernel.shape))
        elif isinstance(layer, ops.Linear):
            flops.append(2 * math.prod(layer.kernel.shape))
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
    return [gan.config.batch_size * flops for flops in (critic_step, generator_step)]


def time_steps(gan, data):
    """Measure both steps on inputs that are ready, each waited for: ms of critic and generator."""
    config = gan.config
    inputs = gan.critic_inputs(data, 0)
    z, labels = draws.generator_draws(0, 1, config.batch_size, config.z_dim, gan.label_counts)
    decay = np.float32(0.999)
    return (
        median_ms(lambda: float(gan.critic_step(*inputs)["d_loss"])),
        median_ms(lambda: float(gan.generator_step(z, labels, decay))),
    )


def iteration_ms(gan, data):
    """Measure a whole iteration."""
    critic_ms, generator_ms = time_steps(gan, data)
    return gan.config.critic_num * critic_ms + generator_ms


def iteration_row(gan, data):
    """Measure the steps of one pair of networks and say what they come to."""
    config = gan.config
    critic_ms, generator_ms = time_steps(gan, data)
    peak = matmul_peak()
    needed = needed_flops(gan)
    iteration = config.critic_num * critic_ms + generator_ms
    gflops = (config.critic_num * needed[0] + needed[1]) / iteration / 1e6
    return {
        "critic_ms": critic_ms,
        "generator_ms": generator_ms,
        "iteration_ms": iteration,
        "iterations_per_s": 1000 / iteration,
        "critic_images_per_s": 1000 * config.critic_num * config.batch_size / iteration,
        "gflop_per_iteration": (config.critic_num * needed[0] + needed[1]) / 1e9,
        "gflop_per_s": gflops,
        "matmul_gflop_per_s": peak,
        "percent_of_matmul": 100 * gflops / peak,
        # In the second of the two earlier programs an iteration is a critic update, and every
        # fifth has a generator update.
        "s_per_10000_iterations": 10 * critic_ms + 2 * generator_ms,
    }


def measure_step():
    """Measure all networks, modes and precisions, and where TensorFlow's own forms would stand."""
    for arch, size, channels, classes in NETWORKS:
        data = random_data(size, channels, classes)
        variants = [*itertools.product(("gp", "regular"), PRECISIONS, ("auto",), (False,))]
        if settings.pair(arch, data.facts.shape) == "small":
            variants.append(("gp", "float32", "none", False))
        if (arch, size) in PLAIN_TOO:
            variants.append(("gp", "float32", "none", True))
        for mode, precision, norm, plain in variants:
            kernels.PLAIN = plain
            gan = build(data, arch=arch, mode=mode, precision=precision, critic_norm=norm)
            names = {"arch": arch, "size": size, "mode": mode, "precision": precision}
            names |= {"critic_norm": gan.config.critic_norm, "plain": plain}
            report("step", **names, **iteration_row(gan, data))
            kernels.PLAIN = False


def measure_scaling():
    """Measure how an iteration grows with batch and image size, and a batch with the data set."""
    for batch in (16, 64, 512):
        data = random_data(28, 1, 10)
        milliseconds = iteration_ms(build(data, batch_size=batch), data)
        report("scaling", of="batch size", value=batch, iteration_ms=milliseconds)
    for size in (28, 64, 128):
        data = random_data(size, 3)
        milliseconds = iteration_ms(build(data, batch_size=16), data)
        report("scaling", of="image size", value=size, iteration_ms=milliseconds)
    for count in (1000, 10_000, 100_000, 1_000_000):
        data, batches = random_data(28, 1, count=count), itertools.count()
        milliseconds = median_ms(lambda data=data, m=batches: data.critic_batch(0, 64, next(m)))
        report("scaling", of="images in the data set", value=count, batch_of_64_ms=milliseconds)


def report(part, **values):
    """Print one JSON line; numbers with four significant digits."""
    numbers = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"part": part, **numbers}), flush=True)
