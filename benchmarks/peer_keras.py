"""For comparison: the default networks without labels, written like Keras' WGAN-GP example.

It follows the example's description, with Keras' own layers, optimizers and `fit`. It uses nothing
of the program's training. Import it after `device.import_tensorflow()`.
"""

import keras
import tensorflow as tf

from benchmarks import steps
from system import device

BATCH, Z_DIM, CRITIC_NUM, LAMBDA = 64, 100, 5, 10.0


class Example(keras.Model):
    """A WGAN-GP like Keras' example."""

    def __init__(self):
        super().__init__()
        layers, half = keras.layers, {"strides": 2, "padding": "same"}
        generator = [
            *(layers.Dense(1024), layers.BatchNormalization(), layers.ReLU()),
            *(layers.Dense(6272), layers.BatchNormalization(), layers.ReLU()),
            layers.Reshape((7, 7, 128)),
            *(layers.Conv2DTranspose(128, 5, **half), layers.BatchNormalization(), layers.ReLU()),
            layers.Conv2DTranspose(1, 5, activation="tanh", **half),
        ]
        critic = [
            *(layers.Conv2D(1, 5, **half), layers.LeakyReLU(0.2)),
            *(layers.Conv2D(64, 5, **half), layers.GroupNormalization(1), layers.LeakyReLU(0.2)),
            layers.Flatten(),
            *(layers.Dense(1024), layers.GroupNormalization(1), layers.LeakyReLU(0.2)),
            layers.Dense(1),
        ]
        self.generator, self.critic = keras.Sequential(generator), keras.Sequential(critic)
        self.of_generator = keras.optimizers.Adam(2e-4, 0.5, 0.9)
        self.of_critic = keras.optimizers.Adam(2e-4, 0.5, 0.9)

    def train_step(self, real):
        """Update the critic five times, then the generator."""
        for _ in range(CRITIC_NUM):
            fake = self.generator(tf.random.normal((BATCH, Z_DIM)), training=True)
            between = real + tf.random.uniform((BATCH, 1, 1, 1)) * (fake - real)
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(between)
                    scores = self.critic(between)
                gradients = inner.gradient(scores, between)
                slopes = tf.sqrt(tf.reduce_sum(gradients**2, [1, 2, 3]) + 1e-12)
                d_loss = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
                d_loss += LAMBDA * tf.reduce_mean((slopes - 1.0) ** 2)
            variables = self.critic.trainable_variables
            self.of_critic.apply(tape.gradient(d_loss, variables), variables)
        with tf.GradientTape() as tape:
            fake = self.generator(tf.random.normal((BATCH, Z_DIM)), training=True)
            g_loss = -tf.reduce_mean(self.critic(fake))
        variables = self.generator.trainable_variables
        self.of_generator.apply(tape.gradient(g_loss, variables), variables)
        return {"d_loss": d_loss, "g_loss": g_loss}


def measure(count=20):
    """Measure an iteration of the example in `fit`; return {name: ms}."""
    model = Example()
    model.compile(jit_compile=device.has_gpu())  # by XLA, which makes it slower on a CPU
    images = tf.random.uniform((count * BATCH, 28, 28, 1), -1.0, 1.0).numpy()
    ms = steps.median_ms(lambda: model.fit(images, batch_size=BATCH, verbose=0), repeats=3) / count
    return {"`dcgan-28-gp-float32-unlabelled`, like Keras' example, ms": ms}
