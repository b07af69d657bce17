"""The papers' mathematics against known answers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose, assert_array_equal

import ops


def linear_critic(w):
    return lambda x: tf.reduce_sum(x * w, axis=[1, 2, 3])


def test_the_slope_of_a_linear_critic_is_the_norm_of_its_weights_over_height_width_and_channels():
    w = tf.random.stateless_normal([4, 5, 3], [1, 2])
    images = tf.random.stateless_normal([6, 4, 5, 3], [3, 4])
    slopes = ops.slopes(linear_critic(w), images)
    assert slopes.shape == [6]
    assert_allclose(slopes, np.full(6, np.linalg.norm(w)), rtol=1e-6)
    penalty = ops.gradient_penalty(slopes, 10.0)
    assert_allclose(penalty, 10 * (np.linalg.norm(w) - 1) ** 2, rtol=1e-6)


def test_every_image_has_a_slope_of_its_own():
    images = tf.constant(np.arange(1.0, 4.0, dtype=np.float32).reshape(3, 1, 1, 1))
    slopes = ops.slopes(lambda x: tf.reduce_sum(x**2, axis=[1, 2, 3]) / 2, images)
    assert_allclose(slopes, [1, 2, 3], rtol=1e-6)
    assert_allclose(ops.gradient_penalty(slopes, 3.0), 3 * (0 + 1 + 4) / 3, rtol=1e-6)


def test_slope_4_gives_penalty_9():
    assert_allclose(ops.gradient_penalty(tf.constant([4.0]), 1.0), 9)


def test_a_constant_critic_has_a_finite_penalty_and_finite_gradients():
    w = tf.Variable(tf.zeros([3, 3, 1]))
    with tf.GradientTape() as tape:
        penalty = ops.gradient_penalty(ops.slopes(linear_critic(w), tf.ones([2, 3, 3, 1])), 10.0)
    assert_allclose(penalty, 10, rtol=1e-5)
    assert np.all(np.isfinite(tape.gradient(penalty, w)))


def test_interpolates_lie_between_real_and_fake_with_one_alpha_per_image():
    real, fake = tf.zeros([3, 2, 2, 1]), tf.ones([3, 2, 2, 1])
    points = ops.interpolate(real, fake, tf.constant([0.0, 0.25, 1.0]))
    assert_array_equal(points, np.array([0, 0.25, 1]).reshape(3, 1, 1, 1) * np.ones((3, 2, 2, 1)))


def test_losses_have_the_papers_signs():
    real, fake = tf.constant([[3.0], [5.0]]), tf.constant([[1.0], [2.0]])
    assert_allclose(ops.w_distance(real, fake), 2.5)
    assert_allclose(ops.critic_loss(real, fake), -2.5)
    assert_allclose(ops.generator_loss(fake), -1.5)


def test_clipping_keeps_what_is_inside_the_bounds():
    variable = keras.Variable([-1.0, -0.005, 0.0, 0.02])
    ops.clip_weights([variable], -0.01, 0.01)
    assert_allclose(variable, [-0.01, -0.005, 0, 0.01])


def test_pixels_survive_the_way_to_the_network_and_back():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    there = ops.to_network(pixels)
    assert_allclose([np.min(there), np.max(there)], [-1, 1])
    assert_array_equal(ops.to_pixels(there), pixels)
    assert_array_equal(ops.to_pixels(tf.constant([-3.0, 0.0, 3.0])), [0, 128, 255])


def test_leaky_relu_has_slope_0_2_below_zero_in_value_and_gradient():
    x = tf.constant([-2.0, 3.0])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = ops.lrelu(x)
    assert_allclose(y, [-0.4, 3])
    assert_allclose(tape.gradient(y, x), [0.2, 1])


# Labels, against what they mean: constant feature maps after the others.


def concat(x, labels):
    """[B, ..., c] and [B, K] to [B, ..., c + K]."""
    labels = tf.cast(tf.reshape(labels, [len(labels), *[1] * (len(x.shape) - 2), -1]), x.dtype)
    return tf.concat([x, tf.broadcast_to(labels, [*x.shape[:-1], labels.shape[-1]])], -1)


def make_layer(kind, size, k, stride, labels):
    """Return a layer as a network of [x, y], its plain form and the shape of its inputs."""
    small = tuple(-(-length // stride) for length in size)
    shape = {"conv2d": (*size, 4), "deconv2d": (*small, 4), "linear": (7,)}[kind]
    x, y = keras.Input(shape), keras.Input((labels,))
    if kind == "conv2d":
        outputs = ops.conv2d(x, 6, "layer", k, stride, labels=y)
    elif kind == "deconv2d":
        outputs = ops.deconv2d(x, 6, size, "layer", k, stride, labels=y)
    else:
        outputs = ops.linear(x, 6, "layer", labels=y)

    def plain(x, y, kernel, bias):
        x = concat(x, y)
        if kind == "conv2d":
            return tf.nn.conv2d(x, kernel, stride, "SAME") + bias
        if kind == "deconv2d":
            return tf.nn.conv2d_transpose(x, kernel, [len(x), *size, 6], stride, "SAME") + bias
        return x @ kernel + bias

    return keras.Model([x, y], outputs), plain, shape


def derivatives(function, tensors):
    """Return the outputs, their derivatives, and those of the derivatives' square."""
    with tf.GradientTape() as outer:
        outer.watch(tensors)
        with tf.GradientTape() as inner:
            inner.watch(tensors)
            outputs = function(*tensors)
            total = tf.reduce_sum(tf.sin(outputs))
        first = inner.gradient(total, tensors)
        square = sum(tf.reduce_sum(derivative**2) for derivative in first)
    return [outputs, *first, *outer.gradient(square, tensors)]


LAYERS = [("linear", (1, 1), 1, 1)] + [
    (kind, size, k, stride)
    for kind in ("conv2d", "deconv2d")
    for size in ((7, 9), (8, 6), (5, 28))
    for k, stride in ((5, 2), (3, 2), (3, 1))
]


@pytest.mark.parametrize("kind, size, k, stride", LAYERS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_labels_are_constant_feature_maps_to_second_order(kind, size, k, stride, precision):
    """In bfloat16 near what float32 gives from the same rounded numbers, by a share of all.

    A sum of n products of rounded numbers is off by about sqrt(n) roundings of 2^-8, and is rounded
    itself; a derivative of second order by those of the three results that it is made of.
    """
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32")
    try:
        network, plain, shape = make_layer(kind, size, k, stride, 3)
    finally:
        keras.config.set_dtype_policy("float32")
    x = tf.random.stateless_normal([3, *shape], [1, 2])
    y = tf.one_hot([2, 0, 2], 3)
    assert [v.path for v in network.weights] == ["layer/kernel", "layer/bias"]
    weights = [tf.random.stateless_normal(v.shape, [3, 4]) / k for v in network.weights]
    tensors = [tf.cast(tf.cast(tensor, precision), tf.float32) for tensor in (x, *weights)]

    def fast(x, *weights):
        return tf.cast(network.stateless_call(weights, [], [x, y])[0], tf.float32)

    found = derivatives(fast, tensors)
    expected = derivatives(lambda x, *weights: plain(x, y, *weights), tensors)
    for ours, theirs in zip(found, expected, strict=True):
        if precision == "float32":
            assert_allclose(ours, theirs, atol=1e-5 * np.max(np.abs(theirs)))
        else:
            products = max(np.prod(size) * len(x), np.prod(weights[0].shape[:-1]))
            most = 3 * (1 + np.sqrt(products)) * 2**-8 * np.linalg.norm(theirs)
            assert np.linalg.norm(ours - theirs) < most


def test_labels_need_not_be_one_hot():
    network, plain, shape = make_layer("conv2d", (7, 9), 5, 2, 3)
    x, y = tf.random.stateless_normal([2, *shape], [1, 2]), tf.constant([[0.0, 0, 0], [2, -1, 3]])
    network.layers[-1].bias.assign(np.arange(6.0))
    assert_allclose(network([x, y]), plain(x, y, *network.weights), atol=1e-5)


@pytest.mark.parametrize("size, stride", [(5, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("output_size", [(28, 28), (13, 8), (7, 15)])
def test_a_deconvolution_is_the_transpose_of_the_same_convolution(size, stride, output_size):
    small = tuple(-(-length // stride) for length in output_size)
    x = keras.Input((*small, 2))
    network = keras.Model(x, ops.deconv2d(x, 3, output_size, "deconv", size, stride))
    inputs = tf.random.stateless_normal([2, *small, 2], [7, 7])
    outputs = network(inputs)
    assert outputs.shape == [2, *output_size, 3]
    image = tf.zeros([2, *output_size, 3])
    with tf.GradientTape() as tape:
        tape.watch(image)
        convolved = tf.nn.conv2d(image, network.weights[0], stride, "SAME")
    transposed = tape.gradient(convolved, image, output_gradients=inputs)
    assert_allclose(outputs, transposed, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 4)])
def test_a_convolution_of_means_is_a_convolution_and_then_means(k, size):
    """Over the image with a row or column of zeros where its size is odd."""
    x = keras.Input((*size, 3))
    network = keras.Model(x, ops.conv_mean_pool(x, 4, "conv", k, "glorot_uniform"))
    images = tf.random.stateless_normal([2, *size, 3], [7, 7])

    def plain(images, kernel, bias):
        images = tf.pad(images, [[0, 0], *([0, length % 2] for length in size), [0, 0]])
        return tf.nn.avg_pool2d(tf.nn.conv2d(images, kernel, 1, "SAME") + bias, 2, 2, "VALID")

    assert_layer_is(network, plain, images)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 4)])
def test_a_convolution_of_repeated_pixels_repeats_and_then_convolves(k, size):
    """With the kernel turned; an odd size lacks the last row or column of what comes out."""
    small = tuple(-(-length // 2) for length in size)
    x = keras.Input((*small, 3))
    network = keras.Model(x, ops.upsample_conv(x, 4, size, "conv", k, "glorot_uniform"))
    maps = tf.random.stateless_normal([2, *small, 3], [7, 7])

    def plain(maps, kernel, bias):
        images = tf.repeat(tf.repeat(maps, 2, 1), 2, 2)
        turned = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
        return (tf.nn.conv2d(images, turned, 1, "SAME") + bias)[:, : size[0], : size[1]]

    assert_layer_is(network, plain, maps)


def assert_layer_is(network, plain, x):
    """Compare a layer with its plain form of inputs, kernel and bias, to second order."""
    weights = [tf.random.stateless_normal(v.shape, [3, 4]) for v in network.weights]
    fast = derivatives(lambda x, *w: network.stateless_call(w, [], x)[0], [x, *weights])
    slow = derivatives(plain, [x, *weights])
    for ours, theirs in zip(fast, slow, strict=True):
        assert_allclose(ours, theirs, atol=1e-5 * np.max(np.abs(theirs)))


def test_layer_norm_normalises_each_image_and_scales_each_channel():
    x = keras.Input((4, 4, 3))
    network = keras.Model(x, ops.norm(x, "layer", "norm"))
    assert [v.shape for v in network.weights] == [(3,), (3,)]
    images = 5 + 3 * tf.random.stateless_normal([2, 4, 4, 3], [2, 9])
    outputs = network(images)
    assert_allclose(np.mean(outputs, axis=(1, 2, 3)), [0, 0], atol=1e-5)
    assert_allclose(np.std(outputs, axis=(1, 2, 3)), [1, 1], atol=1e-4)
    assert_allclose(network(images[:1]), outputs[:1], atol=1e-6)


def test_layer_norm_in_bfloat16_has_statistics_of_float32():
    """Far from 0, where bfloat16 has no digits left for the variance; the result is rounded."""
    x = keras.Input((4, 4, 3))
    network = keras.Model(
        x,
        keras.layers.Activation("linear", dtype="float32")(
            ops.LayerNorm(dtype="mixed_bfloat16")(x)
        ),
    )
    images = tf.cast(100 + 3 * tf.random.stateless_normal([2, 4, 4, 3], [2, 9]), tf.bfloat16)
    outputs = network(images)
    wide = tf.cast(images, tf.float32)
    centred = wide - tf.reduce_mean(wide, [1, 2, 3], keepdims=True)
    expected = centred / tf.math.reduce_std(wide, [1, 2, 3], keepdims=True)
    assert_allclose(outputs, expected, rtol=2**-8, atol=1e-3)
