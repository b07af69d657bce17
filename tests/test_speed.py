"""What would make it slow, counted instead of timed; and what a GPU would do, on a CPU."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import SMALL, make_data, make_gan
from numpy.testing import assert_allclose, assert_array_equal
from tensorflow.python.framework.ops import _EagerTensorBase

import draws
import model
from benchmarks import steps
from kernels import processor
from run import log
from system import device

FLOPS = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
QUIET = tf.compat.v1.profiler.ProfileOptionBuilder(FLOPS).with_empty_output().build()
# The pairs of networks, with the operations per iteration of batch 64 in 1e9 that an independent
# count found, activations and updates included, but not what labels add; of resnet by hand, without
# activations and updates.
PAIRS = [
    ("dcgan", (28, 28, 1), 10, "none", 61.1),
    ("dcgan", (28, 28, 1), 10, "layer", 67.2),
    ("symmetric", (28, 28, 1), 0, "none", 35.3),
    ("dcgan", (48, 48, 3), 0, "none", 712),
    ("resnet", (32, 32, 3), 0, "none", 1390),
]


@pytest.mark.parametrize("arch, shape, classes, norm, gflop", PAIRS)
def test_the_steps_do_little_more_than_the_needed_work(arch, shape, classes, norm, gflop):
    data = make_data(shape, classes=classes, images=80)
    conditional = classes > 0
    gan = make_gan(data, arch=arch, batch_size=64, conditional=conditional, critic_norm=norm)
    needed = steps.needed_flops(gan)
    assert_allclose((5 * needed[0] + needed[1]) / 1e9, gflop, rtol=0.04)
    z, labels = draws.generator_draws(0, 1, 64, gan.config.z_dim, "uniform", gan.label_counts)
    done_by = [
        (gan.critic_step, gan.inputs.critic(data, 0), 1.15),
        (
            gan.generator_step,
            (z, labels, None, np.float32(0.9)),
            1.25,
        ),  # counts what nobody fetches, too
    ]
    for (step, inputs, most), least in zip(done_by, needed, strict=True):
        tensors = tf.nest.map_structure(
            lambda x: None if x is None else tf.convert_to_tensor(x), inputs
        )
        graph = step.get_concrete_function(*tensors).graph
        done = tf.compat.v1.profiler.profile(graph, cmd="op", options=QUIET).total_float_ops
        assert least <= done <= most * least


def test_a_larger_generator_batch_is_more_needed_work():
    data = make_data()
    plain, twice = (make_gan(data, generator_batch=times) for times in (1, 2))
    critic, generator = steps.needed_flops(plain)
    assert steps.needed_flops(twice) == [critic, 2 * generator]


def test_nothing_waits_for_the_device_but_the_log(here, image_folder, monkeypatch):
    """Numbers are asked of the device for rows and checkpoints, never in between."""
    image_folder()
    waits, states = [], []

    def counted(whole, seen):
        def call(*arguments, **options):
            seen.append(len(states))
            return whole(*arguments, **options)

        return call

    step = model.WGAN.train_iteration
    monkeypatch.setattr(model.WGAN, "train_iteration", counted(step, states))
    for name in ("numpy", "__array__", "__float__", "__int__", "__bool__", "__index__"):
        whole = getattr(_EagerTensorBase, name)
        monkeypatch.setattr(_EagerTensorBase, name, counted(whole, waits))
    code, _, errors = here(f"--train {SMALL} --max_iterations 20")
    assert (code, errors) == (0, "")
    assert set(waits) - {0} == {10, 20}  # before the first iteration nothing is under way
    assert waits.count(10) <= 3 * len(log.MEASURED)


@pytest.mark.usefixtures("with_xla")
def test_what_a_gpu_would_run_trains_the_same(monkeypatch):
    data = make_data((16, 16, 3), classes=3)
    results = []
    for gpu in (False, True):
        monkeypatch.setattr(device, "has_gpu", lambda gpu=gpu: gpu)
        monkeypatch.setattr(processor, "PLAIN", gpu)
        gan = make_gan(data, conditional=True, optimizer="sgd", learning_rate=0.01)
        measured = [gan.train_iteration(data, i) for i in (1, 2)]
        results.append(
            [
                measured,
                gan.sample(
                    draws.fixed_latents(0, 5, gan.config.z_dim, "uniform"), np.arange(5) % 3
                ),
            ]
        )
    (fast, pictures), (plain, others) = results
    for one, other in zip(fast, plain, strict=True):
        for name, value in one.items():
            assert_allclose(other[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert_allclose(pictures, others, atol=1)
    assert_array_equal(pictures.shape, (5, 16, 16, 3))
