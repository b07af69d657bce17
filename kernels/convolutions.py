"""SAME convolutions and their transposes, with derivatives of every order.

The algorithm depends only on shape, precision and processor, so that equal runs use the same one.
"""

import math

import tensorflow as tf

from kernels import algorithms, processor, products

# These limits choose the fastest algorithm, as measured in this program's networks:
# - With AVX2 only, oneDNN computes a transpose at a tenth to a half of a convolution's rate.
# - With AVX-512 it computes both at the same rate, except for tiny feature maps. Convolutions with
#   many channels that give tiny feature maps are slow, too, but not in bfloat16.
# - With both, one channel takes as long as 16.
FEW_CHANNELS = 16
MANY_CHANNELS = 64
LARGE_KERNEL = 256  # channels
TINY_MAPS = 4  # pixels, height or width
SMALL_MAPS = 8
# With fewer images oneDNN's convolution in bfloat16 may be wrong, once batch and channels are
# exchanged: seen with stride 1 on an Intel Xeon with AMX.
BFLOAT16_BATCH = 16


def conv2d(x, kernel, bias, stride, labels=None):
    """Convolve [B, h, w, c] with a kernel [k, k, c, f]: [B, ceil(h/stride), ceil(w/stride), f].

    Adds a bias [f]. One-hot labels [B, K] are K more constant feature maps after those of x; the
    kernel is then [k, k, c + K, f].
    """
    convolution = Convolution(x.shape[1:3], kernel.shape[0], stride)
    if labels is None:
        return products.add_bias(convolution.forward(x, kernel), bias)
    kernel, of_labels = tf.split(kernel, [x.shape[3], labels.shape[1]], 2)
    table = products.label_table(convolution.taps_of_maps(), tf.transpose(of_labels, [0, 1, 3, 2]))
    return products.add_labels(convolution.forward(x, kernel), labels, table, bias)


def conv2d_transpose(x, kernel, bias, output_size, stride, labels=None):
    """Transpose a convolution of [B, h, w, f], (h, w) = output_size, with a kernel [k, k, f, c].

    [B, ceil(h/stride), ceil(w/stride), c] to [B, h, w, f]. Adds a bias [f]. One-hot labels [B, K]
    are K more constant feature maps after those of x; the kernel is then [k, k, f, c + K].
    """
    convolution = Convolution(output_size, kernel.shape[0], stride)
    if labels is None:
        return products.add_bias(convolution.transpose(x, kernel), bias)
    kernel, of_labels = tf.split(kernel, [x.shape[3], labels.shape[1]], 3)
    table = products.label_table(convolution.taps_of_images(), of_labels)
    return products.add_labels(convolution.transpose(x, kernel), labels, table, bias)


class Convolution:
    """A SAME convolution of images [B, h, w, c] with kernels [k, k, c, f] to maps [B, h', w', f].

    h' is ceil(h / stride). Of maps, images and kernel, each of three functions computes one from
    the other two. It is linear in both arguments, so its derivatives are the other two functions.
    """

    def __init__(self, image_size, size, stride):
        self.image_size, self.size, self.stride = tuple(image_size), size, stride
        self.map_size = tuple(math.ceil(length / stride) for length in image_size)
        if processor.PLAIN:
            self.forward, self.transpose = self._plain_forward, self._plain_transpose
        else:
            self.forward = tf.custom_gradient(self._forward)
            self.transpose = tf.custom_gradient(self._transpose)
            self.kernel_gradient = tf.custom_gradient(self._kernel_gradient)

    def taps_of_maps(self):
        """For each pixel of the maps, return 1 per tap inside the image, else 0: [h'w', kk]."""
        return algorithms.taps(self.image_size, self.size, self.stride, of_images=False)

    def taps_of_images(self):
        """For each pixel of the images, return 1 per tap inside the maps, else 0: [hw, kk]."""
        return algorithms.taps(self.image_size, self.size, self.stride, of_images=True)

    def _plain_forward(self, images, kernel):
        return tf.nn.conv2d(images, kernel, self.stride, "SAME")

    def _plain_transpose(self, maps, kernel):
        shape = [tf.shape(maps)[0], *self.image_size, kernel.shape[2]]
        return tf.nn.conv2d_transpose(maps, kernel, shape, self.stride, "SAME")

    def _forward(self, images, kernel):
        def derivatives(maps):
            return self.transpose(maps, kernel), self.kernel_gradient(images, maps)

        tiny = max(self.map_size) <= TINY_MAPS and images.dtype == tf.float32
        if processor.AVX512 and tiny and images.shape[3] >= LARGE_KERNEL:
            return algorithms.forward_by_patches(images, kernel, self.stride), derivatives
        return self._plain_forward(images, kernel), derivatives

    def _transpose(self, maps, kernel):
        def derivatives(images):
            return self.forward(images, kernel), self.kernel_gradient(images, maps)

        _, _, channels, filters = kernel.shape
        if self.stride > min(2, self.size):
            return self._plain_transpose(maps, kernel), derivatives
        if channels == 1 and filters >= FEW_CHANNELS and maps.dtype == tf.float32:
            images = algorithms.transpose_by_taps(maps, kernel, self.image_size, self.stride)
        elif (self.size, self.stride) == (5, 2) and channels <= FEW_CHANNELS:
            images = algorithms.transpose_by_blocks(maps, kernel, self.image_size)
        elif self.stride == 2 and self._has_slow_transpose(maps, channels):
            images = algorithms.transpose_by_phases(maps, kernel, self.image_size)
        elif self.stride == 1 and not processor.AVX512 and channels > filters:
            images = algorithms.transpose_by_rotation(maps, kernel)
        else:
            images = self._plain_transpose(maps, kernel)
        return images, derivatives

    def _has_slow_transpose(self, maps, channels):
        tiny = max(self.map_size) <= TINY_MAPS and self.size == 5 and maps.dtype == tf.float32
        return channels >= MANY_CHANNELS and (tiny or not processor.AVX512)

    def _kernel_gradient(self, images, maps):
        def derivatives(kernel):
            return self.transpose(maps, kernel), self.forward(images, kernel)

        small = max(self.map_size) <= SMALL_MAPS and images.shape[3] >= MANY_CHANNELS
        if small and (maps.dtype == tf.float32 or (maps.shape[0] or 0) >= BFLOAT16_BATCH):
            kernel = algorithms.kernel_by_convolution(images, maps, self.size, self.stride)
            return kernel, derivatives
        kernel = tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=[self.size, self.size, images.shape[3], maps.shape[3]],
            out_backprop=maps,
            strides=[1, self.stride, self.stride, 1],
            padding="SAME",
        )
        return kernel, derivatives
