"""class WGAN: both networks, the two training steps, one iteration, sampling, saving and restoring.

Reads as Algorithm 1 of the two papers; every random number comes in from draws.py. Import it after
`device.import_tensorflow()`.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

import draws
import networks
import ops
from distributed.replicas import Replicas
from run import settings, weights
from system import device

# Pictures are made in blocks of this size, so that none depends on how many are asked for.
SAMPLE_BATCH = 100
VALIDATION_IMAGES = 512
# Rises with every change after which the last bits of runs of a released version differ.
ARITHMETIC = 3


class WGAN:
    """A generator, its moving average and a critic.

    `config` is resolved (settings.resolve); `facts` (datasets.dataset.Facts) gives the image shape
    and the labels; `replicas` (distributed.replicas) compute it, one device by default.
    """

    def __init__(self, config, facts, replicas=None):
        self.config = config
        self.replicas = replicas or Replicas(tf.distribute.get_strategy())
        self.strategy = self.replicas.strategy
        self.shape = tuple(facts.shape)
        self.classes = len(facts.class_names) if config.conditional else 0
        self.label_counts = facts.label_counts if config.conditional else None
        with self.strategy.scope():
            self._build()
        self._compile()
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
        sizes = config.arch, self.shape, config.z_dim, self.classes, config.condition
        self.generator = networks.build_generator(*sizes)
        self.average = networks.build_generator(*sizes)
        self.critic = networks.build_critic(
            config.arch, self.shape, self.classes, config.critic_norm, config.condition
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
            self._clip_critic = fused(self._clip_critic)

    # Algorithm 1 of 1704.00028 (gp) and of 1701.07875 (regular). What is called `update` is done by
    # each replica with its part of the batch; Keras' optimizers add the gradients of all up.

    def train_iteration(self, data, iteration):
        """Lead from state `iteration` - 1 to state `iteration`: lines 2 to 12.

        Returns the log's numbers as tensors that nobody has waited for yet, those of the critic
        from its last update.
        """
        config = self.config
        if config.decay_iterations:
            left = max(0.0, 1 - (iteration - 1) / config.decay_iterations)
            for optimizer in (self.generator_optimizer, self.critic_optimizer):
                optimizer.learning_rate = left * config.learning_rate
        for m in range(config.updates_before(iteration), config.updates_before(iteration + 1)):
            measured = self.critic_step(*self.critic_inputs(data, m))
        decay = np.float32(min(config.ema, (1 + iteration) / (10 + iteration)))
        g_loss = self.generator_step(*self.generator_inputs(iteration), decay)
        return measured | {"g_loss": g_loss}

    def critic_step(self, images, labels, drawn):
        """Update the critic once: lines 4 to 9.

        images uint8 [B, H, W, C]; labels int32 [B], which the fakes take, too; `drawn` is a
        draws.CriticDraws. Returns d_loss, w_distance and, in gp, penalty and slope, as they were
        before the update.
        """

        def update(images, labels, drawn):
            real = ops.to_network(images)  # line 4
            if drawn.noise is not None:
                real += drawn.noise
            fake, _ = self._apply(self.generator, drawn.z, labels)  # line 5
            variables = [variable.value for variable in self.critic.trainable_variables]
            with tf.GradientTape() as tape:
                real_scores, fake_scores, state = self._scores(real, fake, labels)
                d_loss = ops.critic_loss(real_scores, fake_scores)
                measured = {"w_distance": ops.w_distance(real_scores, fake_scores)}
                if self.config.mode == "gp":
                    interpolates = ops.interpolate(real, fake, drawn.alpha)  # line 6
                    slopes = ops.slopes(
                        lambda x: self._apply(self.critic, x, labels)[0], interpolates
                    )
                    penalty = ops.gradient_penalty(slopes, self.config.LAMBDA)
                    d_loss += penalty  # line 7
                    measured |= {"penalty": penalty, "slope": tf.reduce_mean(slopes)}
                part = d_loss / self.replicas.total
            self._update_critic(tape.gradient(part, variables))  # line 9
            return {"d_loss": d_loss, **measured}, state

        measured, state = self.strategy.run(update, (images, labels, drawn))
        self._assign_state(self.critic, state)
        if self.config.mode == "regular":  # line 7 of 1701.07875
            self._clip_critic()
        return {name: self.replicas.mean(value) for name, value in measured.items()}

    def generator_step(self, z, labels, decay):
        """Update the generator once, lines 11 and 12, and its average with `decay`.

        z [B, z_dim], labels [B]. Returns g_loss from before. Nothing else changes the generator's
        state.
        """

        def update(z, labels):
            variables = [variable.value for variable in self.generator.trainable_variables]
            with tf.GradientTape() as tape:
                fake, state = self._apply(self.generator, z, labels)  # line 11
                g_loss = ops.generator_loss(self._apply(self.critic, fake, labels)[0])
                part = g_loss / self.replicas.total
            self._update_generator(tape.gradient(part, variables))  # line 12
            return g_loss, state

        g_loss, state = self.strategy.run(update, (z, labels))
        self._assign_state(self.generator, state)
        self._update_average(decay)
        return self.replicas.mean(g_loss)

    def critic_inputs(self, data, m):
        """Return what `critic_step` takes for the critic update m of the run."""
        config = self.config
        part = self.replicas.share(config.batch_size)
        images, labels = data.critic_batch(config.seed, config.batch_size, m, part, config.mirror)
        sizes = config.batch_size, config.z_dim, self.shape
        drawn = draws.critic_draws(config.seed, m, *sizes, config.noise, config.latents)
        images, labels = self.replicas.split(images, labels if self.classes else None)
        drawn = self.replicas.split(*(None if x is None else x[part] for x in drawn))
        return images, labels, draws.CriticDraws(*drawn)

    def generator_inputs(self, iteration):
        """Return the latents and labels that `generator_step` takes in an iteration."""
        config = self.config
        size = config.generator_batch * config.batch_size
        part = self.replicas.share(size)
        z, labels = draws.generator_draws(
            config.seed, iteration, size, config.z_dim, self.label_counts, config.latents
        )
        return self.replicas.split(z[part], None if labels is None else labels[part])

    # The networks as functions of images or latents and int32 labels [B] (None in unconditional
    # runs).

    def _apply(self, network, x, labels, state=None):
        """Return a network's outputs in training, and what becomes of its state; changes nothing.

        The state is the variables that no optimizer trains, such as batch norm's statistics. It
        starts from the network's own, or from a given `state`.
        """
        state = network.non_trainable_variables if state is None else state
        return network.stateless_call(
            network.trainable_variables, state, self._inputs(x, labels), training=True
        )

    def _inputs(self, x, labels):
        return [x, tf.one_hot(labels, self.classes)] if self.classes else x

    def _scores(self, real, fake, labels):
        """Score real and fake images [B, H, W, C]: two tensors [B, 1], and the critic's new state.

        One pass over both does the same as two, faster, unless the critic normalises over the
        batch: then each kind is a batch of its own, as in the first program.
        """
        if self.config.critic_norm == "batch":
            real_scores, state = self._apply(self.critic, real, labels)
            fake_scores, state = self._apply(self.critic, fake, labels, state)
            return real_scores, fake_scores, state
        twice = None if labels is None else tf.tile(labels, [2])
        scores, state = self._apply(self.critic, tf.concat([real, fake], 0), twice)
        return *tf.split(scores, 2), state

    def _update_critic(self, gradients):
        self.critic_optimizer.apply(gradients, self.critic.trainable_variables)

    def _clip_critic(self):
        ops.clip_weights(
            self.critic.trainable_variables, self.config.clip_down, self.config.clip_up
        )

    def _update_generator(self, gradients):
        self.generator_optimizer.apply(gradients, self.generator.trainable_variables)

    def _update_average(self, decay):
        for average, variable in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(decay * average.value + (1.0 - decay) * variable.value)

    def _assign_state(self, network, state):
        for variable, value in zip(network.non_trainable_variables, state, strict=True):
            variable.assign(self.replicas.first(value))

    def _w_distance(self, images, labels, z):
        def measure(images, labels, z):
            real, (fake, _) = ops.to_network(images), self._apply(self.generator, z, labels)
            scores = [self._apply(self.critic, x, labels)[0] for x in (real, fake)]
            return ops.w_distance(*scores)

        return self.replicas.mean(self.strategy.run(measure, (images, labels, z)))

    def validate(self, data):
        """Measure w_distance on at most 512 held-out images and fixed latents; changes nothing."""
        size = min(self.config.batch_size, len(data.held_out), VALIDATION_IMAGES)
        count = min(len(data.held_out), VALIDATION_IMAGES) // size * size
        config = self.config
        z = draws.validation_latents(config.seed, count, config.z_dim, config.latents)
        distances = []
        for start in range(0, count, size):
            chosen = data.held_out[start : start + size]
            labels = data.labels[chosen] if self.classes else None
            batch = data.images[chosen], labels, z[start : start + size]
            distances.append(self._w_distance(*batch))  # each replica measures all of it
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
        parts = [slice(start, start + SAMPLE_BATCH) for start in range(0, len(z), SAMPLE_BATCH)]
        pictures = [self._sample(z[p], labels[p] if self.classes else None, raw) for p in parts]
        return np.concatenate(pictures)[:count]

    # Files.

    @classmethod
    def load(cls, folder):
        """Load a run's newest checkpoint or, where there is none, its shipped generator."""
        config, facts, _ = settings.read_run(folder)
        gan = cls(config, facts)
        weights.read_newest(gan, folder)
        return gan

    def save(self, prefix, iteration):
        """Write everything that going on needs to the TensorFlow checkpoint `prefix`."""
        self.iteration.assign(iteration)
        weights.write_checkpoint(self.checkpoint, prefix)

    def restore(self, prefix):
        """Read a checkpoint, with the errors of weights.read_checkpoint, and return its state."""
        weights.read_checkpoint(self.checkpoint, prefix)
        return int(self.iteration.numpy())

    def find_non_finite(self):
        """Return the name of a variable that holds a NaN or an infinity, or None."""
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
