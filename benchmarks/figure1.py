"""Figure 1 of the WGAN-GP paper: critics under weight clipping and under the gradient penalty.

Each critic is trained alone, until it hardly changes: real points against other real points plus
N(0, 1) noise. `python -m benchmarks.figure1 figure1.png` takes about a minute.
"""

import argparse
import time

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

import networks
import ops
from config import parse
from datasets import dataset
from model import WGAN
from pairs import PLANE
from scores import plane

LABELS = {"regular": "weight clipping, c = 0.01", "gp": "gradient penalty, LAMBDA = 10"}
STEPS, RATES = {"regular": 1500, "gp": 3000}, {"regular": 5e-4, "gp": 3e-3}
# Critics of 12 layers: their label, mode, bound of the weights and colour.
DEEP = (
    ("clip 0.001", "regular", 0.001, "#56B4E9"),
    ("clip 0.01", "regular", 0.01, "#0072B2"),
    ("clip 0.1", "regular", 0.1, "#E69F00"),
    ("gp", "gp", 0.01, "#222222"),
)
DEEP_LAYERS, DEEP_STEPS, DEEP_RATES = 12, 400, {"regular": 2e-4, "gp": 1e-3}


def build_critic(layers, bound):
    """Build a critic of points; its kernels are He's or, given a `bound`, uniform within it."""
    init = keras.initializers.RandomUniform(-bound, bound) if bound else "he_normal"
    x = points = keras.Input((2,))
    for i in range(layers):
        x = ops.relu(ops.linear(x, networks.POINTS_WIDTH, f"linear{i}", init))
    return keras.Model(points, ops.linear(x, 1, "scores", init))


def train_critic(name, mode, steps, rate, layers=3, bound=0.01):
    """Train a critic alone, with a step size that falls to 0; returns its WGAN and its data."""
    words = f"--dataset {name} --mode {mode} --LAMBDA 10 --clip_up {bound} --clip_down {-bound}"
    flags = parse(words.split())
    data = dataset.load(dataset.source_of(flags))
    gan = WGAN(flags, data.facts)
    config = gan.config
    gan.generator = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    gan.critic = build_critic(layers, bound if mode == "regular" else None)
    gan.critic_optimizer = networks.build_optimizer(
        config.optimizer, rate, config.beta1, config.beta2
    )
    gan.critic_optimizer.build(gan.critic.trainable_variables)
    for m in range(steps):
        gan.critic_optimizer.learning_rate = rate * (1 - m / steps)
        real, _, drawn = gan.inputs.critic(data, m)
        others, _, _ = gan.inputs.critic(data, steps + m)
        gan.critic_step(real, None, drawn._replace(z=others + drawn.z))
    return gan, data


def gradient_norms(critic, points):
    """Return the mean norm of the score's gradient at the points and after each hidden layer."""
    x = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(x)
        places = [x]
        for layer in critic.layers[1:]:
            x = layer(x)
            places += [x] if isinstance(layer, ops.LeakyReLU) else []
    # In float64: the square of a norm of 1e-20 is 0 in float32.
    gradients = [tf.cast(gradient, tf.float64) for gradient in tape.gradient(x, places)]
    return [float(tf.reduce_mean(tf.norm(gradient, axis=1))) for gradient in gradients]


def draw_norms(axes):
    """Train the critics of 12 layers and plot their gradients' norms."""
    for label, mode, bound, colour in DEEP:
        gan, data = train_critic(
            "swissroll", mode, DEEP_STEPS, DEEP_RATES[mode], DEEP_LAYERS, bound
        )
        norms = gradient_norms(gan.critic, data.images[data.held_out[:512]])
        axes.semilogy(norms, color=colour, marker="o", markersize=3.5, label=label)
    axes.set_title(f"norm of the critic's gradient, swissroll, {DEEP_LAYERS} layers", fontsize=11)
    axes.set_xlabel("layer (0: the point itself)", fontsize=10, labelpad=1)
    axes.legend(fontsize=10)
    axes.grid(alpha=0.25)


def draw_weights(axes, critic, title):
    """Draw the histogram of a critic's kernels."""
    kernels = [kernel.numpy().ravel() for kernel in critic.trainable_variables[::2]]
    axes.hist(np.concatenate(kernels), 50, color="#444444")
    axes.set_title(title, fontsize=10.5)
    axes.set(yticks=[])
    axes.locator_params(axis="x", nbins=3)


def main(path):
    """Train the critics and write the figure."""
    start = time.perf_counter()
    figure = Figure(figsize=(13.2, 6.7), dpi=100)
    for row, (mode, label) in enumerate(LABELS.items()):
        for column, name in enumerate(PLANE):
            gan, data = train_critic(name, mode, STEPS[mode], RATES[mode])
            axes = figure.add_axes((0.03 + 0.208 * column, 0.525 - 0.465 * row, 0.2, 0.394))
            plane.draw_levels(axes, plane.critic_of(gan))
            real = data.images[data.held_out[: plane.COMPARED]]
            axes.scatter(*real.T, s=5, c=plane.REAL, linewidths=0, alpha=0.7)
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(name, fontsize=13)
            if column == 0:
                axes.set_ylabel(label, fontsize=13)
        where = figure.add_axes((0.7 + 0.15 * row, 0.06, 0.135, 0.37))
        draw_weights(where, gan.critic, f"weights, {mode}, {name}")
    draw_norms(figure.add_axes((0.7, 0.56, 0.285, 0.359)))
    caption = "Orange: real points. Lines: the critic's level sets, dark where its score is high."
    figure.text(0.03, 0.018, caption, fontsize=10)
    figure.savefig(path)
    print(f"{path}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="PNG file to write")
    main(parser.parse_args().path)
