"""The networks behind the scores, and what the shipped generator is worth to one of them."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import ROOT, copy_shipped, make_data
from numpy.testing import assert_allclose, assert_array_equal

import config as flags
import draws
from datasets import dataset
from run import description, settings
from scores import feature_networks
from system.errors import Refused


def source(place):
    return dataset.source_of(flags.Config(data_dir=str(place)))


def bright_halves(count):
    """Images of which class 0 is bright above and class 1 below."""
    labels = (np.arange(count) % 2).astype(np.int32)
    images = np.random.default_rng(0).integers(0, 60, (count, 8, 8, 1), dtype=np.uint8)
    images[labels == 0, :4] += 150
    images[labels == 1, 4:] += 150
    return images, labels


def share_recognised(network, images, labels):
    """Return the share of images whose class the classifier finds."""
    _, classes = feature_networks.as_features(network, None).read(images, "")
    return np.mean(classes == labels)


def test_the_classifier_learns_and_repeats_bit_for_bit(monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 60})
    images, labels = bright_halves(1280)
    one, two = (feature_networks.train_classifier(images, labels, 2) for _ in range(2))
    assert share_recognised(one, images, labels) == 1
    assert share_recognised(one, images, 1 - labels) == 0
    for a, b in zip(one.weights, two.weights, strict=True):
        assert_array_equal(a.numpy(), b.numpy())


def test_grey_images_are_not_mirrored_and_colour_images_are(monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 60, 3: 60})
    images, labels = bright_halves(1280)
    sides = images.transpose(0, 2, 1, 3)  # class 0 is bright on the left
    network = feature_networks.train_classifier(sides, labels, 2)
    assert share_recognised(network, sides, labels) == 1
    colour = np.repeat(sides, 3, axis=3)
    network = feature_networks.train_classifier(colour, labels, 2)
    assert share_recognised(network, colour, labels) < 0.95


def test_one_class_makes_no_classifier():
    data = make_data(classes=1)
    assert feature_networks.dimensions(data) == 2048
    assert feature_networks.dimensions(make_data(classes=2)) == 128
    assert feature_networks.dimensions(make_data(classes=2), "weights.h5") == 2048


def test_the_classifier_learns_from_all_that_is_not_held_out(tmp_path, monkeypatch):
    seen = []

    def train_classifier(images, labels, classes):
        seen.append((images[slice(None)], labels))
        return feature_networks.build_classifier(images.shape[1:], classes)

    monkeypatch.setattr(feature_networks, "train_classifier", train_classifier)
    data = make_data(classes=2)
    few = dataclasses.replace(data, train=data.train[:10])  # whatever --train_size
    feature_networks.feature_network(few, source(tmp_path))
    ((images, labels),) = seen
    order = np.lexsort(images.reshape(64, -1).T)
    expected = data.images[:64][np.lexsort(data.images[:64].reshape(64, -1).T)]
    assert_array_equal(images[order], expected)
    assert np.bincount(labels).tolist() == [32, 32]


def test_a_damaged_classifier_is_trained_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 5})
    data = make_data(classes=2)
    first, _ = feature_networks.feature_network(data, source(tmp_path)).read(data.images, "")
    (path,) = (tmp_path / ".cache").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    second, _ = feature_networks.feature_network(data, source(tmp_path)).read(data.images, "")
    assert "damaged" in capsys.readouterr().out
    assert_array_equal(first, second)
    assert path.read_bytes() == whole
    with np.load(path) as archive:
        arrays = dict(archive)
    bad = [("scale", np.nan), ("accuracy", 1j), ("0", np.nan), ("0", 1j)]
    for name, value in bad:
        np.savez(path, **arrays | {name: value * np.ones_like(arrays[name])})
        feature_networks.feature_network(data, source(tmp_path))
        assert "damaged" in capsys.readouterr().out and path.read_bytes() == whole
    monkeypatch.setattr(feature_networks, "train_classifier", None)  # from here on it must be read
    feature_networks.feature_network(data, source(tmp_path))


def test_the_accuracy_is_that_on_held_out_images(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 60})
    data = make_data(classes=2, images=640)
    data.images[data.labels == 1] //= 4
    data.labels[data.held_out[:4]] ^= 1
    for _ in ("trained", "read from the cache"):
        assert feature_networks.feature_network(data, source(tmp_path)).accuracy == 0.75


def test_a_classifier_is_kept_for_its_images_and_its_machine_alone(monkeypatch):
    facts = make_data(classes=2).facts
    paths = {feature_networks.classifier_path(source("data"), facts)}
    other = dataclasses.replace(facts, pixels="others")
    paths.add(feature_networks.classifier_path(source("data"), other))
    monkeypatch.setattr(feature_networks.device, "environment", lambda: {"tensorflow": "another"})
    paths.add(feature_networks.classifier_path(source("data"), facts))
    assert len(paths) == 3


def test_the_classifiers_features_are_of_mean_square_1(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 5})
    data = make_data(classes=2)
    network = feature_networks.feature_network(data, source(tmp_path))
    features, _ = network.read(data.images[data.train], "")
    assert_allclose(np.mean(features**2), 1, rtol=1e-4)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_networks, "STEPS", {1: 5})
    (tmp_path / "file").write_text("")
    unwritable = dataclasses.replace(source(tmp_path), cache=tmp_path / "file")
    with pytest.raises(Refused, match="--cache_dir"):
        feature_networks.feature_network(make_data(classes=2), unwritable)


def test_without_labels_and_network_the_refusal_says_where_the_weights_belong(
    tmp_path, monkeypatch
):
    def offline(*words, **values):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.applications, "InceptionV3", offline)
    with pytest.raises(Refused, match=r"into ~/\.keras/models.*--feature_weights"):
        feature_networks.feature_network(make_data(), source(tmp_path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in Keras' own saving
def test_inception_takes_weights_from_a_file_and_grey_images(tmp_path):
    keras.utils.set_random_seed(0)
    network = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    path = tmp_path / "inception.weights.h5"
    network.save_weights(path)
    found = feature_networks.inception(str(path))
    assert found.accuracy is None and found.digest
    images = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3), dtype=np.uint8)
    features, classes = found.read(images, "")
    assert classes is None and features.shape == (1, 2048)
    expected = network(keras.applications.inception_v3.preprocess_input(images.astype("float32")))
    assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
    assert found.read(images[:, :28, :28, :1], "")[0].shape == (1, 2048)
    network.variables[0].assign(network.variables[0] * np.nan)
    network.save_weights(path)
    with pytest.raises(Refused, match="is not finite"):
        feature_networks.inception(str(path))


@pytest.fixture
def shipped(tmp_path):
    """The shipped generator."""
    from model import WGAN

    return WGAN.load(copy_shipped("mnist_64_28_28", tmp_path))


@pytest.mark.slow
def test_98_percent_of_the_shipped_generators_digits_are_recognised(shipped):
    data = dataset.load(source(ROOT / "data"))
    digits = data.images[data.train], data.labels[data.train]
    network = feature_networks.train_classifier(*digits, 10)
    held_out = data.images[data.held_out], data.labels[data.held_out]
    assert share_recognised(network, *held_out) >= 0.99
    z, labels = draws.picture_draws(
        0, 0, 10000, shipped.config.z_dim, "uniform", shipped.label_counts
    )
    share = share_recognised(network, shipped.sample(z, labels), labels)
    print(f"recognised as the class asked for: {100 * share:.2f} %")
    assert share >= 0.98


def test_the_shipped_generator_is_the_default_run(shipped):
    data = dataset.load(source(ROOT / "data"))
    default = settings.resolve(flags.Config(), data.facts)
    assert description.differences(shipped.config, default, flags.FLAGS) == []
    assert shipped.label_counts == data.facts.label_counts
