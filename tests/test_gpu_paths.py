"""What a GPU would run, as far as a machine without one can tell: the steps lowered to XLA's HLO.

The kernels of TensorFlow that lower them are those for XLA on a CPU; a wheel built for CUDA is
needed for those of a GPU. With full float32, XLA's text gives each product and convolution the
operand_precision "highest". With TF32 it gives none, and on a GPU they would be rounded.
"""

import collections
import contextlib
import os
import re

import pytest
import tensorflow as tf
from numpy.testing import assert_allclose
from pair_steps import (
    MODES,
    PAIRS,
    PRECISIONS,
    build,
    difference,
    first_steps,
    keep_gradients,
    other_inputs,
    tensors,
)
from tensorflow.python.framework import config as tensorflow_config

from kernels import processor
from system import device

pytestmark = pytest.mark.usefixtures("with_xla")
# Slow are those that differ from others in both mode and precision, of the larger networks.
CASES = [
    pytest.param(pair, mode, precision, marks=[pytest.mark.slow] if is_slow else [])
    for pair in PAIRS
    for mode in MODES
    for precision in PRECISIONS
    for is_slow in [
        pair in ("small", "general", "resnet") and (mode, precision) == ("regular", "bfloat16")
    ]
]
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?\S+ = (?:\(.*?\)|\S+) ([\w-]+)\(", re.M)
PRODUCT = re.compile(r"^.* = (\w+)\[\S+ (?:dot|convolution)\(.*$", re.M)
HIGHEST = "operand_precision={highest,highest}"


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Prepare TensorFlow, the kernels and the steps as on a machine with a GPU."""
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(processor, "PLAIN", True)
    device.set_arithmetic()
    tf.random.set_seed(0)  # TensorFlow draws a number to find out what it would compile for
    yield
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    tensorflow_config.disable_op_determinism()  # tf.config has no such function


@contextlib.contextmanager
def eager():
    """Run compiled functions operation by operation, which spares their compilation."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def lower(function, inputs):
    return function.experimental_get_compiler_ir(*tensors(inputs))(stage="hlo")


def find_unwanted(text):
    """Count the instructions that add in any order, or draw random numbers."""
    names = collections.Counter(INSTRUCTION.findall(text))
    assert sum(names.values()) > 3
    return {
        name: count
        for name, count in names.items()
        if "scatter" in name or name.startswith("rng") or name == "custom-call"
    } | ({"threefry": 1} if "threefry" in text.lower() else {})


def find_rounded(text):
    """List the float32 products and convolutions that need not keep float32."""
    lines = [match for match in PRODUCT.finditer(text) if match[1] == "f32"]
    return [match[0] for match in lines if HIGHEST not in match[0]]


@pytest.mark.parametrize("pair, mode, precision", CASES)
def test_what_a_gpu_would_run(as_on_a_gpu, monkeypatch, pair, mode, precision):
    """It adds in order, draws no random number, and keeps float32; so are its values a CPU's.

    That holds for both steps with the updates inside them, for the held-out distance and for
    sampling. Values are compared in float32, before XLA.
    """
    gan, critic_inputs, generator_inputs = build(pair, mode, precision, small=True)
    kept = keep_gradients(gan)
    distance_inputs, sample_inputs = other_inputs(gan, critic_inputs[:2])
    for function, inputs in (
        (gan.critic_step, critic_inputs),
        (gan.generator_step, generator_inputs),
        (gan._w_distance, distance_inputs),
        (gan._sample, sample_inputs),
    ):
        text = lower(function, inputs)
        assert PRODUCT.search(text)
        assert find_unwanted(text) == {}
        assert find_rounded(text) == []
        assert (" bf16[" in text) == (precision == "bfloat16")
    if precision == "float32":
        with eager():
            found = first_steps(gan, kept, critic_inputs, generator_inputs)
            monkeypatch.setattr(processor, "PLAIN", False)
            expected = first_steps(gan, kept, critic_inputs, generator_inputs)
        assert_same_steps(found, expected, 1e-5)


def assert_same_steps(found, expected, tolerance):
    """Compare the losses and the gradients of `first_steps`."""
    (losses, gradients), (known_losses, known_gradients) = found, expected
    assert losses.keys() == known_losses.keys()
    for name, value in known_losses.items():  # differences of means of about 1
        assert_allclose(losses[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    for gradient, known in zip(gradients, known_gradients, strict=True):
        assert difference(known, gradient) < tolerance


def test_on_a_machine_with_a_gpu_these_tests_run_on_its_cpu():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"
    assert device.count_gpus() == 0


@tf.function(autograph=False, jit_compile=True)
def unwanted(x, i):
    with tf.GradientTape() as tape:
        tape.watch(x)
        pooled = tf.nn.max_pool2d(x, 2, 2, "SAME")
    drawn = tf.random.stateless_normal([4], [1, 2])
    return tape.gradient(pooled, x), tf.math.unsorted_segment_sum(x, i, 3), drawn


def test_what_is_searched_for_would_be_found(as_on_a_gpu):
    inputs = tf.ones([4, 4, 4, 1]), tf.constant([0, 1, 0, 2])
    with pytest.raises(ValueError, match="do not yet have a deterministic XLA implementation"):
        lower(unwanted, inputs)
    tensorflow_config.disable_op_determinism()
    found = find_unwanted(lower(unwanted, inputs))
    assert {"scatter", "select-and-scatter"} <= found.keys()
    assert any(name.startswith("rng") for name in found)


@pytest.mark.parametrize("tf32", [False, True])
def test_the_switch_of_tf32_decides_on_the_precision_of_products(as_on_a_gpu, tf32):
    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    x, kernel = tf.ones([2, 4, 4, 3]), tf.ones([3, 3, 3, 5])

    @tf.function(autograph=False, jit_compile=True)
    def products(x, kernel):
        return tf.nn.conv2d(x, kernel, 1, "SAME"), tf.matmul(x, kernel[0])

    text = lower(products, (x[:, :3], kernel))
    assert len(PRODUCT.findall(text)) == 2
    assert len(find_rounded(text)) == (2 if tf32 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pair", PAIRS)
def test_xla_computes_the_same_losses_and_gradients(as_on_a_gpu, monkeypatch, pair, mode):
    gan, *inputs = build(pair, mode, "float32", small=True)
    kept = keep_gradients(gan)
    found = first_steps(gan, kept, *inputs)
    monkeypatch.setattr(processor, "PLAIN", False)
    with eager():
        expected = first_steps(gan, kept, *inputs)
    assert_same_steps(found, expected, 1e-4)  # batch norm of few pixels enlarges rounding
