"""Scores of generated images: for now, the digit classifier and the share of pictures recognised.

The classifier is deterministic: the same images and labels give the same weights on one machine.
"""

import keras
import numpy as np
import tensorflow as tf

import ops

EPOCHS = 4
BATCH = 128
FEATURES = 128


def build_classifier(shape, classes):
    """Build a small convolutional classifier: images [B, *shape] in [-1, 1] to logits [B, classes].

    Its layer `features` [B, 128] is the one before the last.
    """
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", strides=2, activation="relu"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Conv2D(64, 3, padding="same", strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(FEATURES, activation="relu", name="features"),
            layers.Dense(classes),
        ],
        name="classifier",
    )


def train_classifier(images, labels, classes, seed=0):
    """Train the classifier on uint8 images [N, H, W, C] and int labels [N] for 4 epochs."""
    keras.utils.set_random_seed(seed)
    network = build_classifier(images.shape[1:], classes)
    steps = len(images) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(2e-3, EPOCHS * steps)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(network.trainable_variables)

    @tf.function(autograph=False)
    def step(batch, wanted):
        variables = [variable.value for variable in network.trainable_variables]
        with tf.GradientTape() as tape:
            logits = network(ops.to_network(batch), training=True)
            loss = keras.losses.sparse_categorical_crossentropy(wanted, logits, from_logits=True)
            loss = tf.reduce_mean(loss)
        optimizer.apply(tape.gradient(loss, variables), network.trainable_variables)

    rng = np.random.default_rng(seed)
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for start in range(0, steps * BATCH, BATCH):
            chosen = order[start : start + BATCH]
            step(images[chosen], labels[chosen])
    return network


def classify(network, images):
    """Name the class of each uint8 image [N, H, W, C]: int [N]."""
    predict = tf.function(lambda batch: tf.argmax(network(ops.to_network(batch)), axis=1))
    return np.concatenate([predict(images[i : i + 500]) for i in range(0, len(images), 500)])


def recognised(network, images, labels):
    """Return the share, 0 to 1, of images that the classifier takes for what they should be."""
    return float(np.mean(classify(network, images) == labels))
