"""Networks that turn images into features: a classifier of a data set's classes, or InceptionV3.

The classifier is deterministic: the same images and labels give the same weights on one machine. It
is trained once per data set and kept beside the converted images.
"""

import hashlib
import json
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import draws
import ops
from datasets.dataset import Subset
from run import weights
from system import device
from system.errors import Refused, explain

# Steps of the classifier's training, by an image's channels: colours take longer to learn.
STEPS = {1: 1900, 3: 6000}
BATCH = 128
SEED = 0  # whatever the run's, so that all runs share a classifier
FEATURES = 128
DROPOUT = 0.5
SMALLEST_MAPS = 7  # pixels, height or width
VERSION = 1  # of the classifier's layers and training; with another one all are trained anew
SCALED_BY = 10000  # training images whose features give the scale
# Images per call. The last call is filled up, so that no result depends on the number of images.
BLOCK = 100
INCEPTION_FEATURES = 2048
INCEPTION_SIZE = 299, 299
INCEPTION_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that turns images into features.

    `function` maps uint8 [BLOCK, H, W, C] to features [BLOCK, dimensions] and classes [BLOCK], or
    None for the classes. `accuracy` is the share of held-out images whose class the network finds,
    None where it has no classes. `digest` is of its weights.
    """

    name: str
    dimensions: int
    accuracy: float | None
    function: Any
    digest: str = ""

    def read(self, images, what):
        """Return features float32 [N, dimensions] and classes [N] (or None) of uint8 [N, H, W, C].

        `images` may be a Subset; `what` names them beside the progress bar.
        """
        features, classes = [], []
        for start in tqdm(range(0, len(images), BLOCK), desc=what, disable=None, leave=False):
            block = images[start : start + BLOCK]
            filled = np.concatenate([block, np.repeat(block[:1], BLOCK - len(block), axis=0)])
            made, named = self.function(filled)
            features.append(made[: len(block)])
            classes.append(None if named is None else named[: len(block)])
        return np.concatenate(features), None if classes[0] is None else np.concatenate(classes)


def dimensions(data, inception_weights=None):
    """Return how many features the network of `feature_network` has.

    It is a classifier where the data's labels have at least two classes and no file is given.
    """
    labelled = data.labels is not None and len(np.unique(data.labels[data.rest])) > 1
    return FEATURES if labelled and inception_weights is None else INCEPTION_FEATURES


def feature_network(data, source, inception_weights=None):
    """Make the network for a data set: a classifier of its labels, or InceptionV3.

    `source` (datasets.dataset.Source) names the data and the cache; `inception_weights` is a file.
    """
    if dimensions(data, inception_weights) == FEATURES:
        return classifier_of(data, source)
    return inception(inception_weights)


# The classifier.


def build_classifier(shape, classes):
    """Build a small convolutional classifier: images [B, *shape] in [-1, 1] to logits [B, classes].

    Its layer `features` [B, 128] is the last before the logits.
    """
    layers = keras.layers
    network = keras.Sequential([keras.Input(shape)], name="classifier")
    size, filters = max(shape[:2]), 32
    while size > SMALLEST_MAPS:
        network.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        network.add(layers.Conv2D(filters, 3, padding="same", strides=2, activation="relu"))
        size, filters = math.ceil(size / 2), min(2 * filters, 128)
    network.add(layers.Flatten())
    network.add(layers.Dropout(DROPOUT))
    network.add(layers.Dense(FEATURES, activation="relu", name="features"))
    network.add(layers.Dropout(DROPOUT))
    network.add(layers.Dense(classes))
    return network


def train_classifier(images, labels, classes):
    """Train the classifier on uint8 images [N, H, W, C], which may be a Subset, and labels [N].

    Half of the colour images are mirrored at random; grey ones may be digits, which must not be.
    """
    keras.utils.set_random_seed(SEED)
    colour = images.shape[3] == 3
    network = build_classifier(images.shape[1:], classes)
    steps = STEPS[images.shape[3]]
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    size = min(BATCH, len(images))
    for m in tqdm(range(steps), desc="training the classifier", disable=None, leave=False):
        chosen = draws.batch_positions(SEED, len(images), size, m)
        batch = images[chosen]
        if colour:
            mirrored = draws.subset(SEED, m, size, size // 2)
            batch[mirrored] = batch[mirrored, :, ::-1]
        network.train_on_batch(ops.to_network(batch), labels[chosen])
    return network


def as_features(network, accuracy, scale=1.0):
    """Make a FeatureNetwork of a classifier; the features are divided by `scale`."""
    both = keras.Model(network.inputs, [network.get_layer("features").output, network.outputs[0]])

    @tf.function(autograph=False)
    def function(images):
        features, logits = both(ops.to_network(images), training=False)
        return features / scale, tf.argmax(logits, axis=1)

    digest = weights.digest(network.weights)
    return FeatureNetwork("classifier", FEATURES, accuracy, function, digest)


def classifier_of(data, source):
    """Read a data set's classifier from the cache, or train it on all that is not held out.

    A damaged file, as a kill may leave it, is replaced. Raises Refused where the cache cannot be
    written.
    """
    network = build_classifier(data.facts.shape, len(data.facts.class_names))
    path = classifier_path(source, data.facts)
    if path.exists():
        named = [(f"{i}", weight) for i, weight in enumerate(network.weights)]
        try:
            accuracy, scale = weights.read_archive(path, named, ("accuracy", "scale"))
            return as_features(network, accuracy, scale)
        except Refused as refusal:
            print(f"{refusal}: the classifier is trained anew")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise Refused(
            f"--cache_dir {path.parent}: {error.strerror}; name a folder for the classifier"
        ) from None
    network, accuracy, scale = fit(data)
    arrays = {f"{i}": weight.numpy() for i, weight in enumerate(network.weights)}
    np.savez(path, accuracy=accuracy, scale=scale, **arrays)
    return as_features(network, accuracy, scale)


def fit(data):
    """Train the classifier of a Data: the network, its accuracy, and the scale of its features.

    The scale is their root mean square. The kernel distance depends on it, and it is an accident of
    the training.
    """
    classes, rest = len(data.facts.class_names), data.rest
    print(f"Training a classifier of {classes} classes on {len(rest)} images")
    network = train_classifier(Subset(data.images, rest), data.labels[rest], classes)
    unscaled = as_features(network, None)
    _, found = unscaled.read(Subset(data.images, data.held_out), "accuracy")
    accuracy = float(np.mean(found == data.labels[data.held_out]))
    features, _ = unscaled.read(Subset(data.images, rest[:SCALED_BY]), "scale of the features")
    return network, accuracy, float(np.sqrt(np.mean(np.square(features, dtype=np.float64))))


def classifier_path(source, facts):
    """Return the path of a classifier's file: by the images, by how it is trained and by where."""
    trained = VERSION, STEPS, BATCH, SEED, FEATURES, DROPOUT, SMALLEST_MAPS, SCALED_BY
    key = [facts.pixels, facts.shape, facts.held_out, facts.class_names, trained]
    total = hashlib.sha256(json.dumps([*key, device.environment()]).encode())
    return source.cache / f"{source.name}-classifier-{total.hexdigest()[:12]}.npz"


# InceptionV3.


def inception(path=None):
    """Make keras.applications' InceptionV3 up to its average pooling, with weights from a file.

    Without a file Keras downloads its ImageNet weights, once. Raises Refused.
    """
    if path is not None and not Path(path).is_file():
        raise Refused(f"--feature_weights {path}: no such file; expected {INCEPTION_FILE}")
    try:
        with warnings.catch_warnings(action="ignore"):  # one for each weight that does not fit
            network = keras.applications.InceptionV3(
                include_top=False, weights=path or "imagenet", pooling="avg"
            )
    except Exception as error:  # Keras raises nothing narrower where a download fails
        what = f"--feature_weights {path}: not" if path else "cannot download"
        raise Refused(
            f"{what} the weights of InceptionV3 without its top ({explain(error)}); put"
            f" {INCEPTION_FILE} into ~/.keras/models, or name it with --feature_weights"
        ) from None
    if broken := weights.find_non_finite([network]):
        raise Refused(f"--feature_weights {path}: {broken} is not finite; use {INCEPTION_FILE}")

    @tf.function(autograph=False)
    def function(images):
        images = tf.image.resize(ops.to_network(images), INCEPTION_SIZE, antialias=True)
        if images.shape[3] == 1:
            images = tf.image.grayscale_to_rgb(images)
        return network(images, training=False), None

    name, digest = "keras.applications InceptionV3", weights.digest(network.weights)
    return FeatureNetwork(name, INCEPTION_FEATURES, None, function, digest)
