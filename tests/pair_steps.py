"""Both steps of each pair, in each mode and precision, at full or small width, and their gradients.

For tests of what a GPU computes, with or without one.
"""

import numpy as np
import tensorflow as tf
from conftest import make_data

import config
import model
from datasets import dataset
from run import settings

# Of each pair its --arch, its images in full width and in a small one, and their classes.
PAIRS = {
    "small": ("dcgan", (28, 28, 1), (8, 8, 1), 10),
    "general": ("dcgan", (48, 48, 3), (8, 8, 3), 10),
    "symmetric": ("symmetric", (28, 28, 1), (6, 6, 1), 0),
    "resnet": ("resnet", (32, 32, 3), (8, 8, 3), 10),
    "points": ("points", (2,), (2,), 0),
}
MODES = "gp", "regular"
PRECISIONS = "float32", "bfloat16"
DECAY = np.float32(0.9)  # of the averaged generator


def build(pair, mode, precision, small=False, **values):
    """Return a WGAN, and what its critic_step and its generator_step take first."""
    arch, full, tiny, classes = PAIRS[pair]
    shape = tiny if small else full
    own = {"arch": arch, "mode": mode, "precision": precision, "batch_size": 16 if small else 64}
    if pair == "points":
        own |= {"dataset": "8gaussians"}
        data = dataset.load(dataset.source_of(config.Config(**own)))
    else:
        own |= {"output_height": shape[0], "output_width": shape[1]}
        data = make_data(shape, classes, images=1000)
    flags = config.Config(**own | values)
    gan = model.WGAN(settings.resolve(flags, data.facts), data.facts)
    steps = gan.inputs.critic(data, 0), (*gan.inputs.generator(data, 1), DECAY)
    return gan, *steps


def other_inputs(gan, images):
    """Return what _w_distance and _sample take; `images` is a batch with its labels."""
    images, labels = (None if x is None else x[:8] for x in images)
    z = np.linspace(-1, 1, 100 * gan.config.z_dim, dtype=np.float32)
    z = z.reshape(100, gan.config.z_dim)
    classes = np.arange(100, dtype=np.int32) % gan.classes if gan.classes else None
    return (images, labels, z[: len(images)]), (z, classes, False)


def tensors(values):
    """Make tensors of the arrays in a step's inputs."""

    def convert(x):
        return x if x is None or isinstance(x, bool) else tf.convert_to_tensor(x)

    return tf.nest.map_structure(convert, values)


def keep_gradients(gan):
    """Let both steps keep the gradients that they compute; returns the variables that hold them.

    Two lists, of the critic and of the generator, once the steps are traced anew.
    """
    kept = []
    for name in ("critic", "generator"):
        network, update = getattr(gan, name), getattr(gan, f"_update_{name}")
        slots = [tf.Variable(tf.zeros_like(v.value)) for v in network.trainable_variables]
        kept.append(slots)

        def keep(gradients, slots=slots, update=update):
            for slot, gradient in zip(slots, gradients, strict=True):
                slot.assign(gradient)
            update(gradients)

        setattr(gan, f"_update_{name}", keep)
    return kept


def first_steps(gan, kept, critic_inputs, generator_inputs):
    """Do each step once from the weights as they are, which stay.

    Returns the losses of both by name, and the gradients of critic and generator as one vector
    each. `kept` is of `keep_gradients`.
    """
    measured, gradients = {}, []
    steps = (
        (gan.critic, gan.critic_step, critic_inputs),
        (gan.generator, gan.generator_step, generator_inputs),
    )
    for (network, step, inputs), slots in zip(steps, kept, strict=True):
        before = [variable.numpy() for variable in network.variables]
        measured |= {name: float(value) for name, value in step(*inputs).items()}
        gradients.append(np.concatenate([slot.numpy().ravel() for slot in slots]))
        for variable, value in zip(network.variables, before, strict=True):
            variable.assign(value)
    return measured, gradients


def difference(one, other):
    """Return the norm of the difference of two vectors as a share of the first one's norm."""
    return np.linalg.norm(one - other) / np.linalg.norm(one)
