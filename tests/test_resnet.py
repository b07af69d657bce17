"""The residual pair, and the flags that came with it, from latents to condition."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    FIND,
    ROOT,
    RUN,
    SMALL,
    assert_same_run,
    make_config,
    make_data,
    make_facts,
    make_gan,
    values_of,
)
from numpy.testing import assert_allclose, assert_array_equal

import config as flags
import draws
import networks
import ops
import sample
from run import description, settings
from system.errors import Refused

CIFAR = (32, 32, 3)
CONV3, CONV1 = 9 * 128 * 128 + 128, 128 * 128 + 128  # parameters of a convolution, bias included


def sizes_of(network, prefix):
    """List the sizes of what layers of that name give: [(h, w), ...]."""
    layers = [layer for layer in network.layers if layer.name.startswith(prefix)]
    return [tuple(layer.output.shape[1:3]) for layer in layers]


def test_the_generator_has_the_papers_parameters():
    """1704.00028, appendix F: a linear layer, three blocks of 128 maps, batch norm, 3x3."""
    generator = networks.build_generator("resnet", CIFAR, 128, 0, "projection")
    norm, end = 2 * 128, 9 * 128 * 3 + 3
    linear = 128 * 4 * 4 * 128 + 4 * 4 * 128
    trained = sum(np.prod(v.shape) for v in generator.trainable_variables)
    assert trained == linear + 3 * (2 * CONV3 + CONV1 + 2 * norm) + norm + end == 1_204_483
    assert sizes_of(generator, "conv")[:6] == [(8, 8)] * 2 + [(16, 16)] * 2 + [(32, 32)] * 2
    assert sizes_of(generator, "short") == [(8, 8), (16, 16), (32, 32)]


def test_the_critic_has_the_papers_parameters():
    """Two blocks that halve, the first without ReLU before it, two that do not, a linear layer."""
    critic = networks.build_critic("resnet", CIFAR, 0, "none", "projection")
    first = 9 * 3 * 128 + 128 + CONV3 + 3 * 128 + 128
    assert critic.count_params() == first + (2 * CONV3 + CONV1) + 2 * 2 * CONV3 + 129 == 1_053_825
    assert not critic.non_trainable_variables
    assert sizes_of(critic, "conv") == [(32, 32)] + [(16, 16)] * 2 + [(8, 8)] * 5
    assert sizes_of(critic, "short") == [(16, 16), (8, 8)]


@pytest.mark.parametrize(
    "size, smallest, last", [(8, 4, 4), (28, 7, 7), (32, 4, 8), (48, 6, 6), (64, 4, 8), (100, 7, 7)]
)
def test_the_number_of_blocks_follows_from_the_size(size, smallest, last):
    shape = (size, size, 3)
    generator = networks.build_generator("resnet", shape, 128, 0, "projection")
    critic = networks.build_critic("resnet", shape, 0, "none", "projection")
    assert generator.get_layer("short1").input.shape[1:3] == (smallest, smallest)
    assert sizes_of(critic, "conv")[-1] == (last, last)


def test_every_layer_starts_as_in_the_authors_program():
    """Of kernels the variance times the mean of inputs and outputs per pixel: 2 of 3x3, else 1."""
    pair = (
        networks.build_generator("resnet", CIFAR, 128, 3, "projection"),
        networks.build_critic("resnet", CIFAR, 3, "none", "projection"),
    )
    for network in pair:
        for variable in network.trainable_variables:
            layer, kind = variable.path.split("/")
            value = variable.numpy()
            if layer.endswith("_gamma") or kind == "gamma":
                assert np.all(value == 1), variable.path
            elif layer.endswith("_beta") or kind in ("beta", "bias"):
                assert np.all(value == 0), variable.path
            else:
                fans = np.prod(value.shape[:-2]) * sum(value.shape[-2:]) / 2
                last = layer == "conv4" and network.name == "generator"
                expected = 2 if value.shape[:2] == (3, 3) and not last else 1
                spread = 0.02 + 2 / np.sqrt(value.size)  # of small kernels by chance
                assert_allclose(np.var(value) * fans, expected, rtol=spread, err_msg=variable.path)
                assert np.max(np.abs(value)) <= np.sqrt(3 * expected / fans)  # it is uniform


# The pair once more, from the authors' program, out of TensorFlow's plain functions. Other images
# than those that halve without rest are covered: an odd one has a row of zeros where it is halved.


def plain_conv(x, of, name):
    kernel = of[f"{name}/kernel"]
    return tf.nn.conv2d(x, kernel, 1, "SAME") + of[f"{name}/bias"]


def plain_conv_mean_pool(x, of, name):
    x = tf.pad(x, [[0, 0], [0, x.shape[1] % 2], [0, x.shape[2] % 2], [0, 0]])
    return tf.nn.avg_pool2d(plain_conv(x, of, name), 2, 2, "VALID")


def plain_upsample_conv(x, of, name, size):
    x = tf.repeat(tf.repeat(x, 2, 1), 2, 2)
    kernel = tf.transpose(of[f"{name}/kernel"][::-1, ::-1], [0, 1, 3, 2])
    x = tf.nn.conv2d(x, kernel, 1, "SAME") + of[f"{name}/bias"]
    return x[:, : size[0], : size[1]]


def plain_batch_norm(x, of, name, y=None):
    mean, variance = tf.nn.moments(x, [0, 1, 2])
    x = (x - mean) / tf.sqrt(variance + ops.NORM_EPSILON)
    if y is None:
        return x * of[f"{name}/gamma"] + of[f"{name}/beta"]
    scale, offset = (y @ of[f"{name}_{part}/kernel"] for part in ("gamma", "beta"))
    return x * scale[:, None, None] + offset[:, None, None]


def plain_generator(z, y, of, sizes):
    x = tf.reshape(z @ of["linear1/kernel"] + of["linear1/bias"], [-1, *sizes[0], 128])
    for i, size in enumerate(sizes[1:], 1):
        short = plain_upsample_conv(x, of, f"short{i}", size)
        x = tf.nn.relu(plain_batch_norm(x, of, f"norm{i}a", y))
        x = plain_upsample_conv(x, of, f"conv{i}a", size)
        x = tf.nn.relu(plain_batch_norm(x, of, f"norm{i}b", y))
        x = plain_conv(x, of, f"conv{i}b") + short
    x = tf.nn.relu(plain_batch_norm(x, of, f"norm{len(sizes)}"))
    return tf.tanh(plain_conv(x, of, f"conv{len(sizes)}"))


def plain_critic(x, y, of):
    short = plain_conv_mean_pool(x, of, "short1")
    x = short + plain_conv_mean_pool(tf.nn.relu(plain_conv(x, of, "conv1a")), of, "conv1b")
    short = plain_conv_mean_pool(x, of, "short2")
    x = tf.nn.relu(plain_conv(tf.nn.relu(x), of, "conv2a"))
    x = short + plain_conv_mean_pool(x, of, "conv2b")
    for i in (3, 4):
        inner = tf.nn.relu(plain_conv(tf.nn.relu(x), of, f"conv{i}a"))
        x += plain_conv(inner, of, f"conv{i}b")
    x = tf.reduce_mean(tf.nn.relu(x), [1, 2])
    scores = x @ of["linear1/kernel"] + of["linear1/bias"]
    vectors = y @ of["projection/kernel"]
    return scores + tf.reduce_sum(vectors * x, 1, keepdims=True)


def shaken(network):
    """Move every weight, so that biases, scales and offsets count; returns them by name."""
    for i, v in enumerate(network.trainable_variables):
        v.assign(v.value + 0.05 * tf.random.stateless_normal(v.shape, [i, 5]))
    return {v.path: v.value for v in network.trainable_variables}


def test_the_generator_is_the_authors():
    generator = networks.build_generator("resnet", (20, 17, 3), 16, 3, "projection")
    of, y = shaken(generator), tf.one_hot([2, 0, 2], 3)
    z = tf.random.stateless_normal([3, 16], [1, 2])
    expected = plain_generator(z, y, of, [(5, 5), (10, 9), (20, 17)])
    assert_allclose(generator([z, y], training=True), expected, atol=1e-4)


def test_the_critic_and_its_penalty_are_the_authors():
    critic = networks.build_critic("resnet", (20, 17, 3), 3, "none", "projection")
    of, y = shaken(critic), tf.one_hot([2, 0, 2], 3)
    images = tf.random.stateless_uniform([3, 20, 17, 3], [1, 2], -1.0, 1.0)
    expected = plain_critic(images, y, of)
    assert_allclose(critic([images, y]), expected, atol=1e-5 * np.max(np.abs(expected)))

    def penalty(scores_of):
        return ops.gradient_penalty(ops.slopes(scores_of, images), 10.0)

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(of)
        ours = penalty(lambda x: critic.stateless_call(list(of.values()), [], [x, y])[0])
        theirs = penalty(lambda x: plain_critic(x, y, of))
    zero = tf.UnconnectedGradients.ZERO
    found, wanted = (tape.gradient(p, of, unconnected_gradients=zero) for p in (ours, theirs))
    for name, gradient in wanted.items():
        atol = 1e-5 * max(1, np.max(np.abs(gradient)))
        assert_allclose(found[name], gradient, atol=atol, err_msg=name)


def test_auto_means_the_papers_latents_and_labels():
    labelled = make_facts(classes=3)
    resnet, dcgan = (make_config(labelled, arch=arch) for arch in ("resnet", "dcgan"))
    assert (resnet.z_dim, resnet.latents, resnet.condition) == (128, "normal", "projection")
    assert (dcgan.z_dim, dcgan.latents, dcgan.condition) == (100, "uniform", "concat")
    assert make_config(arch="resnet").condition is None
    assert make_config(arch="resnet", mode="regular").critic_norm == "batch"
    assert make_config(arch="resnet").critic_norm == "none"


@pytest.mark.parametrize(
    "words",
    [
        "--arch resnet --condition concat",
        "--arch symmetric --conditional True --condition projection",
    ],
)
def test_conditions_that_networks_do_not_have_are_refused(words):
    with pytest.raises(Refused, match=r"--condition .*leave it at auto"):
        settings.resolve(flags.parse(words.split()), make_facts((28, 28, 1), 10))


# Classes.


def test_a_batch_norm_per_class_scales_and_shifts_each_image_by_its_class():
    x, y = tf.keras.Input((4, 5, 2)), tf.keras.Input((3,))
    network = tf.keras.Model([x, y], ops.batch_norm(x, "norm", y))
    scale, offset = (network.get_layer(f"norm_{name}").kernel for name in ("gamma", "beta"))
    scale.assign([[1, 2], [3, 4], [5, 6]])
    offset.assign([[10, 20], [30, 40], [50, 60]])
    images, classes = tf.random.stateless_normal([6, 4, 5, 2], [1, 2]), [0, 1, 2, 2, 1, 0]
    plain = (images - tf.reduce_mean(images, [0, 1, 2])) / tf.math.reduce_std(images, [0, 1, 2])
    gamma, beta = (tf.gather(v.value, classes)[:, None, None] for v in (scale, offset))
    found = network([images, tf.one_hot(classes, 3)], training=True)
    assert_allclose(found, plain * gamma + beta, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ["resnet", "dcgan"])
def test_a_projection_adds_the_product_of_class_and_features(arch):
    critic = networks.build_critic(arch, (8, 8, 3), 3, "none", "projection")
    images = tf.random.stateless_normal([3, 8, 8, 3], [1, 2])
    scores = critic([images, tf.eye(3)])
    vectors = critic.get_layer("projection").kernel
    (dot,) = [layer for layer in critic.layers if isinstance(layer, tf.keras.layers.Dot)]
    features = tf.keras.Model(critic.inputs, dot.input[0])([images, tf.eye(3)])
    product = tf.reduce_sum(features * vectors, 1, keepdims=True)
    assert np.max(np.abs(product)) > 1e-4
    vectors.assign(tf.zeros_like(vectors))
    assert_allclose(scores - critic([images, tf.eye(3)]), product, rtol=1e-3, atol=1e-6)


def test_in_bfloat16_it_computes_what_it_does_in_float32_to_its_precision():
    data = make_data((8, 8, 3), classes=3)
    measured = []
    for precision in ("float32", "bfloat16"):
        gan = make_gan(data, arch="resnet", precision=precision)
        kinds = {layer.compute_dtype for layer in gan.critic.layers if layer.weights}
        assert kinds == {"float32", precision}  # the scores are float32
        measured.append(gan.critic_step(*gan.inputs.critic(data, 0)))
    for name, value in measured[0].items():
        assert_allclose(measured[1][name], value, rtol=0.03, atol=0.03, err_msg=name)


# Latents.


def test_normal_latents_are_normal():
    z = draws.fixed_latents(0, 2000, 50, "normal")
    assert z.dtype == np.float32 and abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert np.abs(z).max() > 3.5


def test_every_draw_of_a_run_is_of_its_kind(here, image_folder, monkeypatch):
    kinds, latents = set(), draws.latents

    def recorded(rng, count, z_dim, distribution):
        kinds.add(distribution)
        return latents(rng, count, z_dim, distribution)

    monkeypatch.setattr(draws, "latents", recorded)
    image_folder()
    assert here(f"--train {SMALL} --latents normal --max_iterations 20")[0] == 0
    for words in ("--visualize True", "--generate 3", "--export savedmodel"):
        assert here(f"{FIND} {words}")[0] == 0
    assert kinds == {"normal"}


def test_normal_latents_are_mixed_along_a_great_circle():
    start, end = draws.row_latents(0, 2, 400, "normal")[:, 0]
    way = sample.mix(start, end, 9, "normal")
    assert_allclose(way[[0, -1]], [start, end], atol=1e-5)
    lengths = np.linalg.norm(way, axis=1)
    assert min(lengths) > 0.97 * min(lengths[0], lengths[-1])
    straight = sample.mix(start, end, 9, "uniform")
    assert np.linalg.norm(straight[4]) < 0.8 * lengths[4]
    assert_allclose(sample.mix(start, 2 * start, 3, "normal")[1], 1.5 * start, rtol=1e-6)


def test_the_squares_of_normal_latents_keep_their_length():
    calls = []

    class Recorder:
        config, classes = make_config(latents="normal"), 0

        def sample(self, z, labels):
            calls.append(z)

    corners = draws.corner_latents(0, 1, 400, "normal")
    list(sample.squares(Recorder(), corners, 5))
    (z,) = calls
    assert_allclose(z[[0, 4, 20, 24]], corners[0], atol=1e-5)
    lengths = np.linalg.norm(z, axis=1)
    assert min(lengths) > 0.95 * min(lengths[[0, 4, 20, 24]])  # straight, the middle has half


def test_sweeps_of_normal_latents_go_from_minus_2_to_2(tmp_path):
    calls = []

    class Recorder:
        config = make_config(latents="normal")

        def sample(self, z, labels):
            calls.append(z)
            return np.zeros((len(z), 4, 4, 1), np.uint8)

    sample.sweep(Recorder(), np.zeros((10, 1), np.float32), None, tmp_path)
    assert_array_equal(calls[0][:10, 0], np.linspace(-2, 2, 10, dtype=np.float32))


# Step size and the generator's batch.


def test_the_step_size_falls_linearly_to_0_at_the_iteration_asked_for():
    data = make_data()
    gan = make_gan(data, decay_iterations=4, critic_boost=3, learning_rate=0.1)
    rates = []
    for i in range(1, 5):
        gan.train_iteration(data, i)
        both = gan.critic_optimizer, gan.generator_optimizer
        rates.append([float(optimizer.learning_rate) for optimizer in both])
    assert_allclose(rates, [[0.1] * 2, [0.075] * 2, [0.05] * 2, [0.025] * 2], rtol=1e-6)


def test_beyond_the_decay_the_step_size_is_0_not_below():
    """Where --dry_run times iterations."""
    data = make_data()
    gan = make_gan(data, decay_iterations=4)
    gan.train_iteration(data, 7)
    assert gan.critic_optimizer.learning_rate == gan.generator_optimizer.learning_rate == 0


def test_without_decay_the_step_size_stays():
    data = make_data()
    gan = make_gan(data)
    for i in (1, 2):
        gan.train_iteration(data, i)
    assert_allclose(float(gan.critic_optimizer.learning_rate), 2e-4, rtol=1e-6)


@pytest.mark.usefixtures("with_xla")
def test_an_update_goes_as_far_as_its_step_size_says():
    """In the second iteration of two, with SGD, half as far as without decay.

    A weight's move is a difference of two rounded numbers, so all weights are compared as one
    vector. The critic has moved half as far, too, so the directions differ a little.
    """
    data, moves = make_data(), []
    for decay in (None, 2):
        gan = make_gan(data, optimizer="sgd", learning_rate=1e-4, decay_iterations=decay)
        before = values_of(gan.generator)
        gan.train_iteration(data, 2)
        after = values_of(gan.generator)
        moves.append(np.concatenate([(b - a).ravel() for a, b in zip(before, after, strict=True)]))
    whole, half = moves
    assert np.linalg.norm(whole - 2 * half) < 0.1 * np.linalg.norm(whole)


def test_a_run_does_not_go_on_beyond_the_end_of_its_decay(here, image_folder):
    image_folder()
    code, _, errors = here(f"--train {SMALL} --decay_iterations 30 --max_iterations 31")
    assert code == 2 and errors.count("\n") == 1
    assert "--decay_iterations 30: the run ends at iteration 31" in errors
    assert not Path(RUN).exists()


def test_the_generators_batch_is_a_multiple():
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True, generator_batch=3)
    z, labels, images = gan.inputs.generator(data, 1)
    assert z.shape == (24, 10) and labels.shape == (24,) and images is None
    assert len(gan.inputs.critic(data, 0)[0]) == 8
    assert np.isfinite(float(gan.train_iteration(data, 1)["g_loss"]))


FLAGS = "--decay_iterations 60 --generator_batch 2 --latents normal"


@pytest.mark.usefixtures("with_xla")
def test_a_run_with_all_of_these_goes_on_with_the_same_bits(here, image_folder):
    image_folder()
    for folder, ends in (("one", [40]), ("two", [25, 40])):
        for end in ends:
            places = f"--checkpoint_dir {folder} --sample_dir {folder}/samples"
            assert here(f"--train {SMALL} {FLAGS} {places} --max_iterations {end}")[0] == 0
    for path in Path("two/photos_8_8_8").glob("ckpt-25.*"):  # of the end in between
        path.unlink()
    name = "photos_8_8_8"
    assert_same_run(
        *(Path(folder, name) for folder in ("one", "two")),
        *(Path(folder, "samples") for folder in ("one", "two")),
    )


def test_a_run_from_before_these_flags_means_what_it_did(here, image_folder):
    image_folder()
    here(f"--train {SMALL} --max_iterations 20")
    path = Path(RUN, "config.json")
    content = json.loads(path.read_text())
    newer = ("latents", "decay_iterations", "generator_batch", "condition")
    assert [content["settings"].pop(name) for name in newer] == ["uniform", None, 1, None]
    path.write_text(json.dumps(content))
    config, _, _ = description.read_config(path)
    assert [getattr(config, name) for name in newer] == ["uniform", None, 1, None]
    assert here(f"--train {SMALL} --max_iterations 21")[0] == 0
    code, _, errors = here(f"--train {SMALL} --latents normal --max_iterations 22")
    assert code == 2 and "latents is uniform in the run and normal here" in errors


@pytest.mark.slow
def test_the_papers_setting_trains_on_class_folders(here, image_folder):
    """The command of docs/cifar10.md, word for word, but for its end."""
    page = (ROOT / "docs/cifar10.md").read_text()
    words = re.search(r"python main\.py (.*--arch resnet.*)", page)
    image_folder("cifar10", count=200, size=(32, 32), classes=10)
    code, screen, errors = here(f"{words[1]} --max_iterations 1")
    assert (code, errors) == (0, "") and "Done: 1 iterations" in screen
    config, facts, _ = description.read_config(Path("checkpoint/cifar10_64_32_32/config.json"))
    assert (config.condition, config.generator_batch, config.beta1) == ("projection", 2, 0)
    assert len(facts.class_names) == 10
