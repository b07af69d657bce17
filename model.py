"""class WGAN: both networks, the two training steps, one iteration, sampling, saving and restoring.

Reads as Algorithm 1 of the two papers; every random number comes in from draws.py. Import it after
`device.import_tensorflow()`.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

import device
import distribute
import draws
import networks
import ops
import runs
import weights

# Pictures are made in blocks of this size, so that none depends on how many are asked for.
SAMPLE_BATCH = 100
VALIDATION_IMAGES = 512


class WGAN:
    """A generator, its moving average and a critic.

    `config` is resolved (settings.resolve); `facts` (dataset.Facts) gives the image shape and the
    labels; `replicas` (distribute.Replicas) compute it, one device by default.
    """

    def __init__(self, config, facts, replicas=None):
        self.config = config
        self.replicas = replicas or distribute.Replicas(tf.distribute.get_strategy())
        self.strategy = self.replicas.strategy
        self.shape = tuple(facts.shape)
        self.classes = len(facts.class_names) if config.conditional else 0
        self.label_counts = facts.label_counts if config.conditional else None
        with self.strategy.scope():
            self._build()
        self._compile()
        if device.has_gpu():
            self.critic_inputs = device.Ahead(self.critic_inputs)
        self.checkpoint = tf.train.Checkpoint(
            generator=self.generator,
            average=self.average,
            critic=self.critic,
            generator_optimizer=self.generator_optimizer,
            critic_optimizer=self.critic_optimizer,
            iteration=self.iteration,
        )

    def _build(self):
        """Make networks and optimizers."""
        config = self.config
        keras.utils.set_random_seed(config.seed)  # only the initial weights are drawn from it
        mixed = config.precision == "bfloat16"
        keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
        self.generator = self._build_generator()
        self.average = self._build_generator()
        self.critic = networks.build_critic(
            config.arch, self.shape, self.classes, config.critic_norm
        )
        keras.config.set_dtype_policy("float32")
        for average, variable in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(variable)
        self.generator_optimizer = build_optimizer(config)
        self.critic_optimizer = build_optimizer(config)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)
        self.iteration = tf.Variable(0, dtype=tf.int64)

    def _compile(self):
        """Turn what is computed into graphs; nothing here needs Python's `if` and `for` in them.

        XLA usually makes the steps faster on a GPU, and slower on a CPU. The updates are
        element-wise passes over all variables, of which it makes one pass each, two to three times
        as fast. It cannot compile what several replicas do together.
        """
        alone = self.replicas.alone
        graph = functools.partial(
            tf.function, autograph=False, jit_compile=(alone and device.has_gpu()) or None
        )
        self.critic_step, self.generator_step = graph(self.critic_step), graph(self.generator_step)
        self._w_distance, self._sample = graph(self._w_distance), graph(self._sample)
        if alone:
            fused = functools.partial(tf.function, autograph=False, jit_compile=True)
            self._update_critic = fused(self._update_critic)
            self._update_generator = fused(self._update_generator)
            self._update_average = fused(self._update_average)

    def _build_generator(self):
        return networks.build_generator(
            self.config.arch, self.shape, self.config.z_dim, self.classes
        )

    # The networks as functions of images or latents and int32 labels [B] (None in unconditional
    # runs).

    def _call(self, network, x, labels):
        """Apply a network with batch statistics, moving ones untouched."""
        return self._call_and_move(network, x, labels, network.non_trainable_variables)[0]

    def _call_and_move(self, network, x, labels, moving):
        """Apply a network with batch statistics; returns what becomes of `moving`, too."""
        return network.stateless_call(
            network.trainable_variables, moving, self._inputs(x, labels), training=True
        )

    def _inputs(self, x, labels):
        return [x, tf.one_hot(labels, self.classes)] if self.classes else x

    def _scores(self, real, fake, labels):
        """Score real and fake images [B, H, W, C]: two tensors [B, 1], and the moving statistics.

        One pass over both does the same as two, faster, unless the critic normalises over the
        batch: then each kind is a batch of its own, and the critic's moving statistics follow both.
        """
        moving = self.critic.non_trainable_variables
        if self.config.critic_norm == "batch":
            real_scores, moving = self._call_and_move(self.critic, real, labels, moving)
            fake_scores, moving = self._call_and_move(self.critic, fake, labels, moving)
            return real_scores, fake_scores, moving
        both = tf.concat([real, fake], 0)
        twice = None if labels is None else tf.tile(labels, [2])
        return *tf.split(self._call(self.critic, both, twice), 2), moving

    # Algorithm 1 of 1704.00028 (gp) and of 1701.07875 (regular). What ends in _part is done by each
    # replica with its part of the batch; Keras' optimizers add the gradients of all up.

    def critic_step(self, images, labels, z, alpha, noise):
        """Update the critic once, lines 4 to 9.

        images uint8 [B, H, W, C], labels [B], z [B, z_dim], alpha [B]. The fakes take the labels of
        the real images. `noise` [B, H, W, C] is added to these, if it is not None. Returns d_loss,
        w_distance, penalty and slope from before the update, the last two only in gp.
        """
        batch = images, labels, z, alpha, noise
        measured, moving = self.strategy.run(self._critic_part, batch)
        self._assign_moving(self.critic, moving)
        if self.config.mode == "regular":
            ops.clip_weights(
                self.critic.trainable_variables, self.config.clip_down, self.config.clip_up
            )
        return {name: self.replicas.mean(value) for name, value in measured.items()}

    def _critic_part(self, images, labels, z, alpha, noise):
        real = ops.to_network(images) if noise is None else ops.to_network(images) + noise
        fake = self._call(self.generator, z, labels)
        variables = [variable.value for variable in self.critic.trainable_variables]
        with tf.GradientTape() as tape:
            real_scores, fake_scores, moving = self._scores(real, fake, labels)
            d_loss = ops.critic_loss(real_scores, fake_scores)
            measured = {"w_distance": -d_loss}
            if self.config.mode == "gp":
                interpolates = ops.interpolate(real, fake, alpha)
                slopes = ops.slopes(lambda x: self._call(self.critic, x, labels), interpolates)
                penalty = ops.gradient_penalty(slopes, self.config.LAMBDA)
                d_loss += penalty
                measured |= {"penalty": penalty, "slope": tf.reduce_mean(slopes)}
            part = d_loss / self.replicas.total
        self._update_critic(tape.gradient(part, variables))
        return {"d_loss": d_loss, **measured}, moving

    def generator_step(self, z, labels, decay):
        """Update the generator once, lines 11 and 12, and its average with `decay`.

        Returns g_loss from before. z [B, z_dim], labels [B]. Here alone do the generator's moving
        statistics change.
        """
        g_loss, moving = self.strategy.run(self._generator_part, (z, labels))
        self._assign_moving(self.generator, moving)
        self._update_average(decay)
        return self.replicas.mean(g_loss)

    def _generator_part(self, z, labels):
        variables = [variable.value for variable in self.generator.trainable_variables]
        moving = self.generator.non_trainable_variables
        with tf.GradientTape() as tape:
            fake, moving = self._call_and_move(self.generator, z, labels, moving)
            g_loss = ops.generator_loss(self._call(self.critic, fake, labels))
            part = g_loss / self.replicas.total
        self._update_generator(tape.gradient(part, variables))
        return g_loss, moving

    def _update_critic(self, gradients):
        self.critic_optimizer.apply(gradients, self.critic.trainable_variables)

    def _update_generator(self, gradients):
        self.generator_optimizer.apply(gradients, self.generator.trainable_variables)

    def _assign_moving(self, network, moving):
        for variable, value in zip(network.non_trainable_variables, moving, strict=True):
            variable.assign(self.replicas.first(value))

    def _update_average(self, decay):
        for average, variable in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(decay * average.value + (1.0 - decay) * variable.value)

    def critic_inputs(self, data, m):
        """Return what `critic_step` takes for the critic update m of the run."""
        config = self.config
        part = self.replicas.share(config.batch_size)
        images, labels = data.critic_batch(config.seed, config.batch_size, m, part)
        z, alpha, noise = draws.critic_draws(
            config.seed, m, config.batch_size, config.z_dim, self.shape, config.noise
        )
        labels, noise = labels if self.classes else None, None if noise is None else noise[part]
        return self.replicas.split(images, labels, z[part], alpha[part], noise)

    def train_iteration(self, data, iteration):
        """Lead from state `iteration` - 1 to state `iteration`.

        Returns the log's numbers as tensors that nobody has waited for yet.
        """
        config = self.config
        for m in range(config.updates_before(iteration), config.updates_before(iteration + 1)):
            measured = self.critic_step(*self.critic_inputs(data, m))
        z, labels = draws.generator_draws(
            config.seed, iteration, config.batch_size, config.z_dim, self.label_counts
        )
        part = self.replicas.share(config.batch_size)
        z, labels = self.replicas.split(z[part], None if labels is None else labels[part])
        decay = np.float32(min(config.ema, (1 + iteration) / (10 + iteration)))
        return measured | {"g_loss": self.generator_step(z, labels, decay)}

    def _w_distance(self, images, labels, z):
        return self.replicas.mean(self.strategy.run(self._w_distance_part, (images, labels, z)))

    def _w_distance_part(self, images, labels, z):
        real, fake = ops.to_network(images), self._call(self.generator, z, labels)
        return ops.w_distance(
            self._call(self.critic, real, labels), self._call(self.critic, fake, labels)
        )

    def validate(self, data):
        """Measure w_distance on at most 512 held-out images and fixed latents; changes nothing."""
        size = min(self.config.batch_size, len(data.held_out), VALIDATION_IMAGES)
        count = min(len(data.held_out), VALIDATION_IMAGES) // size * size
        z = draws.validation_latents(self.config.seed, count, self.config.z_dim)
        distances = []
        for start in range(0, count, size):
            chosen = data.held_out[start : start + size]
            labels = data.labels[chosen] if self.classes else None
            batch = data.images[chosen], labels, z[start : start + size]
            distances.append(self._w_distance(*self.replicas.deal(*batch)))
        return tf.reduce_mean(distances)

    # Pictures.

    def _sample(self, z, labels, raw):
        generator = self.generator if raw else self.average
        return ops.to_pixels(generator(self._inputs(z, labels), training=False))

    def sample(self, z, labels=None, raw=False):
        """Make pictures of z [n, z_dim] and labels [n]: uint8 [n, H, W, C].

        By the averaged generator, or by the `raw` one.
        """
        count = len(z)
        padding = -count % SAMPLE_BATCH
        z = np.concatenate([z, np.zeros((padding, z.shape[1]), np.float32)])
        if self.classes:
            labels = np.concatenate([labels, np.zeros(padding)]).astype(np.int32)
        pictures = [
            self._sample(
                z[start : start + SAMPLE_BATCH],
                labels[start : start + SAMPLE_BATCH] if self.classes else None,
                raw,
            )
            for start in range(0, len(z), SAMPLE_BATCH)
        ]
        return np.concatenate(pictures)[:count]

    # Files.

    @classmethod
    def load(cls, folder):
        """Load a run's newest checkpoint or, where there is none, its shipped generator."""
        config, facts, source = runs.read_run(folder)
        gan = cls(config, facts)
        gan.read(source)
        return gan

    def read(self, source):
        """Take the weights from a checkpoint prefix or from a generator's .npz file."""
        self.load_generator(source) if source.endswith(".npz") else self.restore(source)

    def save(self, prefix, iteration):
        """Write everything that going on needs to the TensorFlow checkpoint `prefix`."""
        self.iteration.assign(iteration)
        weights.write_checkpoint(self.checkpoint, prefix)

    def restore(self, prefix):
        """Read a checkpoint, with the errors of weights.read_checkpoint, and return its state."""
        weights.read_checkpoint(self.checkpoint, prefix)
        return int(self.iteration.numpy())

    def find_non_finite(self):
        """Name a variable that holds a NaN or an infinity, or return None."""
        return weights.find_non_finite([self.generator, self.critic, self.average])

    def save_generator(self, path):
        """Write the averaged generator alone: a NumPy archive, a float16 array per variable."""
        np.savez_compressed(
            path, **{v.path: v.numpy().astype(np.float16) for v in self.average.variables}
        )

    def load_generator(self, path):
        """Read what `save_generator` wrote into both generators. Raises Refused."""
        variables = (*self.average.variables, *self.generator.variables)
        weights.read_archive(path, [(variable.path, variable) for variable in variables])


def build_optimizer(config):
    """Make one of the two optimizers of a run.

    The epsilons are TensorFlow 1's, as in the two programs that this one succeeds: Keras' own are
    large enough to damp the small gradients of a clipped critic.
    """
    if config.optimizer == "adam":
        return keras.optimizers.Adam(config.learning_rate, config.beta1, config.beta2, epsilon=1e-8)
    if config.optimizer == "rmsprop":
        return keras.optimizers.RMSprop(config.learning_rate, rho=0.9, epsilon=1e-10)
    return keras.optimizers.SGD(config.learning_rate)
