"""The fast algorithms and their first and second derivatives equal TensorFlow's own."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numpy.testing import assert_allclose

from kernels import algorithms, convolutions, processor, products
from system import device

# image size, kernel size, stride, channels, filters: every algorithm is taken by some of them
CASES = [
    ((28, 28), 5, 2, 1, 16),  # one channel
    ((13, 9), 3, 1, 1, 20),
    ((9, 12), 3, 2, 1, 16),
    ((9, 12), 5, 3, 1, 16),  # strides that no network here has
    ((9, 12), 1, 2, 64, 16),
    ((28, 28), 5, 2, 1, 6),  # few channels
    ((13, 9), 5, 2, 3, 6),
    ((7, 15), 5, 2, 64, 5),  # small maps and many channels
    ((7, 5), 5, 2, 256, 3),  # tiny maps and more channels
    ((24, 21), 5, 2, 64, 4),
    ((6, 8), 5, 2, 64, 4),
    ((13, 8), 3, 2, 64, 4),
    ((7, 6), 3, 1, 64, 4),
    ((7, 15), 5, 2, 6, 5),
    ((6, 6), 5, 2, 6, 8),  # tiny maps
    ((5, 8), 5, 2, 6, 8),
    ((24, 22), 5, 2, 20, 8),  # TensorFlow's own
    ((14, 14), 3, 1, 1, 6),
    ((7, 6), 3, 1, 5, 4),
    ((13, 8), 3, 2, 5, 4),
    ((21, 20), 3, 2, 5, 4),
    ((6, 9), 4, 2, 64, 64),  # those that average or repeat pixels, too
    ((6, 9), 2, 2, 64, 64),
    ((20, 18), 4, 2, 64, 5),
]


@pytest.fixture(params=[True, False], ids=["avx512", "avx2"])
def instructions(request, monkeypatch):
    """Both kinds of processor; the algorithms of each run on the other, too."""
    monkeypatch.setattr(processor, "AVX512", request.param)


def normal_kernel(k, channels, filters, seed):
    """With results of about 1, of which the sine in `penalty_like` keeps the digits."""
    return normal([k, k, channels, filters], seed) / (k * np.sqrt(channels))


def normal(shape, seed):
    return tf.random.stateless_normal(shape, [seed, 7])


def assert_close(fast, plain):
    assert fast.shape == plain.shape
    assert_allclose(fast, plain, atol=1e-5 * np.max(np.abs(plain)))


def plain_maps(images, kernel, stride):
    return tf.nn.conv2d(images, kernel, stride, "SAME")


def plain_images(maps, kernel, stride, shape):
    return tf.nn.conv2d_transpose(maps, kernel, shape, stride, "SAME")


def penalty_like(function, x, w):
    """Derive the square of a function's derivative once more, as the gradient penalty does."""
    with tf.GradientTape() as outer:
        outer.watch([x, w])
        with tf.GradientTape() as inner:
            inner.watch([x, w])
            total = tf.reduce_sum(tf.sin(function(x, w)))
        first = inner.gradient(total, [x, w])
        square = sum(tf.reduce_sum(derivative**2) for derivative in first)
    return first, outer.gradient(square, [x, w])


def assert_same_to_second_order(fast, plain, x, w):
    assert_close(fast(x, w), plain(x, w))
    for ours, theirs in zip(penalty_like(fast, x, w), penalty_like(plain, x, w), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("case", CASES)
def test_a_convolution_is_the_plain_one_to_second_order(case, instructions):
    size, k, stride, channels, filters = case
    convolution = convolutions.Convolution(size, k, stride)
    images, kernel = normal([2, *size, channels], 1), normal_kernel(k, channels, filters, 2)
    assert_same_to_second_order(
        convolution.forward, lambda x, w: plain_maps(x, w, stride), images, kernel
    )


@pytest.mark.parametrize("case", CASES)
def test_a_deconvolution_is_the_plain_one_to_second_order(case, instructions):
    size, k, stride, channels, filters = case
    convolution = convolutions.Convolution(size, k, stride)
    maps = normal([2, *convolution.map_size, filters], 3)
    kernel = normal_kernel(k, channels, filters, 4)
    shape = [2, *size, channels]
    assert_same_to_second_order(
        convolution.transpose, lambda x, w: plain_images(x, w, stride, shape), maps, kernel
    )


@pytest.mark.parametrize("columns", [3, 1024])
def test_a_product_is_the_plain_one_to_second_order(columns, instructions):
    x, w = normal([4, 7], 5), normal([7, columns], 6)
    assert_same_to_second_order(products.product, tf.matmul, x, w)


def test_a_bias_is_the_plain_one_to_second_order():
    x, bias = normal([2, 5, 4, 3], 9), normal([3], 10)
    assert_same_to_second_order(
        lambda x, b: products.add_bias(x, b) ** 3, lambda x, b: (x + b) ** 3, x, bias
    )


def test_a_sum_of_many_numbers_is_not_lost_in_bfloat16():
    maps = normal([64, 28, 28, 3], 11) + 1.0
    total = products.sum_pixels(tf.cast(maps, tf.bfloat16))
    assert total.dtype == tf.bfloat16
    assert_allclose(tf.cast(total, tf.float32), tf.reduce_sum(maps, [0, 1, 2]), rtol=0.01)


@pytest.mark.parametrize("slope", [0.2, 0.0])
def test_leaky_relu_is_the_plain_one_to_second_order(slope):
    x, w = normal([4, 7], 7), normal([7, 5], 8)
    assert_same_to_second_order(
        lambda x, w: products.leaky_relu(tf.matmul(x, w), slope) ** 2,
        lambda x, w: tf.maximum(tf.matmul(x, w), slope * tf.matmul(x, w)) ** 2,
        x,
        w,
    )


def test_in_bfloat16_every_algorithm_stays_in_bfloat16_and_near(instructions):
    """A sum of n products of rounded numbers, itself rounded: each time by 2^-8 at most.

    Where the processor adds in bfloat16, all n partial sums are rounded, too; as their errors have
    either sign they grow as sqrt(n).
    """
    for size, k, stride, channels, filters in CASES:
        convolution = convolutions.Convolution(size, k, stride)
        images, kernel = normal([2, *size, channels], 1), normal_kernel(k, channels, filters, 2)
        narrow = [tf.cast(tensor, tf.bfloat16) for tensor in (images, kernel)]
        with tf.GradientTape() as tape:
            tape.watch(narrow)
            maps = convolution.forward(*narrow)
        results = [maps, *tape.gradient(maps, narrow)]
        with tf.GradientTape() as tape:
            tape.watch([images, kernel])
            maps = plain_maps(images, kernel, stride)
        expected = [maps, *tape.gradient(maps, [images, kernel])]
        taps = k * k / stride**2  # of the kernel, that a pixel has
        products = [k * k * channels, taps * filters, 2 * np.prod(convolution.map_size)]
        for result, plain, n in zip(results, expected, products, strict=True):
            assert result.dtype == tf.bfloat16
            error = np.linalg.norm(tf.cast(result, tf.float32) - plain)
            assert error < (3 + np.sqrt(n)) * 2**-8 * np.linalg.norm(plain)


@pytest.mark.parametrize(
    "flags, found",
    [
        ("fpu sse2 avx avx2 fma", False),
        ("fpu sse2 avx avx2 avx512f avx512_bf16", True),
        ("fp asimd bf16", True),  # ARM, which takes the algorithms that it took before
        ("", True),
    ],
)
def test_the_processor_says_whether_it_has_avx512(flags, found, monkeypatch):
    monkeypatch.setattr(device, "_cpu_info", lambda key: flags if key == "flags" else "")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert device.has_avx512() == found


@pytest.mark.parametrize(
    "allowed, found", [("AVX2", False), ("avx2_vnni", False), ("AVX", False), ("AVX512_CORE", True)]
)
def test_onednn_may_be_told_to_leave_avx512_alone(allowed, found, monkeypatch):
    monkeypatch.setattr(device, "_cpu_info", lambda key: "avx2 avx512f")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert device.has_avx512() == found


def test_what_onednn_may_use_belongs_to_a_runs_environment(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    usual = device.environment()
    older = {name: value for name, value in usual.items() if name != "oneDNN instructions"}
    assert device.changes(older, usual) == {}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    changed = device.changes(older, device.environment())
    assert list(changed.values()) == ["oneDNN instructions all"]


def test_no_time_decides_on_an_algorithm():
    """The same bits on the same machine need the same algorithms."""
    for module in (algorithms, convolutions, processor, products):
        assert "time" not in vars(module) and "environ" not in Path(module.__file__).read_text()


@pytest.mark.parametrize("batch", [8, 12, 16])
def test_a_kernels_gradient_is_right_in_bfloat16_for_small_batches(batch):
    """Once oneDNN's error was 110 % for 8 and for 12 images."""
    images, maps = normal([batch, 8, 8, 64], 0), normal([batch, 8, 8, 64], 1)
    convolution = convolutions.Convolution((8, 8), 3, 1)
    found = convolution.kernel_gradient(*(tf.cast(x, tf.bfloat16) for x in (images, maps)))
    expected = convolution.kernel_gradient(images, maps)
    error = tf.norm(tf.cast(found, tf.float32) - expected) / tf.norm(expected)
    assert float(error) < 0.01
