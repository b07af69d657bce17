"""The generators and critics of each --arch, as Keras functional models made of ops.

Every builder takes the image shape (height, width, channels) and the number of classes, 0 for
unconditional networks. Models are called with x or, when conditional, with [x, y], y being one-hot
labels [B, classes].
"""

import math

import keras

import ops
from config import pair


def build_generator(arch, shape, z_dim, classes):
    """Build the network that maps latents [B, z_dim] to images [B, *shape] in [-1, 1]."""
    z = keras.Input((z_dim,), name="z")
    y = keras.Input((classes,), name="y") if classes else None
    build, _ = PAIRS[pair(arch, shape)]
    images = build(z, y, shape)
    return keras.Model([z, y] if classes else z, images, name="generator")


def build_critic(arch, shape, classes, norm):
    """Build the network from images [B, *shape] to scores [B, 1]; `norm` as --critic_norm."""
    x = keras.Input(shape, name="image")
    y = keras.Input((classes,), name="y") if classes else None
    _, build = PAIRS[pair(arch, shape)]
    scores = build(x, y, shape, norm)
    return keras.Model([x, y] if classes else x, scores, name="critic")


def _halvings(shape, times):
    """List the sizes (h, w) of repeated halving, rounded up, from the smallest to the image's."""
    return [tuple(math.ceil(size / 2**k) for size in shape[:2]) for k in range(times, -1, -1)]


def _tanh(x):
    """End a generator; the pixels stay float32 whatever the precision of the layers."""
    return keras.layers.Activation("tanh", dtype="float32", name="tanh")(x)


def _relu(x):
    return keras.layers.ReLU()(x)


# The small pair; shapes for MNIST: 28x28x1, K = 10 labels, which every layer takes in.


def _small_generator(z, y, shape):
    quarter, half, full = _halvings(shape, 2)
    size = (*quarter, 128)
    x = _relu(ops.batch_norm(ops.linear(z, 1024, "linear1", labels=y), "norm1"))  # 1024
    x = ops.linear(x, math.prod(size), "linear2", labels=y)  # 6272
    x = keras.layers.Reshape(size)(_relu(ops.batch_norm(x, "norm2")))  # 7x7x128
    x = ops.deconv2d(x, 128, half, "deconv1", labels=y)  # 14x14x128
    x = _relu(ops.batch_norm(x, "norm3"))
    return _tanh(ops.deconv2d(x, shape[2], full, "deconv2", labels=y))  # 28x28x1


def _small_critic(x, y, shape, norm):
    labels = y.shape[1] if y is not None else 0
    x = ops.lrelu(ops.conv2d(x, shape[2] + labels, "conv1", labels=y))  # 14x14x(1+K)
    x = ops.conv2d(x, 64 + labels, "conv2", labels=y)  # 7x7x(64+K)
    x = keras.layers.Flatten()(ops.lrelu(ops.norm(x, norm, "norm2")))  # 3136+49K
    x = ops.linear(x, 1024, "linear1", labels=y)  # 1024
    x = ops.lrelu(ops.norm(x, norm, "norm3"))
    return _scores(x, "linear2", labels=y)  # 1


# The general pair; shapes for faces: 48x48x3, K = 0.


def _general_generator(z, y, shape):
    smallest, *sizes = _halvings(shape, 4)
    size = (*smallest, 512)
    x = ops.linear(z, math.prod(size), "linear1", labels=y)  # 4608
    x = _relu(ops.batch_norm(keras.layers.Reshape(size)(x), "norm1"))  # 3x3x512
    for i, (filters, output_size) in enumerate(zip((256, 128, 64), sizes, strict=False), 1):
        x = ops.deconv2d(x, filters, output_size, f"deconv{i}", labels=y)
        x = _relu(ops.batch_norm(x, f"norm{i + 1}"))  # 6x6x256, 12x12x128, 24x24x64
    return _tanh(ops.deconv2d(x, shape[2], sizes[-1], "deconv4", labels=y))  # 48x48x3


def _general_critic(x, y, shape, norm):
    x = ops.lrelu(ops.conv2d(x, 64, "conv1", labels=y))  # 24x24x64
    for i, filters in enumerate((128, 256, 512), 2):
        x = ops.conv2d(x, filters, f"conv{i}", labels=y)  # 12x12x128, 6x6x256, 3x3x512
        x = ops.lrelu(ops.norm(x, norm, f"norm{i}"))
    return _scores(keras.layers.Flatten()(x), "linear1", labels=y)  # 1


# The symmetric pair; shapes for MNIST: 28x28x1, K = 0. He initialisation: Keras counts a
# deconvolution's fan-in on its output channels.


def _symmetric_stages(shape):
    """Count the layers of stride 2, so that the smallest maps are about 14x14."""
    return 1 + max(0, math.floor(math.log2(max(shape[:2]) / 28)))


def _symmetric_generator(z, y, shape):
    smallest, *sizes = _halvings(shape, _symmetric_stages(shape))
    size = (*smallest, 8)
    x = ops.linear(z, math.prod(size), "linear1", init="he_normal", labels=y)  # 1568
    x = ops.lrelu(x)
    x = keras.layers.Reshape(size)(x)  # 14x14x8
    x = ops.lrelu(ops.deconv2d(x, 32, smallest, "deconv1", 3, 1, "he_normal"))  # 14x14x32
    for i, output_size in enumerate(sizes, 2):
        x = ops.lrelu(ops.deconv2d(x, 64, output_size, f"deconv{i}", 3, 2, "he_normal"))  # 28x28x64
    return _tanh(
        ops.deconv2d(x, shape[2], shape[:2], f"deconv{len(sizes) + 2}", 3, 1, "he_normal")
    )  # 28x28x1


def _symmetric_critic(x, y, shape, norm):
    stages = _symmetric_stages(shape)
    x = ops.lrelu(ops.conv2d(x, 64, "conv1", 3, 1, "he_normal", labels=y))  # 28x28x64
    for i, filters in enumerate([64] * (stages - 1) + [32], 2):
        x = ops.conv2d(x, filters, f"conv{i}", 3, 2, "he_normal")  # 14x14x32
        x = ops.lrelu(ops.norm(x, norm, f"norm{i}"))
    x = ops.conv2d(x, 8, f"conv{stages + 2}", 3, 1, "he_normal")  # 14x14x8
    x = ops.lrelu(ops.norm(x, norm, f"norm{stages + 2}"))
    return _scores(keras.layers.Flatten()(x), "linear1", init="he_normal")  # 1


def _scores(x, name, init=None, labels=None):
    """End a critic: one number per image, without a sigmoid, as precise as the weights."""
    return ops.linear(x, 1, name, init, keras.config.dtype_policy().variable_dtype, labels)


PAIRS = {
    "small": (_small_generator, _small_critic),
    "general": (_general_generator, _general_critic),
    "symmetric": (_symmetric_generator, _symmetric_critic),
}
