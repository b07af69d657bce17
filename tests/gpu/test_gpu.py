"""What only a GPU can show: `python -m pytest -m gpu`, the likeliest failures first.

The first fifteen minutes tell most. Send the whole output of `python -m pytest -m gpu -vv`.
"""

import os
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, assert_same_run, log_rows, make_data, run_to_end, write_images
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
)

import export
import networks
import ops
from model import WGAN
from run import weights
from scores import feature_networks
from system import device

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.usefixtures("with_xla"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not device.has_gpu(), reason="TensorFlow sees no GPU, or -m is not exactly gpu"
    ),
]
ALL = [(pair, mode, kind) for kind in PRECISIONS for mode in MODES for pair in PAIRS]
FIRST = [*ALL[:5], ("small", "gp", "bfloat16"), ("small", "regular", "float32")]
RUN = "checkpoint/mnist_64_28_28"
CARD = "GPU:0"


# 1. Does the card compute what is asked for?


def product_error(dtype="float32"):
    """Return the error of a product of normal matrices as a share of the product's norm."""
    a, b = (np.random.default_rng(k).standard_normal((256, 256), np.float32) for k in (0, 1))
    product = tf.function(tf.matmul, jit_compile=True)(tf.cast(a, dtype), tf.cast(b, dtype))
    return difference(a.astype(np.float64) @ b, tf.cast(product, "float32").numpy())


def test_tf32_is_off_unless_it_is_asked_for():
    assert product_error() < 1e-6
    assert product_error("bfloat16") > 1e-4  # so small an error is no accident
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        rounded = product_error()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)
    gpu = tf.config.list_physical_devices("GPU")[0]
    capability = tf.config.experimental.get_device_details(gpu)["compute_capability"]
    assert (rounded > 1e-5) == (capability >= (8, 0))


def check_pair(pair, mode, precision):
    """Do both steps at full width; in float32 their first losses and gradients are the CPU's."""
    gan, *inputs = build(pair, mode, precision)
    with tf.device("CPU:0"):
        other, *_ = build(pair, mode, "float32")
        for name in ("critic", "generator"):
            variables = (getattr(each, name).variables for each in (gan, other))
            for ours, theirs in zip(*variables, strict=True):
                theirs.assign(ours.numpy())
        tf.config.run_functions_eagerly(True)
        try:
            expected, known = first_steps(other, keep_gradients(other), *inputs)
        finally:
            tf.config.run_functions_eagerly(False)
    losses, gradients = first_steps(gan, keep_gradients(gan), *inputs)
    near = {"rtol": 1e-4, "atol": 1e-5} if precision == "float32" else {"rtol": 0.1, "atol": 0.05}
    for name, value in expected.items():
        assert_allclose(losses[name], value, **near, err_msg=name)
    for found, exact in zip(gradients, known, strict=True):
        assert difference(exact, found) < (1e-4 if precision == "float32" else 0.5)
    distance_inputs, (z, labels, _) = other_inputs(gan, inputs[0][:2])
    assert np.isfinite(gan._w_distance(*distance_inputs))
    pictures = gan.sample(z, labels)
    assert pictures.shape == (100, *gan.shape) and pictures.std() > 0


@pytest.mark.parametrize("pair, mode, precision", FIRST)
def test_a_pair_compiles_runs_and_agrees_with_the_cpu(pair, mode, precision):
    check_pair(pair, mode, precision)


# 2. Do equal runs leave the same bits?


def train(folder, words, environment=(), code=0):
    """Run `main.py --train` in a folder, and return what it printed."""
    flags = f"--data_dir {ROOT}/data --cache_dir {folder}/cache --train --log_every 10 {words}"
    done = run_to_end(
        [sys.executable, ROOT / "main.py", *flags.split()],
        cwd=folder,
        env=os.environ | dict(environment),
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def folders_of(place, *names):
    """Make folders below a place and return them."""
    for name in names:
        (place / name).mkdir()
    return [place / name for name in names]


def assert_same_start(one, other, run=RUN):
    """Assert that the runs in two folders left the same bits."""
    assert_same_run(one / run, other / run, one / "samples", other / "samples")


def test_two_processes_leave_the_same_bits_also_after_a_stop(tmp_path):
    one, other, stopped = folders_of(tmp_path, "one", "other", "stopped")
    words = "--max_iterations 50 --save_every 25 --sample_every 25"
    for folder in (one, other):
        assert "Device: " in train(folder, words)
    assert_same_start(one, other)
    train(stopped, words.replace("50", "25"))
    assert "Going on from iteration 25" in train(stopped, words)
    assert_same_start(one, stopped)


# 3. Do long runs last, and are the numbers right?


def test_memory_does_not_grow_in_2000_iterations():
    data = make_data((28, 28, 1), 10, images=1000)
    gan, *_ = build("small", "gp", "float32")
    used = []
    for i in range(1, 2201):
        measured = gan.train_iteration(data, i)
        if i in (200, 2200):
            assert np.isfinite(measured["g_loss"])  # which waits for the card
            used.append(tf.config.experimental.get_memory_info(CARD)["current"])
    assert used[1] - used[0] < 2**20


def penalty_in_float64(gan, images, labels, drawn):
    """Compute the penalty of a critic step on the CPU, with a copy of its networks in float64."""
    config, shape = gan.config, gan.shape
    sizes = config.arch, shape, config.z_dim, gan.classes, config.condition
    with tf.device("CPU:0"):
        generator = networks.build_generator(*sizes)
        norm = config.critic_norm
        critic = networks.build_critic(config.arch, shape, gan.classes, norm, config.condition)
        for exact, network in ((generator, gan.generator), (critic, gan.critic)):
            for copy, variable in zip(exact.variables, network.variables, strict=True):
                copy.assign(variable.numpy())
        y = None if labels is None else tf.one_hot(labels, gan.classes, dtype=tf.float64)
        real = tf.cast(ops.to_network(images), tf.float64)
        z = tf.cast(drawn.z, tf.float64)
        fake = generator(z if y is None else [z, y], training=True)
        x = ops.interpolate(real, tf.cast(fake, tf.float64), tf.cast(drawn.alpha, tf.float64))
        slopes = ops.slopes(lambda x: critic(x if y is None else [x, y], training=True), x)
        return float(ops.gradient_penalty(slopes, config.LAMBDA))


@pytest.mark.parametrize("pair", PAIRS)
def test_the_penalty_is_that_of_float64(pair, request):
    gan, inputs, _ = build(pair, "gp", "float32")
    before = [variable.numpy() for variable in gan.critic.variables]
    found = float(gan.critic_step(*inputs)["penalty"])  # from before the update
    for variable, value in zip(gan.critic.variables, before, strict=True):
        variable.assign(value)
    request.getfixturevalue("float64")
    assert_allclose(found, penalty_in_float64(gan, *inputs), rtol=1e-5)


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_the_classifier_of_the_scores_is_the_same_twice(monkeypatch, shape):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 200, 3: 200})
    data = make_data(shape, 10, images=1000)
    digests = set()
    for _ in range(2):
        network = feature_networks.train_classifier(data.images, data.labels, 10)
        digests.add(weights.digest(network.weights))
    assert len(digests) == 1


# 4. Do runs pass between devices and to other programs?

ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}


def test_a_checkpoint_goes_to_a_cpu_and_back(tmp_path, monkeypatch):
    train(tmp_path, "--max_iterations 20")
    screen = train(tmp_path, "--max_iterations 30", ON_CPU)
    assert "Going on from iteration 20" in screen and "with other last bits" in screen
    screen = train(tmp_path, "--max_iterations 40")
    assert "Going on from iteration 30" in screen and "with other last bits" in screen
    rows = log_rows(tmp_path / RUN)
    assert [row["iteration"] for row in rows] == [10, 20, 30, 40]
    monkeypatch.chdir(tmp_path)
    pictures = WGAN.load(tmp_path / RUN).draw(20)
    with tf.device("CPU:0"):
        others = WGAN.load(tmp_path / RUN)
        tf.config.run_functions_eagerly(True)
        others = others.draw(20)
        tf.config.run_functions_eagerly(False)
    assert np.abs(pictures.astype(int) - others).max() <= 1


@pytest.mark.parametrize("kind", export.NAMES)
def test_an_export_from_a_gpu_makes_the_runs_pictures(tmp_path, kind):
    """main.py itself compares them, and ends with an error where they differ."""
    train(tmp_path, "--max_iterations 20")
    words = [sys.executable, ROOT / "main.py", "--export", kind]
    done = run_to_end(words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / RUN / "export" / export.NAMES[kind]).exists()


def check_mirrored(place, cards):
    """Train with --distribute mirrored on so many cards; it repeats, and is the run of one card."""
    one, other, alone = folders_of(place, "one", "other", "alone")
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(cards)))}
    for folder in (one, other):
        train(folder, "--max_iterations 10 --distribute mirrored", visible)
    assert_same_start(one, other)
    train(alone, "--max_iterations 10")
    (row,), (expected,) = log_rows(one / RUN), log_rows(alone / RUN)
    assert_allclose(row["w_distance"], expected["w_distance"], rtol=0.05)


def test_mirrored_on_one_card_repeats(tmp_path):
    check_mirrored(tmp_path, 1)


@pytest.mark.skipif(device.count_gpus() < 2, reason="there is one GPU")
def test_mirrored_on_two_cards_repeats(tmp_path):
    check_mirrored(tmp_path, 2)


# 5. What is left.


@pytest.mark.parametrize("pair, mode, precision", [case for case in ALL if case not in FIRST])
def test_each_other_pair_compiles_runs_and_agrees_with_the_cpu(pair, mode, precision):
    check_pair(pair, mode, precision)


@pytest.mark.parametrize(
    "words",
    ["--mode regular", "--precision bfloat16", "--arch symmetric", "--dataset 8gaussians"],
)
def test_other_runs_leave_the_same_bits_twice(tmp_path, words):
    one, other = folders_of(tmp_path, "one", "other")
    for folder in (one, other):
        train(folder, f"{words} --max_iterations 50")
    run = "checkpoint/8gaussians_256_gp" if "gaussians" in words else RUN
    assert_same_start(one, other, run)


@pytest.mark.parametrize("arch", ["dcgan", "resnet"])
def test_runs_of_colour_images_leave_the_same_bits_twice(tmp_path, arch):
    one, other = folders_of(tmp_path, "one", "other")
    for folder in (one, other):
        data = write_images(folder, count=200, size=(32, 32))
        words = f"--dataset photos --output_height 32 --arch {arch} --max_iterations 50"
        train(folder, f"{words} --data_dir {data}")
    assert_same_start(one, other, "checkpoint/photos_64_32_32")
