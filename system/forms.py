"""Other ways to compute a convolution, its transpose and its kernel's gradient than TensorFlow's.

Each gives what the plain form gives, up to rounding; kernels.py knows where which is the fastest.
Images are [B, h, w, c], kernels [k, k, c, f], maps [B, h', w', f] with h' = ceil(h / stride).
"""

import math

import numpy as np
import tensorflow as tf


def padding_before(length, size, stride):
    """Return how many pixels SAME puts before the first one; as many or one more follow the last.

    `length` are the pixels of the image in one direction, `size` those of the kernel.
    """
    short = math.ceil(length / stride)
    return max(0, (short - 1) * stride + size - length) // 2


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
        total = max(0, (short - 1) * stride + size - length)
        before = padding_before(length, size, stride)
        pads.append([before, total - before])
    turned = tf.nn.conv2d(
        tf.transpose(images, [3, 1, 2, 0]),
        tf.transpose(maps, [1, 2, 0, 3]),
        1,
        [*pads, [0, 0]],
        dilations=stride,
    )
    return tf.transpose(turned, [1, 2, 0, 3])[:size, :size]


def images_by_turning(maps, kernel):
    """Transpose a convolution of stride 1: convolve with the kernel turned by 180 degrees."""
    turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    return tf.nn.conv2d(maps, turned, 1, "SAME")


# With stride 2 the even pixels of an image meet some taps of the kernel, and the odd ones the
# others: in two directions there are four phases, each of which is a convolution of the maps.


def phases(length, size, stride=2):
    """List for each phase (of stride 2: even, odd) its taps, and the maps before and after it.

    A tap k of pixel q lies on map p if q = stride p + k - padding; taps are listed as p rises.
    """
    padding = padding_before(length, size, stride)
    found = []
    for phase in range(stride):
        first = phase + padding
        taps = [k for k in reversed(range(size)) if (first - k) % stride == 0]
        found.append((taps, [(taps[0] - first) // stride, (first - taps[-1]) // stride]))
    return found


def images_by_phases(maps, kernel, image_size):
    """Transpose a convolution of stride 2 as four convolutions with parts of the kernel."""
    size, _, channels, filters = kernel.shape
    height, width = image_size
    kernel = tf.reshape(tf.transpose(kernel, [0, 1, 3, 2]), [-1, filters, channels])
    rows = []
    for row_taps, row_pads in phases(height, size):
        row = []
        for taps, pads in phases(width, size):
            part = tf.gather(kernel, [size * i + k for i in row_taps for k in taps])
            part = tf.reshape(part, [len(row_taps), len(taps), filters, channels])
            row.append(tf.nn.conv2d(maps, part, 1, [[0, 0], row_pads, pads, [0, 0]]))
        rows.append(tf.stack(row, 3))
    images = tf.stack(rows, 2)  # [B, h', 2, w', 2, c]
    _, short, _, narrow, _, _ = images.shape
    images = tf.reshape(images, [-1, 2 * short, 2 * narrow, channels])
    return images[:, :height, :width]


def images_by_blocks(maps, kernel, image_size):
    """Transpose a convolution of stride 2, of size 3 or 5, for few channels.

    Each pixel sees at most 3x3 of the maps. A 3x3 convolution therefore makes the four pixels of
    every 2x2 block as four channels, which depth_to_space lays out.
    """
    height, width = image_size
    met = [_block_taps(length, kernel.shape[0]) for length in image_size]
    rows, columns = (tf.constant(matrix, maps.dtype) for matrix in met)
    kernel = tf.einsum("pik,qjl,klcf->ijfpqc", rows, columns, kernel)
    kernel = tf.reshape(kernel, [3, 3, kernel.shape[2], -1])
    blocks = tf.nn.conv2d(maps, kernel, 1, "SAME")
    return tf.nn.depth_to_space(blocks, 2)[:, :height, :width]


def _block_taps(length, size):
    """Return [2, 3, size], 1 where a phase's map before, at or after it has that tap, else 0."""
    met = np.zeros((2, 3, size))
    for phase, (taps, (before, _)) in enumerate(phases(length, size)):
        met[phase, range(1 - before, 1 - before + len(taps)), taps] = 1
    return met


def images_by_taps(maps, kernel, image_size, stride):
    """Transpose a convolution for one channel, of stride 1 or 2.

    oneDNN computes 16 channels, even if 15 are not there. A product gives what each map adds to
    each pixel that it meets, as many numbers as the kernel has taps; these are added up.
    """
    size, _, _, filters = kernel.shape
    _, short, narrow, _ = maps.shape
    rows = tf.reshape(maps, [-1, filters])
    met = tf.matmul(rows, tf.reshape(kernel, [-1, filters]), transpose_b=True)
    around = size // 2
    met = tf.reshape(met, [-1, short, narrow, size * size])
    met = tf.pad(met, [[0, 0], [around, around], [around, around], [0, 0]])
    images = []
    for row_taps, (above, _) in phases(image_size[0], size, stride):
        for column_taps, (before, _) in phases(image_size[1], size, stride):
            parts = []
            for y, i in enumerate(row_taps, around - above):
                for x, j in enumerate(column_taps, around - before):
                    parts.append(met[:, y : y + short, x : x + narrow, size * i + j, None])
            images.append(tf.add_n(parts))
    if stride == 1:
        return images[0]
    images = tf.nn.depth_to_space(tf.concat(images, 3), 2)
    return images[:, : image_size[0], : image_size[1]]


def product_padded(x, w):
    """Multiply [B, n] by a copy of [n, m] that has 16 columns more.

    If a row has 4,096 bytes or a multiple, all rows share a few lines of the cache.
    """
    wider = tf.concat([w, tf.zeros([w.shape[0], 16], w.dtype)], 1)
    return tf.matmul(x, wider)[:, : w.shape[1]]


def taps(image_size, size, stride):
    """Return which taps of the kernel each pixel has: of maps [h'w', kk], of images [hw, kk].

    Pixels at a border have fewer than those inside. Each matrix holds ones and zeros.
    """
    sides = []
    for length in image_size:
        before = padding_before(length, size, stride)
        met = np.zeros((math.ceil(length / stride), length, size), np.float32)
        for pixel, k in np.ndindex(len(met), size):
            if 0 <= pixel * stride + k - before < length:
                met[pixel, pixel * stride + k - before, k] = 1
        sides.append(met)
    return [np.kron(*(met.sum(axis) for met in sides)) for axis in (1, 0)]
