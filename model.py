"""class WGAN: both networks, the two training steps, one iteration, pictures, saving and loading.

It follows Algorithm 1 of the two papers. Every random number comes from draws.py.
"""

import functools

import numpy as np

from system import device

tf = device.import_tensorflow()  # before Keras, which imports it, too
import keras

import draws
import networks
import ops
from distributed.inputs import Inputs
from distributed.replicas import Replicas
from run import description, settings, weights

# Pictures are computed in blocks of this size, so that a picture does not depend on their number.
SAMPLE_BATCH = 100
VALIDATION_IMAGES = 512
# Add 1 with every change that gives the runs of a released version other last bits.
ARITHMETIC = 3


class WGAN:
    """A generator, its moving average and a critic.

    `facts` (datasets.dataset.Facts) describe the images and labels. `config` (config.Config) is
    resolved for them. `replicas` (distributed.replicas) compute the steps, by default one device.
    With `averaged_only` it has only the averaged generator, for pictures. Raises Refused for a
    config that the command line would refuse.
    """

    def __init__(self, config, facts, replicas=None, averaged_only=False):
        self._config = config = settings.resolve(config, facts)
        self.facts = facts
        self.replicas = replicas or Replicas(tf.distribute.get_strategy())
        self.strategy = self.replicas.strategy
        self.shape = tuple(facts.shape)
        self.classes = len(facts.class_names) if config.conditional else 0
        self.label_counts = facts.label_counts if config.conditional else None
        self.source = None  # path of the loaded weights
        self.rates = None  # the step sizes that the optimizers have
        staged = "GPU:0" if self.replicas.alone and device.has_gpu() else None
        self.inputs = Inputs(config, self.shape, self.label_counts, self.replicas, staged)
        device.set_arithmetic(config.precision, config.deterministic)
        with self.strategy.scope():
            self._build(averaged_only)
        self._compile()
        parts = ["average", "iteration"]
        if not averaged_only:
            parts += ["generator", "critic", "generator_optimizer", "critic_optimizer"]
        self.checkpoint = tf.train.Checkpoint(**{name: getattr(self, name) for name in parts})

    @property
    def config(self):
        """The resolved Config. It cannot be replaced: the compiled steps keep its values."""
        return self._config

    def _build(self, averaged_only):
        """Make networks and optimizers."""
        config = self.config
        keras.utils.set_random_seed(config.seed)  # only for the initial weights
        mixed = config.precision == "bfloat16"
        keras.config.set_dtype_policy("mixed_bfloat16" if mixed else "float32")
        sizes = config.arch, self.shape, config.z_dim, self.classes, config.condition
        self.generator = None if averaged_only else networks.build_generator(*sizes)
        self.average = networks.build_generator(*sizes)
        self.iteration = tf.Variable(0, dtype=tf.int64)
        norm = config.critic_norm, config.condition
        if not averaged_only:
            self.critic = networks.build_critic(config.arch, self.shape, self.classes, *norm)
        keras.config.set_dtype_policy("float32")
        if averaged_only:
            return
        for average, variable in zip(self.average.variables, self.generator.variables, strict=True):
            average.assign(variable)
        optimizer = config.optimizer, config.learning_rate, config.beta1, config.beta2
        self.generator_optimizer = networks.build_optimizer(*optimizer)
        self.critic_optimizer = networks.build_optimizer(*optimizer)
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.critic_optimizer.build(self.critic.trainable_variables)

    def _compile(self):
        """Compile the steps into graphs; without AutoGraph, as no loop or branch depends on data.

        XLA makes the steps faster on a GPU and, except for points, slower on a CPU. It makes the
        element-wise updates of all variables two to three times as fast on both. Several replicas
        do not use XLA.
        """
        alone, points = self.replicas.alone, len(self.shape) == 1
        xla = (alone and (points or device.has_gpu())) or None
        graph = functools.partial(tf.function, autograph=False, jit_compile=xla)
        self.critic_step, self.generator_step = graph(self.critic_step), graph(self.generator_step)
        self._w_distance, self._sample = graph(self._w_distance), graph(self._sample)
        if alone:
            fused = functools.partial(tf.function, autograph=False, jit_compile=True)
            self._update_critic = fused(self._update_critic)
            self._update_generator = fused(self._update_generator)
            self._update_average = fused(self._update_average)
            self._clip_critic = fused(self._clip_critic)

    # Algorithm 1 of 1704.00028 (gp) and of 1701.07875 (regular). Each replica runs `update` on its
    # part of the batch, and Keras' optimizers sum the gradients of all replicas.

    def train_iteration(self, data, iteration):
        """Do one iteration, counted from 1: lines 2 to 12. Returns the numbers for the log.

        They come from `generator_step` and from the last `critic_step` that returns them. They are
        tensors, which the device may still be computing. `data` is a datasets.dataset.Data.
        """
        if iteration < 1:
            raise ValueError(f"iteration {iteration}: iterations count from 1")
        self._set_learning_rates(*self.config.learning_rates(iteration))
        critic_inputs, generator_inputs = self.inputs.of(data, iteration)
        measured = {}
        for inputs in critic_inputs:
            measured |= self.critic_step(*inputs)
        return measured | self.generator_step(*generator_inputs)

    def _set_learning_rates(self, *rates):
        """Give both optimizers their step sizes, if they do not have them: a copy to the device."""
        if rates != self.rates:
            self.critic_optimizer.learning_rate, self.generator_optimizer.learning_rate = rates
            self.rates = rates

    def critic_step(self, images, labels, drawn):
        """Update the critic once: lines 4 to 9.

        images uint8 [B, H, W, C]; labels int32 [B], for real and fake images; `drawn` is a
        draws.CriticDraws. Returns d_loss, w_distance and, in gp, penalty and slope, all computed
        before the update.
        """

        def update(images, labels, drawn):
            real = ops.to_network(images)  # line 4
            if drawn.noise is not None:
                real += drawn.noise
            fake, _ = networks.apply(self.generator, drawn.z, labels)  # line 5
            variables = [variable.value for variable in self.critic.trainable_variables]
            with tf.GradientTape() as tape:
                real_scores, fake_scores, state = self._scores(real, fake, labels)
                d_loss = ops.critic_loss(real_scores, fake_scores)
                measured = {"w_distance": ops.w_distance(real_scores, fake_scores)}
                if self.config.mode == "gp":
                    interpolates = ops.interpolate(real, fake, drawn.alpha)  # line 6
                    slopes = ops.slopes(
                        lambda x: networks.apply(self.critic, x, labels)[0], interpolates
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

    def generator_step(self, z, labels, images, decay):
        """Update the generator once, lines 11 and 12, and its average with `decay`.

        z [B, z_dim]; labels [B]; real images uint8 [B, H, W, C], or None if the loss needs none.
        Returns g_loss, computed before the update. Only this step changes the generator's state.
        """

        def update(z, labels, images):
            variables = [variable.value for variable in self.generator.trainable_variables]
            with tf.GradientTape() as tape:
                fake, state = networks.apply(self.generator, z, labels)  # line 11
                if images is None:
                    g_loss = ops.generator_loss(networks.apply(self.critic, fake, labels)[0])
                else:
                    real_scores, fake_scores, _ = self._scores(ops.to_network(images), fake, labels)
                    g_loss = ops.generator_loss(fake_scores, real_scores)
                part = g_loss / self.replicas.total
            self._update_generator(tape.gradient(part, variables))  # line 12
            return {"g_loss": g_loss}, state

        measured, state = self.strategy.run(update, (z, labels, images))
        self._assign_state(self.generator, state)
        self._update_average(decay)
        return {name: self.replicas.mean(value) for name, value in measured.items()}

    def _scores(self, real, fake, labels):
        """Score real and fake images [B, H, W, C]: two tensors [B, 1], and the critic's new state.

        One pass over both is faster than two passes and gives the same scores, except with batch
        norm. Then real and fake images are separate batches, as in the first program.
        """
        if self.config.critic_norm == "batch":
            real_scores, state = networks.apply(self.critic, real, labels)
            fake_scores, state = networks.apply(self.critic, fake, labels, state)
            return real_scores, fake_scores, state
        twice = None if labels is None else tf.tile(labels, [2])
        scores, state = networks.apply(self.critic, tf.concat([real, fake], 0), twice)
        return *tf.split(scores, 2), state

    def _update_critic(self, gradients):
        self.critic_optimizer.apply(gradients, self.critic.trainable_variables)

    def _clip_critic(self):
        low, high = self.config.clip_down, self.config.clip_up
        ops.clip_weights(self.critic.trainable_variables, low, high)

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
            real, (fake, _) = ops.to_network(images), networks.apply(self.generator, z, labels)
            scores = [networks.apply(self.critic, x, labels)[0] for x in (real, fake)]
            return ops.w_distance(*scores)

        return self.replicas.mean(self.strategy.run(measure, (images, labels, z)))

    def validate(self, data):
        """Return w_distance on at most 512 held-out images and fixed latents; changes nothing."""
        config, distances = self.config, []
        batches = data.held_out_batches(config.batch_size, VALIDATION_IMAGES)
        count = sum(len(images) for images, _ in batches)
        z = draws.validation_latents(config.seed, count, config.z_dim, config.latents)
        for (images, labels), part in zip(batches, np.split(z, len(batches)), strict=True):
            distances.append(self._w_distance(images, labels if self.classes else None, part))
        return tf.reduce_mean(distances)

    # Pictures.

    def _sample(self, z, labels, raw):
        generator = self.generator if raw else self.average
        return ops.to_pixels(generator(networks.as_inputs(generator, z, labels), training=False))

    def sample(self, z, labels=None, raw=False):
        """Make pictures from z [n, z_dim] and labels [n]: uint8 [n, H, W, C]; `raw`: no average."""
        count = len(z)
        padding = -count % SAMPLE_BATCH
        z = np.concatenate([z, np.zeros((padding, z.shape[1]), np.float32)])
        if self.classes:
            labels = np.concatenate([labels, np.zeros(padding)]).astype(np.int32)
        parts = [slice(start, start + SAMPLE_BATCH) for start in range(0, len(z), SAMPLE_BATCH)]
        pictures = [self._sample(z[p], labels[p] if self.classes else None, raw) for p in parts]
        return np.concatenate(pictures)[:count]

    def picture_inputs(self, count, seed=0, first=0, label=None):
        """Return the latents and labels of `count` pictures of a seed, from number `first` on.

        float32 [count, z_dim] and int32 [count], or None for an unconditional generator. `label` is
        the class of all pictures; without it labels are drawn with the training data's frequencies.
        """
        description.check_label(label, self.classes)
        latents = self.config.z_dim, self.config.latents
        return draws.picture_draws(seed, first, count, *latents, self.label_counts, label)

    def draw(self, count, seed=0, first=0, label=None):
        """Make what --generate writes: images uint8 [count, H, W, C], or points float32 [count, 2].

        Picture i of a seed, counted from 0, is the same for any `first` and `count`.
        """
        return self.sample(*self.picture_inputs(count, seed, first, label))

    # Files.

    @classmethod
    def load(cls, run, averaged_only=False):
        """Load the newest checkpoint of a run or, if it has none, its shipped generator.

        `run` is its folder or a description.Run. Raises Refused and Failed.
        """
        if not isinstance(run, description.Run):
            run = description.read_run(run)
        gan = cls(run.config, run.facts, averaged_only=averaged_only)
        gan.source = weights.read_newest(gan, run)
        return gan

    def environment(self):
        """Return the environment: all that the bits depend on besides config and iteration."""
        return device.environment() | {
            "replicas": self.replicas.total,
            "strategy": "none" if self.replicas.alone else "tf.distribute",
            "arithmetic": ARITHMETIC,
            "loss": ops.LOSS,
        }

    def save(self, folder, iteration):
        """Write the checkpoint of an iteration, and config.json if the folder has none.

        Raises Failed if a weight is not finite or the disk is full.
        """
        self.iteration.assign(iteration)
        weights.save(self, folder, iteration)

    def restore(self, prefix):
        """Read a checkpoint and return its iteration. Raises as weights.read_checkpoint."""
        weights.read_checkpoint(self.checkpoint, prefix, whole=self.generator is not None)
        self.rates = None
        return int(self.iteration.numpy())
