"""The networks have the layers and shapes of the two programs that this one succeeds."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import copy_shipped
from numpy.testing import assert_allclose

import draws
import model
import networks
import pairs


def kernels(network):
    return {v.path: tuple(v.shape) for v in network.variables if v.path.endswith("kernel")}


def test_the_small_pair_on_mnist_has_the_first_programs_layers():
    generator = networks.build_generator("dcgan", (28, 28, 1), 100, 10)
    critic = networks.build_critic("dcgan", (28, 28, 1), 10, "batch")
    assert kernels(generator) == {
        "linear1/kernel": (110, 1024),
        "linear2/kernel": (1034, 6272),
        "deconv1/kernel": (5, 5, 128, 138),
        "deconv2/kernel": (5, 5, 1, 138),
    }
    assert kernels(critic) == {
        "conv1/kernel": (5, 5, 11, 11),
        "conv2/kernel": (5, 5, 21, 74),
        "linear1/kernel": (7 * 7 * 74 + 10, 1024),
        "linear2/kernel": (1034, 1),
    }
    assert generator.get_layer("norm2").gamma.shape == (6272,)
    assert {layer.name for layer in critic.layers if "norm" in layer.name} == {"norm2", "norm3"}


def test_without_labels_y_falls_away():
    generator = networks.build_generator("dcgan", (28, 28, 1), 100, 0)
    critic = networks.build_critic("dcgan", (28, 28, 1), 0, "none")
    assert kernels(generator)["deconv2/kernel"] == (5, 5, 1, 128)
    assert kernels(critic)["conv1/kernel"] == (5, 5, 1, 1)
    assert kernels(critic)["linear1/kernel"] == (7 * 7 * 64, 1024)


def test_the_general_pair_has_the_first_programs_layers():
    generator = networks.build_generator("dcgan", (48, 48, 3), 100, 0)
    critic = networks.build_critic("dcgan", (48, 48, 3), 0, "layer")
    assert kernels(generator) == {
        "linear1/kernel": (100, 3 * 3 * 512),
        "deconv1/kernel": (5, 5, 256, 512),
        "deconv2/kernel": (5, 5, 128, 256),
        "deconv3/kernel": (5, 5, 64, 128),
        "deconv4/kernel": (5, 5, 3, 64),
    }
    assert kernels(critic) == {
        "conv1/kernel": (5, 5, 3, 64),
        "conv2/kernel": (5, 5, 64, 128),
        "conv3/kernel": (5, 5, 128, 256),
        "conv4/kernel": (5, 5, 256, 512),
        "linear1/kernel": (4608, 1),
    }
    assert critic.get_layer("norm4").gamma.shape == (512,)


def test_labels_enter_every_layer_of_the_general_generator_and_all_of_the_critic():
    generator = networks.build_generator("dcgan", (32, 32, 3), 100, 10)
    critic = networks.build_critic("dcgan", (32, 32, 3), 10, "none")
    assert [shape[-1] for path, shape in kernels(generator).items() if "deconv" in path] == [
        *(522, 266, 138, 74)
    ]
    assert [shape[2] for path, shape in kernels(critic).items() if "conv" in path] == [
        *(13, 74, 138, 266)
    ]
    assert kernels(critic)["linear1/kernel"] == (2 * 2 * 512 + 10, 1)


def test_the_symmetric_pair_has_the_second_programs_layers():
    generator = networks.build_generator("symmetric", (28, 28, 1), 10, 0)
    critic = networks.build_critic("symmetric", (28, 28, 1), 0, "none")
    assert kernels(generator) == {
        "linear1/kernel": (10, 14 * 14 * 8),
        "deconv1/kernel": (3, 3, 32, 8),
        "deconv2/kernel": (3, 3, 64, 32),
        "deconv3/kernel": (3, 3, 1, 64),
    }
    assert kernels(critic) == {
        "conv1/kernel": (3, 3, 1, 64),
        "conv2/kernel": (3, 3, 64, 32),
        "conv3/kernel": (3, 3, 32, 8),
        "linear1/kernel": (14 * 14 * 8, 1),
    }


@pytest.mark.parametrize(
    "shape, stages", [((28, 28, 1), 1), ((55, 20, 1), 1), ((56, 56, 3), 2), ((112, 9, 3), 3)]
)
def test_symmetric_networks_grow_a_stage_with_each_doubling(shape, stages):
    critic = networks.build_critic("symmetric", shape, 0, "none")
    convolutions = [layer for layer in critic.layers if "conv" in layer.name]
    assert sum(layer.stride == 2 for layer in convolutions) == stages


@pytest.mark.parametrize("arch", [arch for arch in pairs.ARCHS if arch != "points"])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize(
    "shape",
    [(28, 28, 1), (32, 17, 1), (4, 4, 1), (33, 33, 1), (48, 48, 3), (100, 60, 3), (9, 5, 3)],
)
def test_any_image_size_works(arch, classes, shape):
    conditions = pairs.find_pair(arch, shape).conditions
    classes, condition = (classes, conditions[0]) if conditions else (0, None)
    generator = networks.build_generator(arch, shape, 7, classes, condition)
    critic = networks.build_critic(arch, shape, classes, "layer", condition)
    assert generator.output_shape == (None, *shape)
    assert critic.output_shape == (None, 1)
    z, y = tf.zeros([2, 7]), tf.eye(2, classes)
    images = generator([z, y] if classes else z)
    assert np.min(images) >= -1 and np.max(images) <= 1
    assert critic([images, y] if classes else images).shape == (2, 1)


def test_initial_weights_have_the_fields_spread():
    generator = networks.build_generator("dcgan", (28, 28, 1), 100, 10)
    critic = networks.build_critic("dcgan", (28, 28, 1), 10, "none")
    symmetric = networks.build_generator("symmetric", (28, 28, 1), 10, 0)
    deconv = generator.get_layer("deconv1").kernel.numpy()
    assert_allclose(np.std(deconv), 0.02, rtol=0.02)
    assert np.max(np.abs(deconv)) > 0.05
    conv = critic.get_layer("conv2").kernel.numpy()
    assert np.max(np.abs(conv)) <= 0.04  # truncated at two standard deviations
    he = symmetric.get_layer("deconv2").kernel.numpy()
    assert_allclose(np.std(he), np.sqrt(2 / (3 * 3 * 64)), rtol=0.03)  # fan-in on the output side
    for network in (generator, critic, symmetric):
        for variable in network.variables:
            if variable.path.endswith("bias"):
                assert not np.any(variable.numpy())


# Weights of the first version, in whose networks labels were constant feature maps.


def draw_as_first_version(weights, z, y):
    """Compute the small generator of MNIST on latents [B, 100] and labels [B, 10]."""

    def with_labels(x):
        maps = tf.reshape(y, [len(y), *[1] * (len(x.shape) - 2), 10])
        return tf.concat([x, tf.broadcast_to(maps, [*x.shape[:-1], 10])], -1)

    def normalised(x, name):
        gamma, beta, mean, variance = (
            weights[f"{name}/{what}"]
            for what in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return tf.nn.relu((x - mean) / np.sqrt(variance + 1e-5) * gamma + beta)

    def linear(x, name):
        return with_labels(x) @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def deconv(x, name):
        kernel, (height, width) = weights[f"{name}/kernel"], x.shape[1:3]
        shape = [len(x), 2 * height, 2 * width, kernel.shape[2]]
        x = tf.nn.conv2d_transpose(with_labels(x), kernel, shape, 2, "SAME")
        return x + weights[f"{name}/bias"]

    x = normalised(linear(z, "linear1"), "norm1")
    x = tf.reshape(normalised(linear(x, "linear2"), "norm2"), [-1, 7, 7, 128])
    x = normalised(deconv(x, "deconv1"), "norm3")
    images = tf.tanh(deconv(x, "deconv2"))
    return np.round(127.5 * (images + 1)).astype(int)


def test_the_shipped_generator_gives_its_pictures_to_one_grey_level(tmp_path):
    folder = copy_shipped("mnist_64_28_28", tmp_path)
    with np.load(folder / "generator.npz") as archive:
        weights = {name: archive[name].astype(np.float32) for name in archive.files}
    z, labels = draws.fixed_latents(0, 20, 100, "uniform"), np.arange(20, dtype=np.int32) % 10
    expected = draw_as_first_version(weights, z, tf.one_hot(labels, 10))
    pictures = model.WGAN.load(folder).sample(z, labels).astype(int)
    assert np.std(expected) > 50 and np.max(np.abs(pictures - expected)) <= 1
