"""One step, one iteration, one run: what changes, what stays, and that the same bits come again."""

import dataclasses
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_config, make_data, make_gan, run_to_end, values_of
from numpy.testing import assert_allclose, assert_array_equal

import draws
import networks
import ops
from run import log, weights
from system import device

pytestmark = pytest.mark.usefixtures("with_xla")
DATA = make_data(classes=3)
# Kinds of configurations. Every test takes those that it needs, each of which is built once.
KINDS = {
    "gp": {"conditional": True},
    "gp, layer norm": {"critic_norm": "layer", "conditional": True, "noise": 0.1},
    "gp, sgd": {"conditional": True, "optimizer": "sgd", "learning_rate": 0.01, "noise": 0.2},
    "gp, bfloat16": {"precision": "bfloat16", "conditional": True},
    "regular, dcgan": {
        **{"mode": "regular", "arch": "dcgan", "conditional": True, "critic_boost": 3},
        "clip_down": -0.02,
    },
    "regular, sgd": {"mode": "regular", "critic_norm": "none", "optimizer": "sgd"},
    "regular, bfloat16": {"mode": "regular", "precision": "bfloat16", "critic_boost": 3},
}
OWNERS = ("generator", "average", "critic", "generator_optimizer", "critic_optimizer")


def all_variables(gan):
    """List the variables of a model: networks and optimizers."""
    return [variable for name in OWNERS for variable in getattr(gan, name).variables]


@pytest.fixture(scope="module")
def made():
    """The models made so far, with the values that their variables had at first."""
    return {}


@pytest.fixture
def model_of(made):
    """Return a function that gives the model of a kind as it was when it was new."""

    def give(kind):
        if kind not in made:
            gan = make_gan(DATA, **KINDS[kind])
            made[kind] = gan, [variable.numpy() for variable in all_variables(gan)]
        gan, values = made[kind]
        for variable, value in zip(all_variables(gan), values, strict=True):
            variable.assign(value)
        return gan

    return give


@pytest.fixture(params=KINDS)
def gan(request, model_of):
    """A model of every kind."""
    return model_of(request.param)


def moved(before, network):
    return [
        v.path
        for old, v in zip(before, network.variables, strict=True)
        if not np.array_equal(old, v.numpy())
    ]


def generator_inputs(gan, i=1):
    return gan.inputs.generator(DATA, i)


def test_a_critic_step_moves_all_of_the_critic_and_nothing_of_the_generator(gan):
    generator, average, critic = map(values_of, (gan.generator, gan.average, gan.critic))
    gan.critic_step(*gan.inputs.critic(DATA, 0))
    assert moved(generator, gan.generator) == []
    assert moved(average, gan.average) == []
    # The last bias shifts all scores alike, so no loss depends on it.
    still = {v.path for v in gan.critic.variables} - set(moved(critic, gan.critic))
    assert still <= {gan.critic.variables[-1].path}


def biases_before_batch_norm(network):
    """List the biases that a batch norm takes away again."""
    norms = [x for x in network.layers if isinstance(x, keras.layers.BatchNormalization)]
    return {norm.input._keras_history.operation.bias.path for norm in norms}


def test_a_generator_step_moves_all_of_the_generator_and_nothing_of_the_critic(gan):
    generator, critic = map(values_of, (gan.generator, gan.critic))
    gan.generator_step(*generator_inputs(gan), np.float32(0.5))
    assert moved(critic, gan.critic) == []
    still = {v.path for v in gan.generator.variables} - set(moved(generator, gan.generator))
    assert still <= biases_before_batch_norm(gan.generator)


def test_the_average_follows_the_generator_moving_statistics_included(model_of):
    gan = model_of("regular, dcgan")
    before = values_of(gan.average)
    gan.generator_step(*generator_inputs(gan), np.float32(0.75))
    assert any("moving" in variable.path for variable in gan.average.variables)
    for old, average, new in zip(
        before, gan.average.variables, values_of(gan.generator), strict=True
    ):
        assert_allclose(average.numpy(), 0.75 * old + 0.25 * new, atol=1e-7, err_msg=average.path)


def change(monkeypatch, gan, **values):
    """Change the configuration that a model asks from iteration to iteration."""
    config = dataclasses.replace(gan.config, **values)
    monkeypatch.setattr(gan, "_config", config)
    monkeypatch.setattr(gan.inputs, "config", config)


@pytest.mark.parametrize("ema, expected", [(0.999, 5 / 14), (0.1, 0.1), (0.0, 0.0)])
def test_the_averages_decay_warms_up(model_of, ema, expected, monkeypatch):
    gan, seen = model_of("gp"), []
    change(monkeypatch, gan, ema=ema)
    monkeypatch.setattr(gan, "critic_step", lambda *inputs: {})
    monkeypatch.setattr(gan, "generator_step", lambda *inputs: seen.append(inputs[-1]) or {})
    gan.train_iteration(DATA, 4)
    assert_allclose(seen, [expected])


def test_without_ema_the_average_is_the_generator(model_of, monkeypatch):
    gan = model_of("gp")
    change(monkeypatch, gan, ema=0.0)
    gan.train_iteration(DATA, 1)
    for average, variable in zip(gan.average.variables, gan.generator.variables, strict=True):
        assert_array_equal(average.numpy(), variable.numpy())


def test_the_critics_loss_is_penalty_minus_distance_and_the_step_descends_it(model_of):
    gan = model_of("gp, sgd")
    gan.critic_optimizer.learning_rate = 1e-4
    inputs = gan.inputs.critic(DATA, 0)
    first = {name: float(value) for name, value in gan.critic_step(*inputs).items()}
    second = {name: float(value) for name, value in gan.critic_step(*inputs).items()}
    assert_allclose(first["d_loss"], first["penalty"] - first["w_distance"], rtol=1e-5)
    assert second["d_loss"] < first["d_loss"]


def test_a_critic_step_computes_algorithm_1_line_by_line(model_of):
    """Lines 4 to 8 written out with separate passes move the critic as the step does."""
    gan = model_of("gp, sgd")
    images, labels, drawn = gan.inputs.critic(DATA, 0)
    z, alpha, y = tf.constant(drawn.z), drawn.alpha, tf.one_hot(labels, 3)
    weights = [v.value for v in gan.critic.trainable_variables]
    fake = gan.generator([z, y], training=True)
    real = tf.constant(images.astype(np.float32) / 127.5 - 1 + drawn.noise)
    between = alpha.reshape(-1, 1, 1, 1) * fake + (1 - alpha.reshape(-1, 1, 1, 1)) * real
    with tf.GradientTape() as tape:
        with tf.GradientTape() as inner:
            inner.watch(between)
            scores = gan.critic([between, y])
        gradient = inner.gradient(scores, between)
        slope = tf.norm(tf.reshape(gradient, [8, -1]), axis=1)
        loss = tf.reduce_mean(
            gan.critic([fake, y]) - gan.critic([real, y]) + 10 * (slope[:, None] - 1) ** 2
        )
    expected = [
        w.numpy() - 0.01 * g.numpy() if g is not None else w.numpy()
        for w, g in zip(weights, tape.gradient(loss, weights), strict=True)
    ]
    measured = gan.critic_step(images, labels, drawn)
    assert_allclose(measured["d_loss"], loss, rtol=1e-5)
    assert_allclose(measured["slope"], tf.reduce_mean(slope), rtol=1e-5)
    for variable, value in zip(gan.critic.trainable_variables, expected, strict=True):
        assert_allclose(variable.numpy(), value, atol=1e-5, err_msg=variable.path)


def test_after_a_clip_step_every_trainable_critic_variable_is_within_the_bounds(model_of):
    gan = model_of("regular, dcgan")
    gan.critic_step(*gan.inputs.critic(DATA, 0))
    for variable in gan.critic.trainable_variables:
        assert variable.numpy().min() >= np.float32(-0.02), variable.path
        assert variable.numpy().max() <= np.float32(0.01), variable.path
    unclipped = [v for v in gan.critic.non_trainable_variables if "variance" in v.path]
    assert unclipped and all(v.numpy().max() > 0.01 for v in unclipped)


def test_clipping_comes_after_the_update(model_of):
    """A step so long that it throws every weight out ends with weights on the bounds."""
    gan = model_of("regular, sgd")
    gan.critic_optimizer.learning_rate = 1e9
    gan.critic_step(*gan.inputs.critic(DATA, 0))
    kernel = np.abs(gan.critic.trainable_variables[0].numpy())
    assert_allclose(kernel[kernel > 0], 0.01)


def test_every_critic_update_gets_a_new_real_batch(model_of, monkeypatch):
    gan, batches = model_of("gp"), []
    change(monkeypatch, gan, critic_boost=7)
    monkeypatch.setattr(gan, "critic_step", lambda *inputs: batches.append(inputs) or {})
    gan.train_iteration(DATA, 10)  # boosted
    gan.train_iteration(DATA, 11)
    assert len(batches) == 7 + 5
    first = gan.config.updates_before(10)
    for m, (images, labels, drawn) in enumerate(batches, first):
        expected = gan.inputs.critic(DATA, m)
        assert_array_equal(images, expected[0])
        assert_array_equal(labels, expected[1])
        assert_array_equal(drawn.z, expected[2].z)
        assert_array_equal(drawn.alpha, expected[2].alpha)
        assert drawn.noise is None
    for kind in ([b[0] for b in batches], [b[2].z for b in batches], [b[2].alpha for b in batches]):
        assert len(np.unique(kind, axis=0)) == len(batches)


def test_there_is_no_batch_norm_under_the_penalty():
    norm = make_config(arch="dcgan").critic_norm
    critic = networks.build_critic("dcgan", (8, 8, 1), 0, norm)
    kinds = {type(layer) for layer in critic._flatten_layers()}
    assert keras.layers.BatchNormalization not in kinds


def test_in_regular_mode_real_and_fake_are_separate_batches_for_batch_norm(model_of):
    gan = model_of("regular, dcgan")
    images, labels, drawn = gan.inputs.critic(DATA, 0)
    real, (fake, _) = ops.to_network(images), networks.apply(gan.generator, drawn.z, labels)
    real_scores, fake_scores = (networks.apply(gan.critic, x, labels)[0] for x in (real, fake))
    expected = np.mean(real_scores) - np.mean(fake_scores)
    measured = gan.critic_step(*gan.inputs.critic(DATA, 0))
    assert_allclose(measured["w_distance"], expected, atol=1e-7)


def test_in_regular_mode_penalty_and_slope_are_null(model_of, tmp_path):
    gan = model_of("regular, sgd")
    measured = gan.train_iteration(DATA, 11) | {"w_distance_val": 0.0}
    row = log.Log(tmp_path, 0, 0, 50).write(50, 0, measured, 0)
    assert row["penalty"] is None and row["slope"] is None
    assert row["d_loss"] == pytest.approx(-row["w_distance"])


def test_each_step_is_traced_once(gan):
    for i in range(9, 14):
        gan.train_iteration(DATA, i)
    assert gan.critic_step.experimental_get_tracing_count() == 1
    assert gan.generator_step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("mode", ["gp", "regular"])
def test_in_bfloat16_the_layers_are_and_nothing_else(model_of, mode):
    gan = model_of(f"{mode}, bfloat16")
    kinds = {v.dtype for v in all_variables(gan) if "iteration" not in v.path}
    assert kinds == {"float32"}
    for network, last in ((gan.generator, "tanh"), (gan.critic, "linear1")):
        for layer in network.layers:
            if layer.weights and layer.name != last:
                assert layer.compute_dtype == "bfloat16", layer.name
        assert network.get_layer(last).compute_dtype == "float32"
        assert network.output.dtype == "float32"
    measured = gan.critic_step(*gan.inputs.critic(DATA, 0))
    assert {tensor.dtype for tensor in measured.values()} == {tf.float32}


def test_bfloat16_computes_what_float32_does_to_its_precision(model_of):
    gans = [model_of(kind) for kind in ("gp", "gp, bfloat16")]
    steps = [gan.critic_step(*gan.inputs.critic(DATA, 0)) for gan in gans]
    for name, value in steps[0].items():
        assert_allclose(steps[1][name], value, rtol=0.02, atol=0.02, err_msg=name)
        assert float(steps[1][name]) != float(value)


@pytest.mark.parametrize(
    "lines, expected",
    [({"flags": "fpu avx512_bf16"}, True), ({"Features": "fp bf16"}, True), ({}, False)],
)
def test_the_processors_bfloat16_is_found(monkeypatch, lines, expected):
    monkeypatch.setattr(device, "_cpu_info", lambda key: lines.get(key, ""))
    assert device.has_bfloat16() is expected


def test_validation_changes_nothing_and_repeats(gan):
    before = [values_of(network) for network in (gan.generator, gan.average, gan.critic)]
    assert float(gan.validate(DATA)) == float(gan.validate(DATA))
    for old, network in zip(before, (gan.generator, gan.average, gan.critic), strict=True):
        assert moved(old, network) == []


def test_validation_sees_held_out_images_only(model_of, monkeypatch):
    gan, seen = model_of("gp"), []
    monkeypatch.setattr(gan, "_w_distance", lambda images, labels, z: seen.append(images) or 0.0)
    gan.validate(DATA)
    assert_array_equal(np.concatenate(seen), DATA.images[DATA.held_out])


def test_a_restored_run_goes_on_bit_for_bit(gan, tmp_path):
    for i in range(1, 5):
        gan.train_iteration(DATA, i)
        if i == 2:
            gan.save(tmp_path, 2)
    wanted = [variable.numpy() for variable in all_variables(gan)]
    for variable in all_variables(gan):
        variable.assign(tf.ones_like(variable.value))
    assert gan.restore(str(tmp_path / "ckpt-2")) == 2
    for i in range(3, 5):
        gan.train_iteration(DATA, i)
    for variable, value in zip(all_variables(gan), wanted, strict=True):
        assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def resume_in_another_model(arch, shape, place):
    """Assert that a second model goes on from a checkpoint with the bits of the first."""
    data = make_data(shape, classes=10, images=200)
    values = {"arch": arch, "batch_size": 64, "conditional": True, "critic_num": 1}
    whole, second = (make_gan(data, **values, seed=seed) for seed in (0, 5))
    second.inputs.config = whole.config  # other initial weights, but the same draws
    whole.train_iteration(data, 1)
    whole.save(place, 1)
    assert second.restore(f"{place}/ckpt-1") == 1
    for gan in (whole, second):
        gan.train_iteration(data, 2)
    for a, b in zip(all_variables(whole), all_variables(second), strict=True):
        assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


@pytest.mark.parametrize(
    "arch, shape",
    [("dcgan", (28, 28, 1)), pytest.param("resnet", (32, 32, 3), marks=pytest.mark.slow)],
)
def test_a_full_width_run_goes_on_bit_for_bit_in_another_model(arch, shape, tmp_path):
    """The default networks of MNIST, with an iteration before and one after the checkpoint.

    In a process of its own, which gives back 600 MB that TensorFlow would keep.
    """
    call = f"import test_model; test_model.resume_in_another_model({arch!r}, {shape}, '.')"
    found = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    done = run_to_end([sys.executable, "-c", call], cwd=tmp_path, env=found)
    assert done.returncode == 0, done.stderr


def test_pictures_do_not_depend_on_how_many_are_made(model_of):
    gan = model_of("gp")
    z, labels = draws.picture_draws(0, 0, 230, gan.config.z_dim, "uniform", gan.label_counts)
    many = gan.sample(z, labels)
    assert many.shape == (230, 8, 8, 1) and many.dtype == np.uint8
    assert_array_equal(gan.sample(z[:1], labels[:1]), many[:1])
    assert_array_equal(gan.sample(z[:130], labels[:130]), many[:130])


def test_the_generator_alone_is_kept_in_half_precision(model_of, tmp_path):
    gan = model_of("regular, dcgan")
    gan.train_iteration(DATA, 11)
    weights.write_generator(tmp_path / "generator.npz", gan.average)
    wanted = values_of(gan.average)
    for variable in (*gan.average.variables, *gan.generator.variables):
        variable.assign(tf.ones_like(variable.value))
    weights.read_generator(tmp_path / "generator.npz", gan)
    for network in (gan.average, gan.generator):
        for variable, value in zip(network.variables, wanted, strict=True):
            assert_allclose(variable.numpy(), value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name, kind, own",
    [
        ("adam", keras.optimizers.Adam, {"beta_1": 0.3, "beta_2": 0.8, "epsilon": 1e-8}),
        ("rmsprop", keras.optimizers.RMSprop, {"rho": 0.9, "momentum": 0.0, "epsilon": 1e-10}),
        ("sgd", keras.optimizers.SGD, {"momentum": 0.0}),
    ],
)
def test_the_optimizer_is_what_the_flags_and_the_readme_say(name, kind, own):
    optimizer = networks.build_optimizer(name, 0.01, 0.3, 0.8)
    assert type(optimizer) is kind
    assert_allclose(float(optimizer.learning_rate), 0.01)
    assert {key: getattr(optimizer, key) for key in own} == own


def test_both_networks_have_that_optimizer(gan):
    config = gan.config
    wanted = networks.build_optimizer(
        config.optimizer, config.learning_rate, config.beta1, config.beta2
    )
    for optimizer in (gan.generator_optimizer, gan.critic_optimizer):
        assert type(optimizer) is type(wanted)
        config, expected = optimizer.get_config(), wanted.get_config()
        assert config | {"name": ""} == expected | {"name": ""}
    assert gan.generator_optimizer is not gan.critic_optimizer
