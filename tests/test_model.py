"""One step, one iteration, one run: what changes, what stays, and that the same bits come again."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_data, make_gan, values_of
from numpy.testing import assert_allclose, assert_array_equal

import device
import draws
import ops

MODES = [
    {"mode": "gp"},
    {"mode": "gp", "critic_norm": "layer", "conditional": True, "noise": 0.1},
    {"mode": "regular", "critic_boost": 3, "conditional": True, "arch": "dcgan"},
    {"mode": "regular", "critic_norm": "none", "optimizer": "sgd"},
    {"mode": "gp", "precision": "bfloat16", "conditional": True, "noise": 0.1},
    {"mode": "regular", "precision": "bfloat16", "critic_boost": 3},
]


def moved(before, network):
    return [
        v.path
        for old, v in zip(before, network.variables, strict=True)
        if not np.array_equal(old, v.numpy())
    ]


@pytest.mark.parametrize("values", MODES)
def test_a_critic_step_moves_all_of_the_critic_and_nothing_of_the_generator(values):
    data = make_data(classes=3)
    gan = make_gan(data, **values)
    generator, average, critic = map(values_of, (gan.generator, gan.average, gan.critic))
    gan.critic_step(*gan.critic_inputs(data, 0))
    assert moved(generator, gan.generator) == []
    assert moved(average, gan.average) == []
    # The last bias shifts all scores alike, so no loss depends on it.
    still = {v.path for v in gan.critic.variables} - set(moved(critic, gan.critic))
    assert still <= {gan.critic.variables[-1].path}


@pytest.mark.parametrize("values", MODES)
def test_a_generator_step_moves_all_of_the_generator_and_nothing_of_the_critic(values):
    data = make_data(classes=3)
    gan = make_gan(data, **values)
    generator, critic = map(values_of, (gan.generator, gan.critic))
    z, labels = draws.generator_draws(0, 1, 8, gan.config.z_dim, gan.label_counts)
    gan.generator_step(z, labels, np.float32(0.5))
    assert moved(critic, gan.critic) == []
    still = {v.path for v in gan.generator.variables} - set(moved(generator, gan.generator))
    assert all(path.endswith("bias") for path in still)  # before a batch norm they have no effect


def test_the_average_follows_the_generator_moving_statistics_included():
    data = make_data()
    gan = make_gan(data, arch="dcgan")
    before = values_of(gan.average)
    z, _ = draws.generator_draws(0, 1, 8, gan.config.z_dim)
    gan.generator_step(z, None, np.float32(0.75))
    for old, average, new in zip(
        before, gan.average.variables, values_of(gan.generator), strict=True
    ):
        assert_allclose(average.numpy(), 0.75 * old + 0.25 * new, atol=1e-7, err_msg=average.path)


@pytest.mark.parametrize("ema, expected", [(0.999, 5 / 14), (0.1, 0.1), (0.0, 0.0)])
def test_the_averages_decay_warms_up(ema, expected, monkeypatch):
    data = make_data()
    gan = make_gan(data, ema=ema)
    seen = []
    monkeypatch.setattr(gan, "generator_step", lambda z, labels, decay: seen.append(decay))
    gan.train_iteration(data, 4)
    assert_allclose(seen, [expected])


def test_without_ema_the_average_is_the_generator():
    data = make_data()
    gan = make_gan(data, ema=0.0)
    gan.train_iteration(data, 1)
    for average, variable in zip(gan.average.variables, gan.generator.variables, strict=True):
        assert_array_equal(average.numpy(), variable.numpy())


def test_the_critics_loss_is_penalty_minus_distance_and_the_step_descends_it():
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True, optimizer="sgd", learning_rate=1e-4)
    inputs = gan.critic_inputs(data, 0)
    first = {name: float(value) for name, value in gan.critic_step(*inputs).items()}
    second = {name: float(value) for name, value in gan.critic_step(*inputs).items()}
    assert_allclose(first["d_loss"], first["penalty"] - first["w_distance"], rtol=1e-5)
    assert second["d_loss"] < first["d_loss"]


def test_a_critic_step_computes_algorithm_1_line_by_line():
    """Lines 4 to 8 written out with separate passes move the critic as the step does."""
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True, optimizer="sgd", learning_rate=0.01, noise=0.2)
    images, labels, z, alpha, noise = gan.critic_inputs(data, 0)
    z, y = tf.constant(z), tf.one_hot(labels, 3)
    weights = [v.value for v in gan.critic.trainable_variables]
    fake = gan.generator([z, y], training=True)
    real = tf.constant(images.astype(np.float32) / 127.5 - 1 + noise)
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
    measured = gan.critic_step(images, labels, z, alpha, noise)
    assert_allclose(measured["d_loss"], loss, rtol=1e-5)
    assert_allclose(measured["slope"], tf.reduce_mean(slope), rtol=1e-5)
    for variable, value in zip(gan.critic.trainable_variables, expected, strict=True):
        assert_allclose(variable.numpy(), value, atol=1e-5, err_msg=variable.path)


def test_after_a_clip_step_every_trainable_critic_variable_is_within_the_bounds():
    data = make_data()
    gan = make_gan(data, mode="regular", arch="dcgan", clip_up=0.01, clip_down=-0.02)
    gan.critic_step(*gan.critic_inputs(data, 0))
    for variable in gan.critic.trainable_variables:
        assert variable.numpy().min() >= np.float32(-0.02), variable.path
        assert variable.numpy().max() <= np.float32(0.01), variable.path
    unclipped = [v for v in gan.critic.non_trainable_variables if "variance" in v.path]
    assert unclipped and all(v.numpy().max() > 0.01 for v in unclipped)


def test_clipping_comes_after_the_update():
    """A step so long that it throws every weight out ends with weights on the bounds."""
    data = make_data()
    gan = make_gan(data, mode="regular", critic_norm="none", learning_rate=100.0)
    gan.critic_step(*gan.critic_inputs(data, 0))
    kernel = np.abs(gan.critic.trainable_variables[0].numpy())
    assert_allclose(kernel[kernel > 0], 0.01)


def test_every_critic_update_gets_a_new_real_batch(monkeypatch):
    data = make_data()
    gan = make_gan(data, critic_boost=7)
    batches, real_step = [], gan.critic_step
    monkeypatch.setattr(
        gan, "critic_step", lambda *inputs: batches.append(inputs) or real_step(*inputs)
    )
    gan.train_iteration(data, 10)  # boosted
    gan.train_iteration(data, 11)
    assert len(batches) == 7 + 5
    first = gan.config.updates_before(10)
    for m, batch in enumerate(batches, first):
        expected = gan.critic_inputs(data, m)
        for got, wanted in zip(batch, expected, strict=True):
            assert_array_equal(got, wanted)
    for k in (0, 2, 3):  # images, latents and alpha
        assert len(np.unique([batch[k] for batch in batches], axis=0)) == len(batches)


def test_there_is_no_batch_norm_under_the_penalty():
    gan = make_gan(make_data(), arch="dcgan")
    kinds = {type(layer) for layer in gan.critic._flatten_layers()}
    assert keras.layers.BatchNormalization not in kinds


def test_in_regular_mode_real_and_fake_are_separate_batches_for_batch_norm():
    data = make_data()
    gan = make_gan(data, mode="regular", arch="dcgan")
    images, _, z, _, _ = gan.critic_inputs(data, 0)
    real, fake = ops.to_network(images), gan._call(gan.generator, z, None)
    expected = np.mean(gan._call(gan.critic, real, None)) - np.mean(
        gan._call(gan.critic, fake, None)
    )
    measured = gan.critic_step(*gan.critic_inputs(data, 0))
    assert_allclose(measured["w_distance"], expected, atol=1e-7)


@pytest.mark.parametrize("values", MODES)
def test_each_step_is_traced_once(values):
    data = make_data(classes=3)
    gan = make_gan(data, **values)
    for i in range(9, 14):
        gan.train_iteration(data, i)
    assert gan.critic_step.experimental_get_tracing_count() == 1
    assert gan.generator_step.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("mode", ["gp", "regular"])
def test_in_bfloat16_the_layers_are_and_nothing_else(mode):
    data = make_data(classes=3)
    gan = make_gan(data, mode=mode, precision="bfloat16", conditional=True)
    optimizers = (gan.generator_optimizer, gan.critic_optimizer)
    owners = (gan.generator, gan.critic, gan.average, *optimizers)
    kinds = {v.dtype for owner in owners for v in owner.variables if "iteration" not in v.path}
    assert kinds == {"float32"}
    for network, last in ((gan.generator, "tanh"), (gan.critic, "linear1")):
        for layer in network.layers:
            if layer.weights and layer.name != last:
                assert layer.compute_dtype == "bfloat16", layer.name
        assert network.get_layer(last).compute_dtype == "float32"
        assert network.output.dtype == "float32"
    measured = gan.critic_step(*gan.critic_inputs(data, 0))
    assert {tensor.dtype for tensor in measured.values()} == {tf.float32}


def test_bfloat16_computes_what_float32_does_to_its_precision():
    data = make_data(classes=3)
    steps = []
    for precision in ("float32", "bfloat16"):
        gan = make_gan(data, precision=precision, conditional=True)
        steps.append(gan.critic_step(*gan.critic_inputs(data, 0)))
    for name, value in steps[0].items():
        assert_allclose(steps[1][name], value, rtol=0.02, atol=0.02, err_msg=name)
        assert float(steps[1][name]) != float(value)


@pytest.mark.parametrize(
    "lines, expected",
    [({"flags": ["fpu avx512_bf16"]}, True), ({"Features": ["fp bf16"]}, True), ({}, False)],
)
def test_the_processors_bfloat16_is_found(monkeypatch, lines, expected):
    monkeypatch.setattr(device, "_cpu_info", lambda key: lines.get(key, []))
    assert device.has_bfloat16() is expected


@pytest.mark.parametrize("values", MODES)
def test_validation_changes_nothing_and_repeats(values):
    data = make_data(classes=3)
    gan = make_gan(data, **values)
    before = [values_of(network) for network in (gan.generator, gan.average, gan.critic)]
    assert float(gan.validate(data)) == float(gan.validate(data))
    for old, network in zip(before, (gan.generator, gan.average, gan.critic), strict=True):
        assert moved(old, network) == []


def test_validation_sees_held_out_images_only(monkeypatch):
    data = make_data()
    gan = make_gan(data)
    seen = []
    monkeypatch.setattr(gan, "_w_distance", lambda images, labels, z: seen.append(images) or 0.0)
    gan.validate(data)
    assert_array_equal(np.concatenate(seen), data.images[data.held_out])


@pytest.mark.parametrize("values", MODES)
def test_a_restored_run_goes_on_bit_for_bit(values, tmp_path):
    data = make_data(classes=3)
    whole = make_gan(data, **values)
    for i in range(1, 5):
        whole.train_iteration(data, i)
        if i == 2:
            whole.save(str(tmp_path / "ckpt-2"), 2)
    second = make_gan(data, **values | {"seed": 5})  # other initial weights
    second.config = whole.config
    assert second.restore(str(tmp_path / "ckpt-2")) == 2
    for i in range(3, 5):
        second.train_iteration(data, i)
    for name in ("generator", "average", "critic", "generator_optimizer", "critic_optimizer"):
        for a, b in zip(
            getattr(whole, name).variables, getattr(second, name).variables, strict=True
        ):
            assert_array_equal(a.numpy(), b.numpy(), err_msg=f"{name} {a.path}")


def test_pictures_do_not_depend_on_how_many_are_made():
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True)
    z, labels = draws.picture_draws(0, 0, 230, gan.config.z_dim, gan.label_counts)
    many = gan.sample(z, labels)
    assert many.shape == (230, 8, 8, 1) and many.dtype == np.uint8
    assert_array_equal(gan.sample(z[:1], labels[:1]), many[:1])
    assert_array_equal(gan.sample(z[:130], labels[:130]), many[:130])


def test_the_generator_alone_is_kept_in_half_precision(tmp_path):
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True, arch="dcgan")
    gan.train_iteration(data, 1)
    gan.save_generator(tmp_path / "generator.npz")
    other = make_gan(data, conditional=True, arch="dcgan", seed=9)
    other.load_generator(tmp_path / "generator.npz")
    for a, b in zip(gan.average.variables, other.average.variables, strict=True):
        assert_allclose(b.numpy(), a.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name, kind, own",
    [
        ("adam", keras.optimizers.Adam, {"beta_1": 0.3, "beta_2": 0.8}),
        ("rmsprop", keras.optimizers.RMSprop, {"rho": 0.9}),
        ("sgd", keras.optimizers.SGD, {"momentum": 0.0}),
    ],
)
def test_the_optimizer_flags_reach_both_optimizers(name, kind, own):
    gan = make_gan(make_data(), optimizer=name, learning_rate=0.01, beta1=0.3, beta2=0.8)
    for optimizer in (gan.generator_optimizer, gan.critic_optimizer):
        assert isinstance(optimizer, kind)
        assert_allclose(float(optimizer.learning_rate), 0.01)
        for key, value in own.items():
            assert getattr(optimizer, key) == value
