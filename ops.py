"""Layers with this field's initialisation, and the papers' mathematics: losses, penalty, clipping.

No files, no randomness, nothing printed. WGAN is arXiv 1701.07875, WGAN-GP is arXiv 1704.00028.
"""

import math

import keras
import tensorflow as tf

from system import kernels

# Inside the slope's square root: without it the gradient at slope 0 is NaN.
SLOPE_EPSILON = 1e-12
NORM_EPSILON = 1e-5


# Layers. Each function applies one to a Keras tensor; names are given so that variables can be told
# apart.


class Conv2D(keras.layers.Layer):
    """Convolve with SAME padding, as Keras' layer of that name does."""

    def __init__(self, filters, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.init = filters, size, stride, init

    def build(self, input_shape):
        """Make kernel [size, size, c, filters] and bias [filters]."""
        _, height, width, channels = input_shape
        shape = (self.size, self.size, channels, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.convolution = kernels.convolution((height, width), self.size, self.stride)

    def call(self, x):
        """Map [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), filters]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        return kernels.add_bias(self.convolution.maps(x, kernel), bias)


class Deconv2D(keras.layers.Layer):
    """Transpose a SAME convolution, as Keras' Conv2DTranspose does."""

    def __init__(self, filters, output_size, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.init = filters, size, init
        self.convolution = kernels.convolution(output_size, size, stride)

    def build(self, input_shape):
        """Make kernel [size, size, filters, c] and bias [filters]."""
        shape = (self.size, self.size, self.filters, input_shape[-1])
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x):
        """Map [B, ceil(h/stride), ceil(w/stride), c] to [B, h, w, filters]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        return kernels.add_bias(self.convolution.images(x, kernel), bias)


class Linear(keras.layers.Layer):
    """Multiply by a matrix and add a bias, as Keras' Dense does."""

    def __init__(self, units, init, **kwargs):
        super().__init__(**kwargs)
        self.units, self.init = units, init

    def build(self, input_shape):
        """Make kernel [n, units] and bias [units]."""
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x):
        """Map [B, n] to [B, units]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        return tf.nn.bias_add(kernels.product(x, kernel), bias)


def conv2d(x, filters, name, size=5, stride=2, init=None):
    """Convolve with SAME padding: [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), filters]."""
    init = init or keras.initializers.TruncatedNormal(stddev=0.02)
    return Conv2D(filters, size, stride, init, name=name)(x)


def deconv2d(x, filters, output_size, name, size=5, stride=2, init=None):
    """Apply the transpose of a SAME convolution that starts from output_size (h, w).

    [B, ceil(h/stride), ceil(w/stride), c] to [B, h, w, filters].
    """
    init = init or keras.initializers.RandomNormal(stddev=0.02)
    return Deconv2D(filters, output_size, size, stride, init, name=name)(x)


def linear(x, units, name, init=None, dtype=None):
    """Multiply by a matrix and add a bias: [B, n] to [B, units]."""
    init = init or keras.initializers.RandomNormal(stddev=0.02)
    return Linear(units, init, dtype=dtype, name=name)(x)


def batch_norm(x, name):
    """Normalise over the batch, with scale and offset per channel (the last axis).

    The batch is that of all replicas, which tell each other their statistics.
    """
    layer = keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=NORM_EPSILON,
        synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1,
        name=name,
    )
    return layer(x)


class LayerNorm(keras.layers.Layer):
    """Normalise over all of one image (or vector), with scale and offset per channel.

    Not Keras' GroupNormalization or LayerNormalization: these take their variance from
    tf.nn.moments, which stops the gradient at the mean. That leaves first derivatives right and
    makes second ones wrong: by 0.6 % of the penalty's gradient in this project's tests, by half in
    a small critic of vectors.
    """

    def build(self, input_shape):
        """Make one scale and one offset per channel."""
        self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="beta")

    def call(self, x):
        """Map [B, ..., c] to the same shape; the statistics are float32 or better."""
        wide = keras.ops.cast(x, self.variable_dtype)
        size = math.prod(x.shape[1:])
        shares = keras.ops.full((size, 1), 1 / size, self.variable_dtype)

        def mean(values):  # a product; oneDNN complains of a sum's second derivative on stderr
            means = keras.ops.matmul(keras.ops.reshape(values, (-1, size)), shares)
            return keras.ops.reshape(means, (-1, *(1 for _ in x.shape[1:])))

        centred = wide - mean(wide)
        variance = mean(keras.ops.square(centred))
        normalised = centred * keras.ops.rsqrt(variance + NORM_EPSILON)
        return keras.ops.cast(normalised * self.gamma + self.beta, self.compute_dtype)


def layer_norm(x, name):
    """Normalise over height, width and channels of one image."""
    return LayerNorm(name=name)(x)


def norm(x, kind, name):
    """Normalise as `--critic_norm` says: none, batch or layer."""
    if kind == "none":
        return x
    return {"batch": batch_norm, "layer": layer_norm}[kind](x, name)


class LeakyReLU(keras.layers.Layer):
    """max(x, 0.2 x)."""

    def call(self, x):
        """Map x to the same shape."""
        return kernels.leaky_relu(x)


class ConcatLabels(keras.layers.Layer):
    """Append one-hot labels y [B, K] to vectors [B, n], or to images as K constant feature maps."""

    def call(self, x, y):
        """Map [B, ..., c] and [B, K] to [B, ..., c + K]."""
        y = keras.ops.cast(y, x.dtype)
        if len(x.shape) == 4:
            maps = (tf.shape(x)[0], x.shape[1], x.shape[2], y.shape[1])
            y = tf.broadcast_to(y[:, None, None, :], maps)
        return keras.ops.concatenate([x, y], axis=-1)


def concat_labels(x, y):
    """Append labels where there are any (y is None otherwise)."""
    return x if y is None else ConcatLabels()(x, y)


def lrelu(x):
    """Apply the leaky ReLU of slope 0.2."""
    return LeakyReLU()(x)


# Pixels.


def to_network(images):
    """Map uint8 images 0 .. 255 to float32 -1 .. 1, the range that both networks work in."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images):
    """Map images -1 .. 1 to uint8 0 .. 255, clipped and rounded, never stretched."""
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)


# The papers' mathematics. Scores are the critic's outputs D(x), of any shape with one number per
# image.


def w_distance(real_scores, fake_scores):
    """Compute mean D(real) - mean D(fake), the Wasserstein distance up to a Lipschitz constant."""
    return tf.reduce_mean(real_scores) - tf.reduce_mean(fake_scores)


def critic_loss(real_scores, fake_scores):
    """Compute mean D(fake) - mean D(real), for the critic (1701.07875, Algorithm 1, line 5)."""
    return -w_distance(real_scores, fake_scores)


def generator_loss(fake_scores):
    """Compute -mean D(fake), which the generator minimises (1701.07875, Algorithm 1, line 10)."""
    return -tf.reduce_mean(fake_scores)


def interpolate(real, fake, alpha):
    """Return real + alpha (fake - real), alpha [B] per image (1704.00028, Algorithm 1, line 6)."""
    alpha = tf.reshape(alpha, [-1, *[1] * (len(real.shape) - 1)])
    return real + alpha * (fake - real)


def slopes(critic, images):
    """Return the norm of the critic's gradient at each image, over height, width and channels: [B].

    `critic` maps images to scores, and no image may influence another's score (hence no batch
    normalisation).
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(images)
        scores = critic(images)
    gradients = tape.gradient(scores, images)
    return tf.sqrt(tf.reduce_sum(tf.square(gradients), range(1, len(images.shape))) + SLOPE_EPSILON)


def gradient_penalty(slopes, weight):
    """Compute LAMBDA mean (slope - 1)^2 (1704.00028, equation 3)."""
    return weight * tf.reduce_mean(tf.square(slopes - 1.0))


def clip_weights(variables, low, high):
    """Clip every element of every variable to [low, high] (1701.07875, Algorithm 1, line 7)."""
    for variable in variables:
        variable.assign(tf.clip_by_value(variable.value, low, high))
