"""Algorithms for convolutions, their transposes and kernel gradients that differ from TensorFlow's.

The results equal TensorFlow's up to rounding; convolutions.py chooses the algorithm. Images are
[B, h, w, c], kernels [k, k, c, f], feature maps ("maps") [B, h', w', f] with h' = ceil(h / stride).
"""

import math

import numpy as np
import tensorflow as tf


def padding_before(length, size, stride):
    """Return the number of zeros that SAME padding adds before an image's row or column.

    After the row or column it adds the same number or one more. `length` is the image's size in
    that direction and `size` the kernel's, in pixels.
    """
    short = math.ceil(length / stride)
    return max(0, (short - 1) * stride + size - length) // 2


def forward_by_patches(images, kernel, stride):
    """Convolve by one matrix product, with a row for each pixel of the maps (im2col)."""
    size = kernel.shape[0]
    patches = tf.image.extract_patches(
        images, [1, size, size, 1], [1, stride, stride, 1], [1, 1, 1, 1], "SAME"
    )
    return tf.tensordot(patches, tf.reshape(kernel, [-1, kernel.shape[3]]), 1)


def kernel_by_convolution(images, maps, size, stride):
    """Compute the kernel's gradient as a convolution with batch and channels exchanged."""
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


def transpose_by_rotation(maps, kernel):
    """Transpose a convolution of stride 1: convolve with the kernel rotated by 180 degrees."""
    rotated = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
    return tf.nn.conv2d(maps, rotated, 1, "SAME")


# With stride 2 some taps of the kernel apply to the even pixels of an image, the others to the odd
# pixels. In two directions this gives four phases. Each phase is a convolution of the maps.


def phases(length, size, stride=2):
    """List for each phase (stride 2: even, odd pixels) its taps and its padding before and after.

    Tap k of the kernel connects pixel q of the image with pixel p of the maps if
    q = stride p + k - padding. Taps are listed in the order of rising p.
    """
    padding = padding_before(length, size, stride)
    found = []
    for phase in range(stride):
        first = phase + padding
        taps = [k for k in reversed(range(size)) if (first - k) % stride == 0]
        found.append((taps, [(taps[0] - first) // stride, (first - taps[-1]) // stride]))
    return found


def transpose_by_phases(maps, kernel, image_size):
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


def transpose_by_blocks(maps, kernel, image_size):
    """Transpose a convolution of stride 2 and kernel size 3 or 5, for few channels.

    Each pixel of the image depends on at most 3x3 pixels of the maps. So one 3x3 convolution
    computes the four pixels of every 2x2 block as four channels, and depth_to_space arranges them.
    """
    height, width = image_size
    met = [_block_taps(length, kernel.shape[0]) for length in image_size]
    rows, columns = (tf.constant(matrix, maps.dtype) for matrix in met)
    kernel = tf.einsum("pik,qjl,klcf->ijfpqc", rows, columns, kernel)
    kernel = tf.reshape(kernel, [3, 3, kernel.shape[2], -1])
    blocks = tf.nn.conv2d(maps, kernel, 1, "SAME")
    return tf.nn.depth_to_space(blocks, 2)[:, :height, :width]


def _block_taps(length, size):
    """Return [2, 3, size]: 1 if a tap connects a phase with the pixel before, at or after it."""
    met = np.zeros((2, 3, size))
    for phase, (taps, (before, _)) in enumerate(phases(length, size)):
        met[phase, range(1 - before, 1 - before + len(taps)), taps] = 1
    return met


def transpose_by_taps(maps, kernel, image_size, stride):
    """Transpose a convolution of stride 1 or 2 for images of one channel (col2im).

    oneDNN would compute 16 channels and drop 15. Here one matrix product computes a number per tap
    for each pixel of the maps. The image is the sum of these, each shifted by its tap's position.
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


def taps(image_size, size, stride, of_images):
    """Count how often each tap of the kernel applies to each pixel, to convolve constant maps.

    Returns [h'w', kk] for the pixels of the maps or, with `of_images`, [hw, kk] for the pixels of
    the images. Fewer taps apply at the border than inside.
    """
    sides = []
    for length in image_size:
        before = padding_before(length, size, stride)
        met = np.zeros((math.ceil(length / stride), length, size), np.float32)
        for pixel, k in np.ndindex(len(met), size):
            if 0 <= pixel * stride + k - before < length:
                met[pixel, pixel * stride + k - before, k] = 1
        sides.append(met.sum(0 if of_images else 1))
    return np.kron(*sides)
