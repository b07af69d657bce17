"""Convolution, product, bias, labels and leaky ReLU, their derivatives of every order written out.

They are TensorFlow's own functions. What differs is which of its operations compute them and their
derivatives: on a CPU some are two to four times as fast as those that TensorFlow would take. On a
GPU, and where PLAIN is set, they are left to TensorFlow.
"""

import contextlib
import functools
import math

import tensorflow as tf

from system import device, forms

PLAIN = device.has_gpu()
# Where which form is the fastest, as measured in this program's networks. With AVX2 alone oneDNN
# transposes convolutions at a tenth to a half of the rate of its convolutions; with AVX-512 at the
# same rate but where maps are tiny, and is slow at convolving to these when the kernel is large.
# In bfloat16 it is as fast there as elsewhere. On either a single channel costs as much as 16, and
# with AVX2 alone a product with 1,024 columns twice as much as one with 1,040.
AVX512 = device.has_avx512()
FEW_CHANNELS = 16
MANY_CHANNELS = 64
LARGE_KERNEL = 256  # channels
TINY_MAPS = 4
SMALL_MAPS = 8


@contextlib.contextmanager
def plain():
    """Leave all to TensorFlow in what is built and traced meanwhile, for other programs to read."""
    global PLAIN
    before, PLAIN = PLAIN, True
    try:
        yield
    finally:
        PLAIN = before


def taps_of(convolution):
    """Return which taps of its kernel each pixel of maps and of images has, as forms.taps."""
    return forms.taps(convolution.image_size, convolution.size, convolution.stride)


def convolution(image_size, size, stride):
    """Make a Convolution, or one whose two functions are left to TensorFlow."""
    return (PlainConvolution if PLAIN else Convolution)(image_size, size, stride)


class Convolution:
    """A SAME convolution of images [B, h, w, c] with kernels [k, k, c, f] to maps [B, h', w', f].

    h' is ceil(h / stride). Images, maps and kernel are coupled by a form that is linear in each of
    them; three functions give one of them from the two others, and the derivative of each is made
    of the two others.
    """

    taps = functools.cached_property(taps_of)  # which only labels ask for, and which may be large

    def __init__(self, image_size, size, stride):
        self.image_size, self.size, self.stride = tuple(image_size), size, stride
        self.map_size = tuple(math.ceil(length / stride) for length in image_size)
        self.maps = tf.custom_gradient(self._maps)
        self.images = tf.custom_gradient(self._images)
        self.kernel = tf.custom_gradient(self._kernel)

    def _maps(self, images, kernel):
        def derivative(maps):
            return self.images(maps, kernel), self.kernel(images, maps)

        tiny = max(self.map_size) <= TINY_MAPS and images.dtype == tf.float32
        if AVX512 and tiny and images.shape[3] >= LARGE_KERNEL:
            return forms.maps_by_patches(images, kernel, self.stride), derivative
        return tf.nn.conv2d(images, kernel, self.stride, "SAME"), derivative

    def _images(self, maps, kernel):
        def derivative(images):
            return self.maps(images, kernel), self.kernel(images, maps)

        _, _, channels, filters = kernel.shape
        if self.stride > min(2, self.size):
            return self._plain_images(maps, kernel), derivative
        if channels == 1 and filters >= FEW_CHANNELS and maps.dtype == tf.float32:
            return forms.images_by_taps(maps, kernel, self.image_size, self.stride), derivative
        if (self.size, self.stride) == (5, 2) and channels <= FEW_CHANNELS:
            return forms.images_by_blocks(maps, kernel, self.image_size), derivative
        if self.stride == 2 and self._has_slow_images(maps, channels):
            return forms.images_by_phases(maps, kernel, self.image_size), derivative
        if self.stride == 1 and not AVX512 and channels > filters:
            return forms.images_by_turning(maps, kernel), derivative
        return self._plain_images(maps, kernel), derivative

    def _plain_images(self, maps, kernel):
        shape = [tf.shape(maps)[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(maps, kernel, shape, self.stride, "SAME")

    def _has_slow_images(self, maps, channels):
        tiny = max(self.map_size) <= TINY_MAPS and self.size == 5 and maps.dtype == tf.float32
        return channels >= MANY_CHANNELS and (tiny or not AVX512)

    def _kernel(self, images, maps):
        def derivative(kernel):
            return self.images(maps, kernel), self.maps(images, kernel)

        if max(self.map_size) <= SMALL_MAPS and images.shape[3] >= MANY_CHANNELS:
            return forms.kernel_by_convolution(images, maps, self.size, self.stride), derivative
        kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=[self.size, self.size, images.shape[3], maps.shape[3]],
            out_backprop=maps,
            strides=[1, self.stride, self.stride, 1],
            padding="SAME",
        )
        return kernel, derivative


class PlainConvolution:
    """The same two functions as TensorFlow computes and derives them."""

    taps = functools.cached_property(taps_of)

    def __init__(self, image_size, size, stride):
        self.image_size, self.size, self.stride = tuple(image_size), size, stride

    def maps(self, images, kernel):
        """Convolve."""
        return tf.nn.conv2d(images, kernel, self.stride, "SAME")

    def images(self, maps, kernel):
        """Transpose the convolution."""
        shape = [tf.shape(maps)[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(maps, kernel, shape, self.stride, "SAME")


# Labels enter a convolution as constant feature maps, one of which is 1. To convolve them takes a
# multiplication per pixel, tap, label and filter and image; but what comes out is the same for all
# images of one label, and hence can be taken from a table that is made once for the batch.


def table(taps, kernel):
    """Return what constant maps give for each label, [hwf, K], of a kernel [k, k, f, K]."""
    labels = kernel.shape[3]
    rows = tf.matmul(tf.constant(taps, kernel.dtype), tf.reshape(kernel, [taps.shape[1], -1]))
    return tf.reshape(rows, [-1, labels])


def add_labels(x, labels, table, bias):
    """Add to maps [B, h, w, f] the bias [f] and, from the table [hwf, K], a row for each image.

    In one product, in which the bias is the row of a label that every image has.
    """
    pixels = math.prod(x.shape[1:3])
    every = tf.matmul(tf.ones([pixels, 1], bias.dtype), bias[None])  # oneDNN complains of a tile's
    table = tf.concat([table, tf.reshape(every, [-1, 1])], 1)  # derivative on stderr
    labels = tf.concat([labels, tf.ones_like(labels[:, :1])], 1)
    return x + tf.reshape(tf.matmul(labels, table, transpose_b=True), tf.shape(x))


# The same for a product of matrices y = x w, x [B, n] and w [n, m].


def product(x, w):
    """Multiply [B, n] by [n, m]."""
    return tf.matmul(x, w) if PLAIN else product_forward(x, w)


@tf.custom_gradient
def product_forward(x, w):
    """Multiply [B, n] by [n, m]."""
    pages = not AVX512 and w.shape[1] * w.dtype.size % 4096 == 0
    y = forms.product_padded(x, w) if pages else tf.matmul(x, w)
    return y, lambda y: (product_back(y, w), product_weights(x, y))


@tf.custom_gradient
def product_back(y, w):
    """Multiply [B, m] by the transpose of [n, m], of which the large one is never transposed."""
    x = tf.transpose(tf.matmul(w, tf.transpose(y)))
    return x, lambda x: (product_forward(x, w), product_weights(x, y))


@tf.custom_gradient
def product_weights(x, y):
    """Multiply the transpose of [B, n] by [B, m]."""
    return tf.matmul(x, y, transpose_a=True), lambda w: (product_back(y, w), product_forward(x, w))


# A bias. TensorFlow would let oneDNN compute its gradient together with the kernel's, which takes
# longer, for few channels four times as long, than one after the other.


def add_bias(x, bias):
    """Add [f] to maps [B, h, w, f]."""
    return tf.nn.bias_add(x, bias) if PLAIN else add_to_maps(x, bias)


@tf.custom_gradient
def add_to_maps(x, bias):
    """Add [f] to maps [B, h, w, f]."""
    return tf.nn.bias_add(x, bias), lambda y: (y, sum_maps(y))


@tf.custom_gradient
def sum_maps(y):
    """Sum maps [B, h, w, f] over all but channels: [f]."""
    rows = tf.reshape(y, [-1, y.shape[3]])
    total = tf.linalg.matvec(rows, tf.ones_like(rows[:, 0]), transpose_a=True)
    return total, lambda bias: add_to_maps(tf.zeros_like(y), bias)


# Leaky ReLU. TensorFlow's second derivative is a tensor of zeros, which costs time; ours is None.


def leaky_relu(x, slope):
    """Compute max(x, slope x); with slope 0 it is ReLU."""
    if PLAIN:
        return tf.nn.leaky_relu(x, slope)

    @tf.custom_gradient
    def forward(x):
        return tf.nn.leaky_relu(x, slope), lambda y: back(y, x)

    @tf.custom_gradient
    def back(y, x):  # y times the derivative at x, 1 or slope
        scaled = tf.raw_ops.LeakyReluGrad(gradients=y, features=x, alpha=slope)
        return scaled, lambda z: (back(z, x), None)

    return forward(x)
