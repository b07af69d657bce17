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


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_the_gradient_of_the_penalty_agrees_with_finite_differences(norm):
    """In float64, through a critic of this project's own layers."""
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float64")
    try:
        image = keras.Input((6, 6, 2), dtype="float64")
        y = keras.Input((3,), dtype="float64")
        normal = keras.initializers.RandomNormal(stddev=0.3)
        x = ops.lrelu(ops.conv2d(ops.concat_labels(image, y), 4, "conv1", init=normal))
        x = ops.lrelu(ops.norm(ops.conv2d(x, 5, "conv2", init=normal), norm, "norm2"))
        x = ops.concat_labels(keras.layers.Flatten()(x), y)
        critic = keras.Model([image, y], ops.linear(x, 1, "linear1", init=normal))
    finally:
        keras.config.set_dtype_policy("float32")
    images = tf.random.stateless_normal([3, 6, 6, 2], [5, 6], dtype=tf.float64)
    labels = tf.one_hot([0, 2, 1], 3, dtype=tf.float64)

    def penalty():
        return ops.gradient_penalty(ops.slopes(lambda x: critic([x, labels]), images), 10.0)

    kernels = [v for v in critic.trainable_variables if "kernel" in v.path or "gamma" in v.path]
    with tf.GradientTape() as tape:
        value = penalty()
    gradients = tape.gradient(value, [v.value for v in kernels])
    step = 1e-6
    for variable, gradient in zip(kernels, gradients, strict=True):
        start = variable.numpy()
        direction = np.random.default_rng(0).standard_normal(start.shape)
        variable.assign(start + step * direction)
        above = penalty()
        variable.assign(start - step * direction)
        below = penalty()
        variable.assign(start)
        expected = (above - below) / (2 * step)
        assert_allclose(np.sum(gradient * direction), expected, rtol=1e-6, err_msg=variable.path)


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


def test_labels_become_constant_feature_maps_after_the_channels():
    images, labels = tf.random.stateless_normal([2, 3, 4, 2], [1, 1]), tf.one_hot([1, 0], 2)
    joined = ops.ConcatLabels()(images, labels)
    assert_array_equal(joined[..., :2], images)
    assert_array_equal(joined[0, ..., 2:], np.tile([0, 1], (3, 4, 1)))
    assert_array_equal(joined[1, ..., 2:], np.tile([1, 0], (3, 4, 1)))
    assert_array_equal(ops.ConcatLabels()(images[:, 0, 0], labels)[:, 2:], labels)


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


def test_layer_norm_normalises_each_image_and_scales_each_channel():
    x = keras.Input((4, 4, 3))
    network = keras.Model(x, ops.layer_norm(x, "norm"))
    assert [v.shape for v in network.weights] == [(3,), (3,)]
    images = 5 + 3 * tf.random.stateless_normal([2, 4, 4, 3], [2, 9])
    outputs = network(images)
    assert_allclose(np.mean(outputs, axis=(1, 2, 3)), [0, 0], atol=1e-5)
    assert_allclose(np.std(outputs, axis=(1, 2, 3)), [1, 1], atol=1e-4)
    assert_allclose(network(images[:1]), outputs[:1], atol=1e-6)
