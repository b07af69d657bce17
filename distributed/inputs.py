"""What the steps of an iteration take: images, labels and random numbers, ready on the device."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

import draws
import ops


class Inputs:
    """The inputs of the steps of a run, for each replica its part.

    `config` is resolved, `shape` that of an image or a point, `label_counts` those of the training
    data or, in unconditional runs, None. `staged` names the device to which the inputs of the next
    iteration are sent while this one is computed; without it they stay NumPy arrays.
    """

    def __init__(self, config, shape, label_counts, replicas, staged=None):
        self.config, self.shape, self.label_counts = config, shape, label_counts
        self.replicas, self.staged = replicas, staged
        self.thread = ThreadPoolExecutor(1) if staged else None
        self.data = self.iteration = self.next = None  # what `next` will have the inputs of

    def of(self, data, iteration):
        """Return the inputs of an iteration: a list for the critic, and those of the generator.

        `data` is a datasets.dataset.Data.
        """
        if not self.staged:
            return self.draw(data, iteration)
        if data is not self.data or iteration != self.iteration:
            self.next = self.thread.submit(self.stage, data, iteration)
        inputs = self.next.result()
        self.data, self.iteration = data, iteration + 1
        self.next = self.thread.submit(self.stage, data, iteration + 1)
        return inputs

    def draw(self, data, iteration):
        """Return what `of` returns as NumPy arrays, of several replicas as distributed values."""
        config = self.config
        updates = range(config.updates_before(iteration), config.updates_before(iteration + 1))
        decay = np.float32(min(config.ema, (1 + iteration) / (10 + iteration)))
        return [self.critic(data, m) for m in updates], (*self.generator(data, iteration), decay)

    def stage(self, data, iteration):
        """Return what `draw` returns as tensors on the device, after one copy per kind of array.

        TensorFlow keeps int32 tensors in the memory of the host, so labels become uint8.
        """
        critic, generator = self.draw(data, iteration)
        flat = [(images, labels, *drawn) for images, labels, drawn in critic]
        with tf.device(self.staged):
            kinds = [
                [None] * len(kind) if kind[0] is None else tf.unstack(_tensor(np.stack(kind)))
                for kind in zip(*flat, strict=True)
            ]
            generator = tuple(None if array is None else _tensor(array) for array in generator)
        rows = zip(*kinds, strict=True)
        return [(x, y, draws.CriticDraws(*drawn)) for x, y, *drawn in rows], generator

    def critic(self, data, m):
        """Return what `WGAN.critic_step` takes for the critic update m of the run."""
        config = self.config
        part = self.replicas.share(config.batch_size)
        images, labels = data.critic_batch(config.seed, config.batch_size, m, part, config.mirror)
        sizes = config.batch_size, config.z_dim, config.latents, self.shape
        drawn = draws.critic_draws(config.seed, m, *sizes, config.noise)
        conditional = self.label_counts is not None
        images, labels = self.replicas.split(images, labels if conditional else None)
        drawn = self.replicas.split(*(None if x is None else x[part] for x in drawn))
        return images, labels, draws.CriticDraws(*drawn)

    def generator(self, data, iteration):
        """Return the latents, labels and real images that `WGAN.generator_step` takes.

        The images are None unless ops.GENERATOR_SEES_REAL; the labels are theirs otherwise.
        """
        config, images = self.config, None
        size = config.generator_batch * config.batch_size
        part = self.replicas.share(size)
        z, labels = draws.generator_draws(
            config.seed, iteration, size, config.z_dim, config.latents, self.label_counts
        )
        labels = None if labels is None else labels[part]
        if ops.GENERATOR_SEES_REAL:
            images, found = data.critic_batch(config.seed, size, iteration, part, config.mirror)
            labels = found if self.label_counts is not None else None
        return self.replicas.split(z[part], labels, images)


def _tensor(array):
    """Copy an array to the device in use."""
    return tf.constant(array.astype(np.uint8) if array.dtype == np.int32 else array)
