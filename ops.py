"""The layers, and the papers' equations: losses, penalty, clipping.

No files, no randomness, nothing printed. WGAN is arXiv 1701.07875, WGAN-GP is arXiv 1704.00028.
"""

import math

import keras
import tensorflow as tf

import kernels

# Inside the slope's square root: without it the gradient at slope 0 is NaN.
SLOPE_EPSILON = 1e-12
NORM_EPSILON = 1e-5


# Layers. Each function applies a layer to a Keras tensor. Its variables' names begin with `name`.


def conv2d(x, filters, name, size=5, stride=2, init=None, labels=None):
    """Convolve with SAME padding: [B, h, w, c] to [B, ceil(h/stride), ceil(w/stride), filters].

    One-hot labels [B, K] enter as K more channels, each constant over the image.
    """
    init = init or keras.initializers.TruncatedNormal(stddev=0.02)
    return Conv2D(filters, size, stride, init, name=name)(x, labels)


def deconv2d(x, filters, output_size, name, size=5, stride=2, init=None, labels=None):
    """Apply the transpose of a SAME convolution; the output has output_size (h, w).

    [B, ceil(h/stride), ceil(w/stride), c] to [B, h, w, filters]. One-hot labels [B, K] enter as K
    more channels, each constant over the image.
    """
    init = init or keras.initializers.RandomNormal(stddev=0.02)
    return Deconv2D(filters, output_size, size, stride, init, name=name)(x, labels)


def conv_mean_pool(x, filters, name, size, init):
    """Convolve, then average 2x2 pixels: [B, h, w, c] to [B, ceil(h/2), ceil(w/2), filters].

    An odd height or width is padded with zeros before the convolution.
    """
    return ConvMeanPool(filters, size, 2, init, name=name)(x)


def upsample_conv(x, filters, output_size, name, size, init):
    """Repeat each pixel 2x2 times, convolve, and cut to output_size (h, w): [B, h, w, filters]."""
    return UpsampleConv(filters, output_size, size, 2, init, name=name)(x)


def linear(x, units, name, init=None, dtype=None, labels=None):
    """Multiply by a matrix and add a bias: [B, n], with one-hot labels [B, K], to [B, units]."""
    init = init or keras.initializers.RandomNormal(stddev=0.02)
    return Linear(units, init, dtype=dtype, name=name)(x, labels)


class Conv2D(keras.layers.Layer):
    """The layer of `conv2d`."""

    def __init__(self, filters, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.init = filters, size, stride, init

    def build(self, x_shape, labels_shape=None):
        """Make the kernel [size, size, c + K, filters] and the bias [filters]."""
        shape = self.size, self.size, _channels(x_shape, labels_shape), self.filters
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def make_kernel(self):
        """Return the kernel to convolve with."""
        return self.kernel

    def call(self, x, labels=None):
        """Map [B, h, w, c] to feature maps."""
        kernel, bias = (tf.cast(values, x.dtype) for values in (self.make_kernel(), self.bias))
        return kernels.conv2d(x, kernel, bias, self.stride, labels)


class Deconv2D(keras.layers.Layer):
    """The layer of `deconv2d`."""

    def __init__(self, filters, output_size, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.output_size, self.size = filters, output_size, size
        self.stride, self.init = stride, init

    def build(self, x_shape, labels_shape=None):
        """Make the kernel [size, size, filters, c + K] and the bias [filters]."""
        shape = self.size, self.size, self.filters, _channels(x_shape, labels_shape)
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def make_kernel(self):
        """Return the kernel to convolve with."""
        return self.kernel

    def call(self, x, labels=None):
        """Map feature maps to [B, h, w, filters]."""
        kernel, bias = (tf.cast(values, x.dtype) for values in (self.make_kernel(), self.bias))
        return kernels.conv2d_transpose(x, kernel, bias, self.output_size, self.stride, labels)


class ConvMeanPool(Conv2D):
    """The layer of `conv_mean_pool`: one convolution of stride 2 with a kernel larger by one.

    With 3x3 kernels it needs 4/9 of the multiplications.
    """

    def make_kernel(self):
        """Return the kernel [size + 1, size + 1, c, filters] that convolves and averages."""
        return _spread(self.kernel) / 4


class UpsampleConv(Deconv2D):
    """The layer of `upsample_conv`: the transpose of one convolution of stride 2.

    Its kernel is larger by one and rotated by 180 degrees.
    """

    def make_kernel(self):
        """Return the kernel [size + 1, size + 1, filters, c] that repeats pixels and convolves."""
        return _spread(self.kernel)


def _spread(kernel):
    """Sum four copies of a kernel [k, k, ...], moved by 0 or 1 row and column: [k+1, k+1, ...]."""
    for more in ([0, 1], [0, 0]), ([0, 0], [0, 1]):
        after = tf.constant([*more, [0, 0], [0, 0]])
        kernel = tf.pad(kernel, after) + tf.pad(kernel, after[:, ::-1])
    return kernel


class Linear(keras.layers.Layer):
    """The layer of `linear`."""

    def __init__(self, units, init, **kwargs):
        super().__init__(**kwargs)
        self.units, self.init = units, init

    def build(self, x_shape, labels_shape=None):
        """Make the kernel [n + K, units] and the bias [units]."""
        shape = _channels(x_shape, labels_shape), self.units
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x, labels=None):
        """Map [B, n] to [B, units]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        return kernels.linear(x, kernel, bias, labels)


def _channels(x_shape, labels_shape):
    return x_shape[-1] + (labels_shape[-1] if labels_shape else 0)


def batch_norm(x, name, classes=None):
    """Normalise over the batch, with scale and offset per channel (the last axis).

    With one-hot `classes` [B, K] each class has its own scale and offset. The statistics are those
    of the global batch, also with several replicas.
    """
    layer = keras.layers.BatchNormalization(
        momentum=0.9,
        epsilon=NORM_EPSILON,
        center=classes is None,
        scale=classes is None,
        synchronized=tf.distribute.get_strategy().num_replicas_in_sync > 1,
        name=name,
    )
    x = layer(x)
    if classes is None:
        return x
    shape = *(1 for _ in x.shape[2:]), x.shape[-1]
    gamma = _per_class(classes, x.shape[-1], f"{name}_gamma", "ones")
    x = keras.layers.Multiply()([x, keras.layers.Reshape(shape)(gamma)])
    beta = _per_class(classes, x.shape[-1], f"{name}_beta", "zeros")
    return keras.layers.Add()([x, keras.layers.Reshape(shape)(beta)])


def projection(x, classes, name, dtype=None):
    """Multiply features [B, c] by the vector of each image's class: [B, 1].

    `classes` are one-hot, [B, K]. From the projection discriminator, arXiv 1802.05637.
    """
    vectors = _per_class(classes, x.shape[1], name, "glorot_uniform", dtype)
    return keras.layers.Dot(1, dtype=dtype)([x, vectors])


def _per_class(classes, count, name, init, dtype=None):
    layer = keras.layers.Dense(
        count, use_bias=False, kernel_initializer=init, dtype=dtype, name=name
    )
    return layer(classes)


class LayerNorm(keras.layers.Layer):
    """Normalise over all values of an image (or vector), with scale and offset per channel.

    Keras' GroupNormalization and LayerNormalization compute the variance by tf.nn.moments, which
    stops the gradient at the mean. First derivatives stay right, but second derivatives are wrong:
    by 0.6 % of the penalty's gradient in this project's tests, by half in a small vector critic.
    """

    def build(self, input_shape):
        """Make one scale and one offset per channel."""
        self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="beta")

    def call(self, x):
        """Map [B, ..., c] to the same shape; the statistics are float32 or better."""
        wide = keras.ops.cast(x, self.variable_dtype)
        size = math.prod(x.shape[1:])

        def mean(values):
            means = kernels.row_means(keras.ops.reshape(values, (-1, size)))
            return keras.ops.reshape(means, (-1, *(1 for _ in x.shape[1:])))

        centred = wide - mean(wide)
        variance = mean(keras.ops.square(centred))
        normalised = centred * keras.ops.rsqrt(variance + NORM_EPSILON)
        gamma, beta = (keras.ops.cast(v, self.variable_dtype) for v in (self.gamma, self.beta))
        return keras.ops.cast(normalised * gamma + beta, self.compute_dtype)


def norm(x, critic_norm, name):
    """Apply the norm of `--critic_norm`: none, batch or layer."""
    if critic_norm == "none":
        return x
    return batch_norm(x, name) if critic_norm == "batch" else LayerNorm(name=name)(x)


class LeakyReLU(keras.layers.Layer):
    """Compute max(x, slope x)."""

    def __init__(self, slope, **kwargs):
        super().__init__(**kwargs)
        self.slope = slope

    def call(self, x):
        """Map x to the same shape."""
        return kernels.leaky_relu(x, self.slope)


def lrelu(x):
    """Apply the leaky ReLU of slope 0.2."""
    return LeakyReLU(0.2)(x)


def relu(x):
    """Apply ReLU in a critic, where the penalty needs second derivatives."""
    return LeakyReLU(0.0)(x)


def mean_pixels(x):
    """Average over height and width: [B, h, w, c] to [B, c].

    Not by GlobalAveragePooling2D, because oneDNN warns about its second derivative.
    """
    return keras.layers.Flatten()(keras.layers.AveragePooling2D(x.shape[1:3])(x))


def to_network(images):
    """Map uint8 images 0 .. 255 to float32 -1 .. 1; points, which are float32, stay as they are."""
    if images.dtype == "float32":
        return images
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images):
    """Map images -1 .. 1 to uint8 0 .. 255, rounded and clipped; points [B, 2] stay as they are."""
    if len(images.shape) == 2:
        return images
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)


# The papers' equations. Scores are the critic's outputs D(x), of any shape with one number per
# image. If you replace a loss or the penalty, change this name, too: the program refuses to resume
# a run that was started under another name.
LOSS = "wasserstein"
# Whether `generator_loss` also takes the scores of real images, as its second argument.
GENERATOR_SEES_REAL = False


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

    `critic` maps images to scores. It must not have batch norm: an image must not influence the
    score of another.
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
