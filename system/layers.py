"""Keras layers made of kernels.py: convolutions, and a product, that take labels, too."""

import keras
import tensorflow as tf

from system import kernels


class Conv2D(keras.layers.Layer):
    """Convolve with SAME padding, as Keras' layer of that name does.

    Labels count as constant feature maps after the others, but cost less.
    """

    def __init__(self, filters, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.init = filters, size, stride, init

    def build(self, x_shape, labels_shape=None):
        """Make kernel [size, size, c + K, filters] and bias [filters]."""
        _, height, width, self.channels = x_shape
        shape = (self.size, self.size, self.channels + _count(labels_shape), self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")
        self.convolution = kernels.convolution((height, width), self.size, self.stride)

    def call(self, x, labels=None):
        """Map [B, h, w, c] and [B, K] to [B, ceil(h/stride), ceil(w/stride), filters]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        if labels is None:
            return kernels.add_bias(self.convolution.maps(x, kernel), bias)
        kernel, of_labels = tf.split(kernel, [self.channels, labels.shape[1]], 2)
        table = kernels.table(self.convolution.taps[0], tf.transpose(of_labels, [0, 1, 3, 2]))
        return kernels.add_labels(self.convolution.maps(x, kernel), labels, table, bias)


class Deconv2D(keras.layers.Layer):
    """Transpose a SAME convolution, as Keras' Conv2DTranspose does.

    Labels count as constant feature maps after the others, but cost less.
    """

    def __init__(self, filters, output_size, size, stride, init, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.size, self.init = filters, size, init
        self.convolution = kernels.convolution(output_size, size, stride)

    def build(self, x_shape, labels_shape=None):
        """Make kernel [size, size, filters, c + K] and bias [filters]."""
        self.channels = x_shape[-1]
        shape = (self.size, self.size, self.filters, self.channels + _count(labels_shape))
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, x, labels=None):
        """Map [B, ceil(h/stride), ceil(w/stride), c] and [B, K] to [B, h, w, filters]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        if labels is None:
            return kernels.add_bias(self.convolution.images(x, kernel), bias)
        kernel, of_labels = tf.split(kernel, [self.channels, labels.shape[1]], 3)
        table = kernels.table(self.convolution.taps[1], of_labels)
        return kernels.add_labels(self.convolution.images(x, kernel), labels, table, bias)


class ConvMeanPool(Conv2D):
    """Convolve and take the means of 2x2 pixels: for kernels of 3x3 at 4/9 of the work.

    It is one convolution of stride 2 with a kernel that is larger by one. An odd size is filled up
    with zeros before it.
    """

    def build(self, x_shape):
        """Make kernel [size, size, c, filters] and bias [filters]."""
        super().build(x_shape)
        self.convolution = kernels.convolution(x_shape[1:3], self.size + 1, 2)

    def call(self, x):
        """Map [B, h, w, c] to [B, ceil(h/2), ceil(w/2), filters]."""
        kernel, bias = (tf.cast(v, x.dtype) for v in (_smear(self.kernel) / 4, self.bias))
        return kernels.add_bias(self.convolution.maps(x, kernel), bias)


class UpsampleConv(Deconv2D):
    """Repeat pixels in 2x2, convolve, and cut the last row or column of odd sizes off.

    It is the transpose of one convolution of stride 2. Kernels are turned by 180 degrees.
    """

    def __init__(self, filters, output_size, size, init, **kwargs):
        super().__init__(filters, output_size, size, 1, init, **kwargs)
        self.convolution = kernels.convolution(output_size, size + 1, 2)

    def build(self, x_shape):
        """Make kernel [size, size, filters, c] and bias [filters]."""
        super().build(x_shape)

    def call(self, x):
        """Map [B, ceil(h/2), ceil(w/2), c] to [B, h, w, filters]."""
        kernel, bias = (tf.cast(v, x.dtype) for v in (_smear(self.kernel), self.bias))
        return kernels.add_bias(self.convolution.images(x, kernel), bias)


def _smear(kernel):
    """Add up a kernel [k, k, ...] moved by 0 and 1 in both directions: [k + 1, k + 1, ...]."""
    for more in ([0, 1], [0, 0]), ([0, 0], [0, 1]):
        after = tf.constant([*more, [0, 0], [0, 0]])
        kernel = tf.pad(kernel, after) + tf.pad(kernel, after[:, ::-1])
    return kernel


class Linear(keras.layers.Layer):
    """Multiply by a matrix and add a bias, as Keras' Dense does, labels after the other inputs."""

    def __init__(self, units, init, **kwargs):
        super().__init__(**kwargs)
        self.units, self.init = units, init

    def build(self, x_shape, labels_shape=None):
        """Make kernel [n + K, units] and bias [units]."""
        self.channels = x_shape[-1]
        shape = (self.channels + _count(labels_shape), self.units)
        self.kernel = self.add_weight(shape=shape, initializer=self.init, name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, x, labels=None):
        """Map [B, n] and [B, K] to [B, units]."""
        kernel, bias = (tf.cast(variable, x.dtype) for variable in (self.kernel, self.bias))
        x = x if labels is None else tf.concat([x, labels], 1)
        return tf.nn.bias_add(kernels.product(x, kernel), bias)


def _count(labels_shape):
    return 0 if labels_shape is None else labels_shape[1]
