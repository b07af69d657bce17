"""Convolution, product, bias and leaky ReLU with their derivatives of every order written out.

They are TensorFlow's own functions. What differs is which of its operations compute them and their
derivatives: on a CPU some are two to four times as fast as those that TensorFlow would take. On a
GPU, and where PLAIN is set, they are left to TensorFlow.
"""

import math

import tensorflow as tf

from system import device

PLAIN = device.has_gpu()
# Up to these sizes the other forms are faster than the plain ones, in this program's networks.
FEW_CHANNELS = 4
TINY_MAPS = 4
SMALL_MAPS = 8
# From this many channels the form for small maps is the faster one.
MANY_CHANNELS = 64


def convolution(image_size, size, stride):
    """Make a Convolution, or one whose two functions are left to TensorFlow."""
    return (PlainConvolution if PLAIN else Convolution)(image_size, size, stride)


class Convolution:
    """A SAME convolution of images [B, h, w, c] with kernels [k, k, c, f] to maps [B, h', w', f].

    h' is ceil(h / stride). Images, maps and kernel are coupled by a form that is linear in each of
    them; three functions give one of them from the two others, and the derivative of each is made
    of the two others.
    """

    def __init__(self, image_size, size, stride):
        self.image_size, self.size, self.stride = tuple(image_size), size, stride
        self.map_size = tuple(math.ceil(length / stride) for length in image_size)
        self.maps = tf.custom_gradient(self._maps)
        self.images = tf.custom_gradient(self._images)
        self.kernel = tf.custom_gradient(self._kernel)

    def _maps(self, images, kernel):
        def derivative(maps):
            return self.images(maps, kernel), self.kernel(images, maps)

        if max(self.map_size) <= TINY_MAPS and images.dtype == tf.float32:
            return maps_by_patches(images, kernel, self.stride), derivative
        return tf.nn.conv2d(images, kernel, self.stride, "SAME"), derivative

    def _images(self, maps, kernel):
        def derivative(images):
            return self.maps(images, kernel), self.kernel(images, maps)

        if kernel.shape[2] <= FEW_CHANNELS and (self.size, self.stride) == (5, 2):
            return images_by_phases(maps, kernel, self.image_size), derivative
        shape = [tf.shape(maps)[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(maps, kernel, shape, self.stride, "SAME"), derivative

    def _kernel(self, images, maps):
        def derivative(kernel):
            return self.images(maps, kernel), self.maps(images, kernel)

        if max(self.map_size) <= SMALL_MAPS and images.shape[3] >= MANY_CHANNELS:
            return kernel_by_convolution(images, maps, self.size, self.stride), derivative
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

    def __init__(self, image_size, size, stride):
        self.image_size, self.stride = tuple(image_size), stride

    def maps(self, images, kernel):
        """Convolve."""
        return tf.nn.conv2d(images, kernel, self.stride, "SAME")

    def images(self, maps, kernel):
        """Transpose the convolution."""
        shape = [tf.shape(maps)[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(maps, kernel, shape, self.stride, "SAME")


def maps_by_patches(images, kernel, stride):
    """Convolve as a product of two matrices, a row per pixel of the maps."""
    size = kernel.shape[0]
    patches = tf.image.extract_patches(
        images, [1, size, size, 1], [1, stride, stride, 1], [1, 1, 1, 1], "SAME"
    )
    return tf.tensordot(patches, tf.reshape(kernel, [-1, kernel.shape[3]]), 1)


def kernel_by_convolution(images, maps, size, stride):
    """Correlate images with maps: a convolution in which batch and channels change places."""
    pads = [[0, 0]]
    for length, short in zip(images.shape[1:3], maps.shape[1:3], strict=True):
        total = max(0, (short - 1) * stride + size - length)  # as SAME pads
        pads.append([total // 2, total - total // 2])
    turned = tf.nn.conv2d(
        tf.transpose(images, [3, 1, 2, 0]),
        tf.transpose(maps, [1, 2, 0, 3]),
        1,
        [*pads, [0, 0]],
        dilations=stride,
    )
    return tf.transpose(turned, [1, 2, 0, 3])[:size, :size]


def _phase_taps(taps):
    """Return [2, 3, 5], 1 where a phase's neighbour has that tap of the kernel, 0 elsewhere."""
    return [[[float(tap == k) for k in range(5)] for tap in phase] for phase in taps]


# For each phase (even and odd pixels) the tap that the maps before, at and after the pixel have,
# None for none; with an even and with an odd number of pixels, which SAME pads differently.
PHASE_TAPS = [
    _phase_taps([[3, 1, None], [4, 2, 0]]),
    _phase_taps([[4, 2, 0], [None, 3, 1]]),
]


def images_by_phases(maps, kernel, image_size):
    """Transpose a 5x5 convolution of stride 2, for few channels.

    Each pixel sees at most 3x3 of the maps. A 3x3 convolution therefore makes the four pixels of
    every 2x2 block as four channels, which depth_to_space lays out.
    """
    height, width = image_size
    rows, columns = (tf.constant(PHASE_TAPS[length % 2], maps.dtype) for length in image_size)
    kernel = tf.einsum("pik,qjl,klcf->ijfpqc", rows, columns, kernel)
    kernel = tf.reshape(kernel, [3, 3, kernel.shape[2], -1])
    blocks = tf.nn.conv2d(maps, kernel, 1, "SAME")
    return tf.nn.depth_to_space(blocks, 2)[:, :height, :width]


# The same for a product of matrices y = x w, x [B, n] and w [n, m].


def product(x, w):
    """Multiply [B, n] by [n, m]."""
    return tf.matmul(x, w) if PLAIN else product_forward(x, w)


@tf.custom_gradient
def product_forward(x, w):
    """Multiply [B, n] by [n, m]."""
    return tf.matmul(x, w), lambda y: (product_back(y, w), product_weights(x, y))


@tf.custom_gradient
def product_back(y, w):
    """Multiply [B, m] by the transpose of [n, m], of which the large one is never transposed."""
    x = tf.transpose(tf.matmul(w, y, transpose_b=True))
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

SLOPE = 0.2


def leaky_relu(x):
    """Compute max(x, 0.2 x)."""
    return tf.nn.leaky_relu(x, SLOPE) if PLAIN else leak_forward(x)


@tf.custom_gradient
def leak_forward(x):
    """Compute max(x, 0.2 x)."""
    return tf.nn.leaky_relu(x, SLOPE), lambda y: leak(y, x)


@tf.custom_gradient
def leak(y, x):
    """Multiply y by leaky ReLU's derivative at x: 1 or 0.2."""
    scaled = tf.raw_ops.LeakyReluGrad(gradients=y, features=x, alpha=SLOPE)
    return scaled, lambda z: (leak(z, x), None)
