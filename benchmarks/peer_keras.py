"""What others would use: the default networks without labels in the manner of Keras' example.

Written from its description, with Keras' own layers, optimizer and fit; nothing here is part of the
program. Import it after `device.import_tensorflow()`.
"""

import time

import keras
import tensorflow as tf

ADAM = 2e-4, 0.5, 0.9  # learning rate, beta1, beta2
BATCH, Z_DIM, CRITIC_NUM, LAMBDA = 64, 100, 5, 10.0


def networks():
    """Return generator and critic."""
    layers = keras.layers
    up = {"strides": 2, "padding": "same", "use_bias": True}
    generator = keras.Sequential(
        [
            keras.Input((Z_DIM,)),
            *(layers.Dense(1024), layers.BatchNormalization(), layers.ReLU()),
            *(layers.Dense(6272), layers.BatchNormalization(), layers.ReLU()),
            layers.Reshape((7, 7, 128)),
            *(layers.Conv2DTranspose(128, 5, **up), layers.BatchNormalization(), layers.ReLU()),
            layers.Conv2DTranspose(1, 5, activation="tanh", **up),
        ]
    )
    critic = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *(layers.Conv2D(1, 5, **up), layers.LeakyReLU(0.2)),
            layers.Conv2D(64, 5, **up),
            *(layers.GroupNormalization(1), layers.LeakyReLU(0.2), layers.Flatten()),
            *(layers.Dense(1024), layers.GroupNormalization(1), layers.LeakyReLU(0.2)),
            layers.Dense(1),
        ]
    )
    return generator, critic


class Example(keras.Model):
    """WGAN-GP in the manner of Keras' example."""

    def __init__(self):
        super().__init__()
        self.generator, self.critic = networks()
        self.of_generator, self.of_critic = (keras.optimizers.Adam(*ADAM) for _ in range(2))

    def train_step(self, real):
        """Update the critic five times, then the generator."""
        for _ in range(CRITIC_NUM):
            z = tf.random.normal((BATCH, Z_DIM))
            with tf.GradientTape() as tape:
                fake = self.generator(z, training=True)
                fake_scores = self.critic(fake, training=True)
                loss = tf.reduce_mean(fake_scores) - tf.reduce_mean(self.critic(real))
                loss += LAMBDA * self.penalty(real, fake)
            variables = self.critic.trainable_variables
            self.of_critic.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            fake = self.generator(tf.random.normal((BATCH, Z_DIM)), training=True)
            g_loss = -tf.reduce_mean(self.critic(fake, training=True))
        variables = self.generator.trainable_variables
        self.of_generator.apply(tape.gradient(g_loss, variables), variables)
        return {"d_loss": loss, "g_loss": g_loss}

    def penalty(self, real, fake):
        """Return the mean of (slope - 1)^2 between real and fake."""
        between = real + tf.random.uniform((BATCH, 1, 1, 1)) * (fake - real)
        with tf.GradientTape() as tape:
            tape.watch(between)
            scores = self.critic(between, training=True)
        slopes = tf.sqrt(tf.reduce_sum(tape.gradient(scores, between) ** 2, [1, 2, 3]) + 1e-12)
        return tf.reduce_mean((slopes - 1.0) ** 2)


def measure(repeats=20):
    """Return the ms of an iteration in fit, without XLA, which takes longer on a CPU."""
    model = Example()
    model.compile(jit_compile=tf.config.list_physical_devices("GPU") != [])
    images = tf.random.uniform((repeats * BATCH, 28, 28, 1), -1.0, 1.0).numpy()

    def fit(count):
        start = time.perf_counter()
        model.fit(images[: BATCH * count], batch_size=BATCH, verbose=0)
        return time.perf_counter() - start

    fit(2)
    return 1000 * fit(repeats) / repeats
