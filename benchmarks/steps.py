"""How long an iteration of Algorithm 1 takes, and how many operations it needs.

`--against` runs this file in the other commit, too.
"""

import contextlib
import dataclasses
import math
import statistics
import timeit

import keras
import numpy as np

import kernels
import ops
from config import Config
from datasets import dataset
from model import WGAN

# Each row has a name and the arguments of `prepare` that differ from the default run.
ROWS = {
    "symmetric-28-gp-float32": {"arch": "symmetric"},
    "symmetric-28-gp-float32-plain": {"arch": "symmetric", "plain": True},
    "dcgan-28-gp-float32": {},
    "dcgan-28-gp-bfloat16": {"precision": "bfloat16"},
    "dcgan-28-regular-float32": {"mode": "regular"},
    "dcgan-28-gp-float32-unlabelled": {"conditional": False},
    "dcgan-28-gp-float32-none": {"critic_norm": "none"},
    "dcgan-28-gp-float32-plain": {"critic_norm": "none", "plain": True},
    "dcgan-32-gp-float32-labels": {"output_height": 32, "classes": 10},
    "dcgan-48-gp-float32": {"output_height": 48},
    "dcgan-48-gp-bfloat16": {"output_height": 48, "precision": "bfloat16"},
    "dcgan-48-gp-float32-plain": {"output_height": 48, "plain": True},
    "dcgan-64-gp-float32": {"output_height": 64},
    "resnet-32-gp-float32": {"output_height": 32, "arch": "resnet"},
    "resnet-32-gp-bfloat16": {"output_height": 32, "arch": "resnet", "precision": "bfloat16"},
}


def measure(name):
    """Measure an iteration of one of the ROWS; return its ms and the GFLOP that it needs."""
    gan, iterate = prepare(**ROWS[name])
    critic, generator = needed_flops(gan)
    return median_ms(iterate), (gan.config.critic_num * critic + generator) / 1e9


def prepare(classes=0, plain=False, **flags):
    """Build the model of a row; return it and a function that does one iteration.

    `classes` is for `load_data`; with `plain` TensorFlow computes all derivatives; `flags` are
    values of config.Config. The function has its inputs in memory and waits for each step.
    """
    config = Config(**flags)
    data = load_data(config.output_height, classes)
    with kernels.plain() if plain else contextlib.nullcontext():
        gan = WGAN(config, data.facts)
        inputs, others = gan.inputs.critic(data, 0), gan.inputs.generator(data, 1)

        def iterate():
            for _ in range(config.critic_num):
                float(gan.critic_step(*inputs)["d_loss"])
            float(gan.generator_step(*others, np.float32(config.ema))["g_loss"])

        iterate()  # traces the steps while the choice of kernels is in effect
    return gan, iterate


def load_data(size, classes=0):
    """Return MNIST for `size` 28, else 1,000 random colour images, with labels if classes > 0."""
    mnist = dataset.load(dataset.source_of(Config()))
    if size == 28:
        return mnist
    labelled = {"class_names": tuple(map(str, range(classes))), "label_counts": (100,) * classes}
    facts = dataclasses.replace(mnist.facts, shape=(size, size, 3), **labelled)
    images = np.random.default_rng(0).integers(0, 256, (1000, *facts.shape), dtype=np.uint8)
    labels = np.arange(1000, dtype=np.int32) % classes if classes else None
    return dataset.Data(images, labels, np.arange(1000), np.arange(0), facts)


def median_ms(function, repeats=11):
    """Return the median time of a call in ms, after two calls that do not count."""
    return 1000 * statistics.median(timeit.repeat(function, number=1, repeat=repeats + 2)[2:])


def layer_flops(network):
    """List the operations of each layer for one image; a multiplication with its addition is two.

    A convolution multiplies once for each tap of its kernel, input channel, output channel, and
    pixel of its smaller side. Labels, normalisation and activation are not counted.
    """
    flops = []
    for layer in network.layers:
        if isinstance(layer, ops.Conv2D | ops.Deconv2D | ops.Linear):
            x, y = keras.tree.flatten(layer.input)[0].shape, layer.output.shape
            taps = math.prod(layer.kernel.shape[:-2])  # 1 for Linear, which has no pixels
            if isinstance(layer, ops.ConvMeanPool | ops.UpsampleConv) and taps > 1:
                taps = (layer.kernel.shape[0] + 1) ** 2  # of the kernel of the joint convolution
            pixels = min(math.prod(x[1:-1]), math.prod(y[1:-1]))
            flops.append(2 * taps * x[-1] * y[-1] * pixels)
    return flops


def needed_flops(gan):
    """Count the operations of a critic update and of a generator update: a pair.

    The derivative by a layer's input needs the same number of operations as the layer, and so does
    the derivative by its kernel.
    """
    generator, critic = layer_flops(gan.generator), layer_flops(gan.critic)
    forward = sum(critic)
    # Fakes; scores of real and fake images, and all derivatives except those by the images.
    critic_step = sum(generator) + 2 * (3 * forward - critic[0])
    if gan.config.mode == "gp":  # scores of interpolates, slopes, and the derivatives of slopes
        critic_step += 4 * forward - critic[-1]
        if gan.config.critic_norm == "layer":  # The slope at a norm depends on its input, too.
            critic_step += 2 * (forward - critic[-1]) - critic[0]
    # Fakes and their scores, and all derivatives except those by the latents.
    generator_step = 3 * sum(generator) - generator[0] + 2 * forward
    size, times = gan.config.batch_size, gan.config.generator_batch
    return [size * critic_step, times * size * generator_step]
