"""The generator and the critic of each pair: Keras functional models built from the layers in ops.

Every builder takes the image shape (height, width, channels) and the number of classes, 0 for
unconditional networks. A model is called with x or, when conditional, with [x, y], where y are
one-hot labels [B, classes]. y enters in one of two ways. With condition `concat` the builders get
it as `labels`, and layers use it as constant feature maps. With `projection` they get it as
`classes`: the generator's batch norms have a scale and an offset per class, and the critic adds the
product of the pooled features and a vector per class.
"""

import math

import keras
import tensorflow as tf

import ops
from pairs import PAIRS, find_pair


def build_generator(arch, shape, z_dim, classes, condition="concat"):
    """Build the network that maps latents [B, z_dim] to images [B, *shape] in [-1, 1]."""
    z = keras.Input((z_dim,), name="z")
    build, _ = BUILDERS[find_pair(arch, shape).name]
    return _model("generator", z, classes, condition, lambda *y: build(z, *y, shape))


def build_critic(arch, shape, classes, norm, condition="concat"):
    """Build the network that maps images [B, *shape] to scores [B, 1]; `norm` is --critic_norm."""
    x = keras.Input(shape, name="image")
    _, build = BUILDERS[find_pair(arch, shape).name]
    return _model("critic", x, classes, condition, lambda *y: build(x, *y, shape, norm))


def _model(name, x, classes, condition, build):
    """Make a Keras model. `build` takes (labels, classes); at least one of them is None."""
    if not classes:
        return keras.Model(x, build(None, None), name=name)
    y = keras.Input((classes,), name="y")
    output = build(y, None) if condition == "concat" else build(None, y)
    model = keras.Model([x, y], output, name=name)
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    if not any(tensor is y for layer in layers for tensor in keras.tree.flatten(layer.input)):
        raise ValueError(f"the {name} is conditional, but none of its layers takes the labels")
    return model


def build_optimizer(name, learning_rate, beta1, beta2):
    """Build an optimizer: adam, rmsprop or sgd.

    The epsilons are those of TensorFlow 1, as in the two earlier programs. Keras' defaults are so
    large that they would damp the small gradients of a clipped critic.
    """
    if name == "adam":
        return keras.optimizers.Adam(learning_rate, beta1, beta2, epsilon=1e-8)
    if name == "rmsprop":
        return keras.optimizers.RMSprop(learning_rate, rho=0.9, epsilon=1e-10)
    return keras.optimizers.SGD(learning_rate)


def apply(network, x, labels, state=None):
    """Call a network in training mode; return its outputs and its new state. Assigns nothing.

    `labels` are int32 [B], or None in unconditional runs. The state is the values of the variables
    that no optimizer trains, such as batch norm's statistics. `state` is the state to start from,
    by default the network's own.
    """
    state = network.non_trainable_variables if state is None else state
    inputs = as_inputs(network, x, labels)
    return network.stateless_call(network.trainable_variables, state, inputs, training=True)


def as_inputs(network, x, labels):
    """Return the inputs of a network for x and labels int32 [B] (or None)."""
    return x if labels is None else [x, tf.one_hot(labels, network.inputs[1].shape[1])]


def _halvings(shape, times):
    """Halve an image's (h, w) `times` times, rounding up; list all sizes, the smallest first."""
    return [tuple(math.ceil(size / 2**k) for size in shape[:2]) for k in range(times, -1, -1)]


def _tanh(x):
    """Apply the generator's last activation; pixels are float32 in every --precision."""
    return keras.layers.Activation("tanh", dtype="float32", name="tanh")(x)


def _relu(x):
    return keras.layers.ReLU()(x)


# The small pair. The shapes are for MNIST: 28x28x1, K = 10 labels, which every layer gets.


def _small_generator(z, labels, classes, shape):
    quarter, half, full = _halvings(shape, 2)
    size = (*quarter, 128)
    x = ops.linear(z, 1024, "linear1", labels=labels)  # 1024
    x = _relu(ops.batch_norm(x, "norm1", classes))
    x = ops.linear(x, math.prod(size), "linear2", labels=labels)  # 6272
    x = keras.layers.Reshape(size)(_relu(ops.batch_norm(x, "norm2", classes)))  # 7x7x128
    x = ops.deconv2d(x, 128, half, "deconv1", labels=labels)  # 14x14x128
    x = _relu(ops.batch_norm(x, "norm3", classes))
    return _tanh(ops.deconv2d(x, shape[2], full, "deconv2", labels=labels))  # 28x28x1


def _small_critic(x, labels, classes, shape, norm):
    more = labels.shape[1] if labels is not None else 0
    x = ops.lrelu(ops.conv2d(x, shape[2] + more, "conv1", labels=labels))  # 14x14x(1+K)
    x = ops.conv2d(x, 64 + more, "conv2", labels=labels)  # 7x7x(64+K)
    x = keras.layers.Flatten()(ops.lrelu(ops.norm(x, norm, "norm2")))  # 3136+49K
    x = ops.linear(x, 1024, "linear1", labels=labels)  # 1024
    x = ops.lrelu(ops.norm(x, norm, "norm3"))
    return _project(_scores(x, "linear2", labels=labels), x, classes)  # 1


# The general pair. The shapes are for faces: 48x48x3, K = 0.


def _general_generator(z, labels, classes, shape):
    smallest, *sizes = _halvings(shape, 4)
    size = (*smallest, 512)
    x = ops.linear(z, math.prod(size), "linear1", labels=labels)  # 4608
    x = _relu(ops.batch_norm(keras.layers.Reshape(size)(x), "norm1", classes))  # 3x3x512
    for i, (filters, output_size) in enumerate(zip((256, 128, 64), sizes, strict=False), 1):
        x = ops.deconv2d(x, filters, output_size, f"deconv{i}", labels=labels)
        x = _relu(ops.batch_norm(x, f"norm{i + 1}", classes))  # 6x6x256, 12x12x128, 24x24x64
    return _tanh(ops.deconv2d(x, shape[2], sizes[-1], "deconv4", labels=labels))  # 48x48x3


def _general_critic(x, labels, classes, shape, norm):
    x = ops.lrelu(ops.conv2d(x, 64, "conv1", labels=labels))  # 24x24x64
    for i, filters in enumerate((128, 256, 512), 2):
        x = ops.conv2d(x, filters, f"conv{i}", labels=labels)  # 12x12x128, 6x6x256, 3x3x512
        x = ops.lrelu(ops.norm(x, norm, f"norm{i}"))
    scores = _scores(keras.layers.Flatten()(x), "linear1", labels=labels)  # 1
    return _project(scores, ops.mean_pixels(x), classes)


# The symmetric pair. The shapes are for MNIST: 28x28x1, K = 0. It has He initialisation; for a
# deconvolution Keras computes the fan-in from the output channels.


def _symmetric_stages(shape):
    """Count the layers of stride 2 that make the smallest feature maps about 14x14."""
    return 1 + max(0, math.floor(math.log2(max(shape[:2]) / 28)))


def _symmetric_generator(z, labels, _, shape):
    smallest, *sizes = _halvings(shape, _symmetric_stages(shape))
    size = (*smallest, 8)
    x = ops.linear(z, math.prod(size), "linear1", init="he_normal", labels=labels)  # 1568
    x = ops.lrelu(x)
    x = keras.layers.Reshape(size)(x)  # 14x14x8
    x = ops.lrelu(ops.deconv2d(x, 32, smallest, "deconv1", 3, 1, "he_normal"))  # 14x14x32
    for i, output_size in enumerate(sizes, 2):
        x = ops.lrelu(ops.deconv2d(x, 64, output_size, f"deconv{i}", 3, 2, "he_normal"))  # 28x28x64
    return _tanh(
        ops.deconv2d(x, shape[2], shape[:2], f"deconv{len(sizes) + 2}", 3, 1, "he_normal")
    )  # 28x28x1


def _symmetric_critic(x, labels, _, shape, norm):
    stages = _symmetric_stages(shape)
    x = ops.lrelu(ops.conv2d(x, 64, "conv1", 3, 1, "he_normal", labels=labels))  # 28x28x64
    for i, filters in enumerate([64] * (stages - 1) + [32], 2):
        x = ops.conv2d(x, filters, f"conv{i}", 3, 2, "he_normal")  # 14x14x32
        x = ops.lrelu(ops.norm(x, norm, f"norm{i}"))
    x = ops.conv2d(x, 8, f"conv{stages + 2}", 3, 1, "he_normal")  # 14x14x8
    x = ops.lrelu(ops.norm(x, norm, f"norm{stages + 2}"))
    return _scores(keras.layers.Flatten()(x), "linear1", init="he_normal")  # 1


# The residual pair of 1704.00028, appendix F, as in the authors' program. The shapes are for
# CIFAR-10: 32x32x3. 3x3 kernels have He initialisation; other kernels and the generator's last one
# have Glorot's. Both use the mean of fan-in and fan-out.

WIDTH = 128
GLOROT = "glorot_uniform"


def _he():
    return keras.initializers.VarianceScaling(2.0, "fan_avg", "uniform")


def _count_halvings(shape, most):
    """Count the halvings, at least one, after which no side is longer than `most`."""
    return max(1, math.ceil(math.log2(max(shape[:2]) / most)))


def _resnet_generator(z, _, classes, shape):
    smallest, *sizes = _halvings(shape, _count_halvings(shape, 7))
    size = (*smallest, WIDTH)
    x = keras.layers.Reshape(size)(ops.linear(z, math.prod(size), "linear1", GLOROT))  # 4x4x128
    for i, output_size in enumerate(sizes, 1):  # 8x8x128, 16x16x128, 32x32x128
        short = ops.upsample_conv(x, WIDTH, output_size, f"short{i}", 1, GLOROT)
        x = _relu(ops.batch_norm(x, f"norm{i}a", classes))
        x = ops.upsample_conv(x, WIDTH, output_size, f"conv{i}a", 3, _he())
        x = _relu(ops.batch_norm(x, f"norm{i}b", classes))
        x = keras.layers.Add()([ops.conv2d(x, WIDTH, f"conv{i}b", 3, 1, _he()), short])
    x = _relu(ops.batch_norm(x, f"norm{len(sizes) + 1}"))  # not per class, as there
    return _tanh(ops.conv2d(x, shape[2], f"conv{len(sizes) + 1}", 3, 1, GLOROT))  # 32x32x3


def _resnet_critic(x, _, classes, shape, norm):
    short = ops.conv_mean_pool(x, WIDTH, "short1", 1, GLOROT)
    x = ops.relu(ops.conv2d(x, WIDTH, "conv1a", 3, 1, _he()))
    x = keras.layers.Add()([ops.conv_mean_pool(x, WIDTH, "conv1b", 3, _he()), short])  # 16x16x128
    down = _count_halvings(shape, 8)
    for i in range(2, down + 3):  # 8x8x128 three times
        short = ops.conv_mean_pool(x, WIDTH, f"short{i}", 1, GLOROT) if i <= down else x
        x = ops.relu(ops.norm(x, norm, f"norm{i}a"))
        x = ops.relu(ops.norm(ops.conv2d(x, WIDTH, f"conv{i}a", 3, 1, _he()), norm, f"norm{i}b"))
        end = WIDTH, f"conv{i}b", 3
        x = ops.conv_mean_pool(x, *end, _he()) if i <= down else ops.conv2d(x, *end, 1, _he())
        x = keras.layers.Add()([x, short])
    x = ops.mean_pixels(ops.relu(ops.norm(x, norm, f"norm{down + 3}")))  # 128
    return _project(_scores(x, "linear1", GLOROT), x, classes)  # 1


# The pair for points in a plane: the WGAN-GP authors' layers, but narrower.

POINTS_WIDTH = 128


def _points_generator(z, labels, classes, shape):
    x = z
    for i in range(1, 4):
        x = _relu(ops.linear(x, POINTS_WIDTH, f"linear{i}", "he_normal"))  # 128, three times
    return ops.linear(x, shape[0], "linear4", "lecun_normal", "float32")  # 2


def _points_critic(x, labels, classes, shape, norm):
    for i in range(1, 4):
        x = ops.linear(x, POINTS_WIDTH, f"linear{i}", "he_normal")  # 128, three times
        x = ops.relu(ops.norm(x, norm, f"norm{i}"))
    return _scores(x, "linear4", "lecun_normal")  # 1


def _scores(x, name, init=None, labels=None):
    """Apply the critic's last layer: a score per image, no sigmoid, in the weights' precision."""
    return ops.linear(x, 1, name, init, keras.config.dtype_policy().variable_dtype, labels)


def _project(scores, x, classes):
    """Add `ops.projection` of features [B, c] and classes [B, K] (or None) to scores [B, 1]."""
    if classes is None:
        return scores
    dtype = keras.config.dtype_policy().variable_dtype
    return keras.layers.Add(dtype=dtype)([scores, ops.projection(x, classes, "projection", dtype)])


BUILDERS = {
    "small": (_small_generator, _small_critic),
    "general": (_general_generator, _general_critic),
    "symmetric": (_symmetric_generator, _symmetric_critic),
    "resnet": (_resnet_generator, _resnet_critic),
    "points": (_points_generator, _points_critic),
}
if BUILDERS.keys() != {pair.name for pair in PAIRS}:
    raise ImportError("networks.BUILDERS and pairs.PAIRS must have the same names")
