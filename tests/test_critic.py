"""The critic loop against known answers: the penalty's derivative, distances, state and log."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import log_rows, make_config, make_data, make_facts, make_gan
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment

import config as flags
import draws
import model
import networks
import ops
from datasets import dataset
from distributed.replicas import Replicas
from pairs import PAIRS
from run import description, settings

# The penalty's own gradient, through every critic that --arch and --critic_norm can name.

# The networks, how labels enter them, and the shapes of what they score.
CRITICS = sorted(
    {
        (pair.arch, how, shape)
        for pair in PAIRS
        for how in pair.conditions or (None,)
        for shape in ([(2,)] if pair.arch == "points" else [(8, 8, 1), (7, 9, 3)])
    }
)
# Without the norm that may not be under the penalty.
NORMS = [n for n in flags.FLAGS["critic_norm"].metadata["choices"] if n not in ("auto", "batch")]


def make_steep(critic, rng):
    """Give a critic weights with which it is not flat, as it is with the initial ones."""
    for variable in critic.trainable_variables:
        noise = rng.standard_normal(variable.shape)
        fan_in = np.prod(variable.shape[:-1])
        scaled = noise * np.sqrt(2 / fan_in) if noise.ndim > 1 else variable.numpy() + 0.3 * noise
        variable.assign(scaled)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("arch, condition, shape", CRITICS)
def test_the_gradient_of_the_penalty_agrees_with_finite_differences(
    arch, condition, shape, classes, norm, float64
):
    """In float64, for each variable along a direction of its own.

    With a step of 1e-7 rounding costs about 1e-16 / 1e-7, and hardly an activation crosses the kink
    of the leaky ReLU. A derivative that is wrong by design costs far more than the 1e-6 allowed.
    """
    rng, classes = np.random.default_rng(0), classes if condition else 0
    critic = networks.build_critic(arch, shape, classes, norm, condition)
    make_steep(critic, rng)
    images = tf.constant(rng.standard_normal((2, *shape)))
    y = tf.one_hot([0, 2], classes, dtype=tf.float64)

    @tf.function(autograph=False)
    def slopes():
        return ops.slopes(lambda x: critic([x, y] if classes else x), images)

    def penalty():
        return ops.gradient_penalty(slopes(), 10.0)

    variables = critic.trainable_variables
    kernel = variables[-2]  # of the last layer, on which all slopes depend linearly: above 1 they
    kernel.assign(kernel * 2 / np.min(slopes()))  # give a penalty of one side a value, too
    with tf.GradientTape() as tape:
        value = penalty()
    gradients = tape.gradient(value, [v.value for v in variables], unconnected_gradients="zero")
    found, expected = [], []
    for variable, gradient in zip(variables, gradients, strict=True):
        start, direction = variable.numpy(), rng.standard_normal(variable.shape)
        ends = []
        for step in (1e-7, -1e-7):
            variable.assign(start + step * direction)
            ends.append(penalty())
        variable.assign(start)
        expected.append((ends[0] - ends[1]) / 2e-7)
        found.append(np.sum(gradient * direction))
    assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=str([v.path for v in variables]))
    assert max(np.abs(found)) > 0.1  # from a flat critic nothing could be learnt here


# Distances that are known, by the whole critic loop. An image is a point, and so is a latent, of
# which the generator makes the image of the same numbers.


def build_identity(arch, shape, z_dim, classes, condition=None):
    z = keras.Input((z_dim,))
    return keras.Model(z, keras.layers.Reshape(shape)(z))


def build_linear(arch, shape, classes, norm, condition=None):
    x = keras.Input(shape)
    return keras.Model(x, ops.linear(keras.layers.Flatten()(x), 1, "linear"))


def build_perceptron(arch, shape, classes, norm, condition=None):
    x = keras.Input(shape)
    h = keras.layers.Flatten()(x)
    for k in range(2):
        h = ops.lrelu(ops.linear(h, 64, f"linear{k}", init="he_normal"))
    return keras.Model(x, ops.linear(h, 1, "linear2", init="he_normal"))


@pytest.fixture
def train_critic(monkeypatch):
    """Return a function that trains a critic: (what each step measured, the critic)."""

    def train(build_critic, images, points, steps, **values):
        """`images` uint8 [B, 1, n, 1] are the real points, `points` [B, n] the fake ones."""
        monkeypatch.setattr(networks, "build_generator", build_identity)
        monkeypatch.setattr(networks, "build_critic", build_critic)
        facts = make_facts(images.shape[1:])
        z_dim = points.shape[1]
        gan = model.WGAN(make_config(facts, z_dim=z_dim, critic_norm="none", **values), facts)
        drawn = [draws.critic_draws(0, m, len(points), z_dim, "uniform") for m in range(steps)]
        measured = [gan.critic_step(images, None, d._replace(z=points)) for d in drawn]
        columns = {name: np.array([row[name] for row in measured]) for name in measured[0]}
        return columns, gan.critic

    return train


@pytest.mark.usefixtures("with_xla")
@pytest.mark.parametrize("weight", [1.0, 10.0])
def test_between_two_points_a_linear_critics_slope_is_1_plus_d_over_2_lambda(weight, train_critic):
    """A critic of slope s, laid along the line between the points, gains s d - LAMBDA (s - 1)^2.

    Its derivative d - 2 LAMBDA (s - 1) is 0 at s = 1 + d / (2 LAMBDA), hence w_distance = s d: more
    than the distance, by the share d / (2 LAMBDA).
    """
    images = np.tile(np.array([255, 0], np.uint8).reshape(1, 1, 2, 1), (4, 1, 1, 1))  # (1, -1)
    points = np.tile(np.array([-0.5, 0.25], np.float32), (4, 1))
    d = np.hypot(1.5, -1.25)
    measured, critic = train_critic(
        build_linear, images, points, 400, LAMBDA=weight, optimizer="sgd", learning_rate=0.05
    )
    slope = 1 + d / (2 * weight)
    direction = np.array([[1.5], [-1.25]]) / d  # from the fake point to the real one
    assert_allclose(critic.weights[0].numpy(), slope * direction, rtol=1e-5)
    assert_allclose(measured["slope"][-1], slope, rtol=1e-5)
    assert_allclose(measured["w_distance"][-1], slope * d, rtol=1e-5)
    assert_allclose(measured["penalty"][-1], weight * (slope - 1) ** 2, rtol=1e-4)


@pytest.mark.usefixtures("with_xla")
@pytest.mark.parametrize("count, seed", [(4, 1), (8, 0), (8, 3)])
def test_a_trained_critics_w_distance_is_the_earth_movers_distance(count, seed, train_critic):
    """Random points in a square, each real one in a row with the fake one that it is moved to.

    Then the interpolates lie where the best critic has slope 1 (1704.00028, proposition 1), so that
    it gains the exact distance W, the mean of the d of all pairs. What no critic can gain more than
    is the mean of d + d^2 / (4 LAMBDA), by the test above for each line; at this bound w_distance
    is the mean of d + d^2 / (2 LAMBDA). Hence it comes to rest between W and that, 3 to 6 % above.
    Its mean over 100 updates may be another 4 % off: Adam's steps are finite.
    """
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 1, 2, 1), dtype=np.uint8)
    real = images.reshape(count, 2) / 127.5 - 1
    points = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    distances = np.linalg.norm(real[:, None] - points, axis=2)
    matched = linear_sum_assignment(distances)
    d = distances[matched]
    images = np.repeat(images, 64 // count, axis=0)  # several alphas for each pair
    points = np.repeat(points[matched[1]], 64 // count, axis=0)
    measured, _ = train_critic(build_perceptron, images, points, 1000, learning_rate=0.002)
    found = np.mean(measured["w_distance"][-100:])
    assert 0.96 * np.mean(d) < found < 1.04 * np.mean(d + d**2 / 20)


# A critic's own state.


class Calls(keras.layers.Layer):
    """Passes on what it gets, and counts the times in training."""

    def build(self, input_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.calls.assign_add(1.0)
        return x


def build_counting(arch, shape, classes, norm, condition=None):
    x = keras.Input(shape)
    h = ops.norm(Calls(name="count")(keras.layers.Flatten()(x)), norm, "norm")
    return keras.Model(x, ops.linear(h, 1, "linear"))


def build_spectral(arch, shape, classes, norm, condition=None):
    x = keras.Input(shape)
    dense = keras.layers.Dense(16)
    h = keras.layers.SpectralNormalization(dense, name="spectral")(keras.layers.Flatten()(x))
    return keras.Model(x, ops.linear(ops.lrelu(h), 1, "linear1"))


@pytest.mark.parametrize("devices", [None, ["CPU:0"]])
@pytest.mark.parametrize(
    "values, passes",
    [
        ({"critic_norm": "none"}, 1),  # real and fake together; not the penalty's
        ({"mode": "regular", "critic_norm": "none"}, 1),
        ({"mode": "regular"}, 2),  # batch norm: real and fake apart
    ],
)
def test_a_layers_own_state_moves_with_critic_steps_alone(values, passes, devices, monkeypatch):
    monkeypatch.setattr(networks, "build_critic", build_counting)
    data = make_data()
    replicas = devices and Replicas(tf.distribute.MirroredStrategy(devices))
    gan = model.WGAN(make_config(data.facts, critic_num=3, **values), data.facts, replicas)
    calls = gan.critic.get_layer("count").calls
    for i in (11, 12):
        gan.train_iteration(data, i)
        gan.validate(data)
    assert calls.numpy() == 2 * 3 * passes
    assert gan.critic_step.experimental_get_tracing_count() == 1


def test_spectral_normalisation_finds_the_largest_singular_value(monkeypatch):
    """Keras' layer makes one step of the power iteration per pass, from the vector it has kept."""
    monkeypatch.setattr(networks, "build_critic", build_spectral)
    data = make_data()
    gan = make_gan(data, learning_rate=1e-9)
    kernel = gan.critic.get_layer("spectral").layer.kernel.numpy()
    for m in range(100):
        gan.critic_step(*gan.inputs.critic(data, m))
    u = gan.critic.get_layer("spectral").vector_u.numpy()
    assert_allclose(np.linalg.norm(u @ kernel.T), np.linalg.norm(kernel, 2), rtol=1e-3)


# The log, and the optimizers.


def test_another_loss_leaves_the_distance_in_the_log(monkeypatch):
    monkeypatch.setattr(ops, "critic_loss", lambda real, fake: tf.reduce_mean(fake**2 - real))
    data = make_data()
    gan = make_gan(data, mode="regular", critic_norm="none")
    images, labels, drawn = gan.inputs.critic(data, 0)
    distance = float(gan._w_distance(images, labels, drawn.z))
    measured = gan.critic_step(images, labels, drawn)
    assert_allclose(measured["w_distance"], distance, rtol=1e-4)
    assert abs(float(measured["d_loss"]) + distance) > 0.01


def test_a_row_tells_of_the_last_critic_update_before_it_and_of_the_state_after(
    folder, tmp_path, monkeypatch
):
    """Row 30 of the log, found again from the checkpoint of state 20."""
    config, facts = description.read_run(folder)[1:3]
    given = flags.Config(**settings.kept(config) | {"data_dir": str(tmp_path / "data")})
    data = dataset.load(dataset.source_of(given))
    gan = model.WGAN(config, facts)
    gan.restore(str(folder / "ckpt-20"))
    step, before = gan.critic_step, []

    def measure_and_step(images, labels, drawn):
        before.append(float(gan._w_distance(images, labels, drawn.z)))
        return step(images, labels, drawn)

    monkeypatch.setattr(gan, "critic_step", measure_and_step)
    for i in range(21, 31):
        earlier = float(gan.validate(data))
        gan.train_iteration(data, i)
    row = log_rows(folder)[2]
    assert row["iteration"] == 30 and len(before) == 10 * config.critic_num
    assert_allclose(row["w_distance"], before[-1], rtol=1e-4)
    assert abs(row["w_distance"] - before[-2]) > 1e-3 * abs(before[-1])
    assert_allclose(row["w_distance_val"], gan.validate(data), rtol=1e-4)
    assert abs(row["w_distance_val"] - earlier) > 1e-3 * abs(earlier)


@pytest.mark.parametrize(
    "name, gradient, share",
    [
        # m = 0.5 g, v = 0.1 g^2; corrected by 1 - 0.5 and, under the root, by 1 - 0.9
        ("adam", 1e-8, np.sqrt(0.1) * 1e-8 / (np.sqrt(0.1) * 1e-8 + 1e-8)),
        ("rmsprop", 1e-5, 1e-5 / np.sqrt(0.1 * 1e-10 + 1e-10)),
    ],
)
def test_the_optimizers_epsilons_are_tensorflow_1s(name, gradient, share):
    """A first step on a gradient as small as epsilon: that share of the learning rate."""
    optimizer = networks.build_optimizer(name, 0.5, 0.5, 0.9)
    variable = keras.Variable([0.0])
    optimizer.apply([tf.constant([gradient])], [variable])
    assert_allclose(variable.numpy(), [-0.5 * share], rtol=1e-5)
