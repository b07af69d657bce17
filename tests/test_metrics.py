"""The digit classifier, and what the shipped generator is worth to it."""

import shutil

import numpy as np
import pytest
from conftest import ROOT
from numpy.testing import assert_array_equal

import config as flags
import dataset
import draws
import metrics
import settings


def bright_halves(count):
    """Images of which class 0 is bright above and class 1 below."""
    labels = (np.arange(count) % 2).astype(np.int32)
    images = np.random.default_rng(0).integers(0, 60, (count, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, :4] += 150
    images[labels == 1, 4:] += 150
    return images, labels


def test_the_classifier_learns_and_repeats_bit_for_bit(monkeypatch):
    monkeypatch.setattr(metrics, "STEPS", {1: 60})
    images, labels = bright_halves(1280)
    one, two = (metrics.train_classifier(images, labels, 2) for _ in range(2))
    assert metrics.share_recognised(one, images, labels) == 1
    assert metrics.share_recognised(one, images, 1 - labels) == 0
    for a, b in zip(one.weights, two.weights, strict=True):
        assert_array_equal(a.numpy(), b.numpy())


def test_grey_images_are_not_mirrored_and_colour_images_are(monkeypatch):
    monkeypatch.setattr(metrics, "STEPS", {1: 60, 3: 60})
    images, labels = bright_halves(1280)
    sides = images.transpose(0, 2, 1, 3)  # class 0 is bright on the left
    network = metrics.train_classifier(sides, labels, 2)
    assert metrics.share_recognised(network, sides, labels) == 1
    colour = np.repeat(sides, 3, axis=3)
    network = metrics.train_classifier(colour, labels, 2)
    assert metrics.share_recognised(network, colour, labels) < 0.95


@pytest.fixture
def shipped(tmp_path):
    """The shipped generator, whatever has been trained beside it."""
    from model import WGAN

    for name in ("generator.npz", "generator.json"):
        shutil.copy(ROOT / "checkpoint/mnist_64_28_28" / name, tmp_path)
    return WGAN.load(tmp_path)


@pytest.mark.slow
def test_97_percent_of_the_shipped_generators_digits_are_recognised(shipped):
    data = dataset.load(flags.Config(data_dir=str(ROOT / "data")))
    network = metrics.train_classifier(data.images[data.train], data.labels[data.train], 10)
    held_out = data.images[data.held_out], data.labels[data.held_out]
    assert metrics.share_recognised(network, *held_out) >= 0.99
    z, labels = draws.picture_draws(0, 0, 10000, shipped.config.z_dim, shipped.label_counts)
    share = metrics.share_recognised(network, shipped.sample(z, labels), labels)
    print(f"recognised as the class asked for: {100 * share:.2f} %")
    assert share >= 0.97


def test_the_shipped_generator_is_the_default_run(shipped):
    data = dataset.load(flags.Config(data_dir=str(ROOT / "data")))
    default = settings.resolve(flags.Config(), data.facts)
    assert settings.differences(settings.kept(shipped.config), default, flags.FLAGS) == []
    assert shipped.label_counts == data.facts.label_counts
