"""Matrix products, biases, labels and leaky ReLUs, with their derivatives of every order."""

import math

import tensorflow as tf

from kernels import processor

PAGE = 4096  # bytes; rows of a multiple of this length compete for the same few cache lines


def linear(x, kernel, bias, labels=None):
    """Multiply [B, n], concatenated with labels [B, K], by [n + K, m] and add a bias [m]."""
    x = x if labels is None else tf.concat([x, labels], 1)
    return tf.nn.bias_add(product(x, kernel), bias)


# The three products y = x w, x = y w^T and w = x^T y are the derivatives of each other.


def product(x, w):
    """Multiply [B, n] by [n, m]."""
    return tf.matmul(x, w) if processor.PLAIN else fast_product(x, w)


@tf.custom_gradient
def fast_product(x, w):
    """Multiply [B, n] by [n, m]."""
    slow = not processor.AVX512 and w.shape[1] * w.dtype.size % PAGE == 0
    y = padded_product(x, w) if slow else tf.matmul(x, w)
    return y, lambda y: (input_gradient(y, w), weight_gradient(x, y))


def padded_product(x, w):
    """Multiply [B, n] by [n, m] with 16 more columns, so that no row is a multiple of a PAGE."""
    wider = tf.concat([w, tf.zeros([w.shape[0], 16], w.dtype)], 1)
    return tf.matmul(x, wider)[:, : w.shape[1]]


@tf.custom_gradient
def input_gradient(y, w):
    """Multiply [B, m] by the transpose of [n, m], without a transposition of the larger matrix."""
    x = tf.transpose(tf.matmul(w, tf.transpose(y)))
    return x, lambda x: (fast_product(x, w), weight_gradient(x, y))


@tf.custom_gradient
def weight_gradient(x, y):
    """Multiply the transpose of [B, n] by [B, m]."""
    return tf.matmul(x, y, transpose_a=True), lambda w: (input_gradient(y, w), fast_product(x, w))


# TensorFlow lets oneDNN compute the gradients of bias and kernel together. With few channels that
# takes up to four times as long as two separate computations.


def add_bias(x, bias):
    """Add a bias [f] to feature maps [B, h, w, f]."""
    return tf.nn.bias_add(x, bias) if processor.PLAIN else fast_add_bias(x, bias)


@tf.custom_gradient
def fast_add_bias(x, bias):
    """Add a bias [f] to feature maps [B, h, w, f]."""
    return tf.nn.bias_add(x, bias), lambda y: (y, sum_pixels(y))


@tf.custom_gradient
def sum_pixels(y):
    """Sum feature maps [B, h, w, f] over all axes but the channels: [f]."""
    rows = tf.reshape(y, [-1, y.shape[3]])
    total = tf.linalg.matvec(rows, tf.ones_like(rows[:, 0]), transpose_a=True)
    return total, lambda bias: fast_add_bias(tf.zeros_like(y), bias)


def row_means(x):
    """Average [B, n] over n: [B, 1].

    On a CPU by a product, because oneDNN warns about a sum's second derivative on stderr. On a GPU
    TF32 would round the factors of a product to three digits.
    """
    if processor.PLAIN:
        return tf.reduce_mean(x, 1, keepdims=True)
    return tf.matmul(x, tf.fill([x.shape[1], 1], tf.constant(1 / x.shape[1], x.dtype)))


# Labels enter a convolution as constant feature maps: the map of the image's label is 1, the others
# are 0. Their convolution depends only on the label. It is computed once per label and batch, so
# labels cost one matrix product instead of K more channels.


def label_table(taps, kernel):
    """Convolve the constant maps of each label: [hwf, K].

    `taps` [hw, k * k] counts how often each tap of the kernel [k, k, f, K] applies to each pixel.
    """
    labels = kernel.shape[3]
    rows = tf.matmul(tf.constant(taps, kernel.dtype), tf.reshape(kernel, [taps.shape[1], -1]))
    return tf.reshape(rows, [-1, labels])


def add_labels(x, labels, table, bias):
    """Add to feature maps [B, h, w, f] each image's column of a table [hwf, K], and a bias [f].

    One matrix product computes both: the bias is the column of a label that every image has.
    """
    pixels = math.prod(x.shape[1:3])
    # Not by tf.tile, because oneDNN prints warnings about its derivative.
    every = tf.matmul(tf.ones([pixels, 1], bias.dtype), bias[None])
    table = tf.concat([table, tf.reshape(every, [-1, 1])], 1)
    labels = tf.concat([labels, tf.ones_like(labels[:, :1])], 1)
    return x + tf.reshape(tf.matmul(labels, table, transpose_b=True), tf.shape(x))


def leaky_relu(x, slope):
    """Compute max(x, slope x); with slope 0 it is ReLU.

    Its second derivative is 0. TensorFlow computes it as a tensor of zeros, which takes time.
    """
    if processor.PLAIN:
        return tf.nn.leaky_relu(x, slope)

    @tf.custom_gradient
    def forward(x):
        return tf.nn.leaky_relu(x, slope), lambda y: derivative(y, x)

    @tf.custom_gradient
    def derivative(y, x):  # y where x is positive, elsewhere slope y
        scaled = tf.raw_ops.LeakyReluGrad(gradients=y, features=x, alpha=slope)
        return scaled, lambda z: (derivative(z, x), None)

    return forward(x)
