"""What docs/python.md and docs/extending.md promise to those who import the program."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import FIND, ROOT, RUN, SMALL, make_data, make_gan, run_to_end
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import networks
import ops
from config import Config
from model import WGAN
from system.errors import Refused

DATA = make_data(classes=3)


@pytest.mark.parametrize("first", ["import tensorflow", "import keras", "import ops", ""])
def test_the_device_is_prepared_whatever_was_imported_before(first):
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
{first}
from model import WGAN
from system import device
import tensorflow as tf
print(tf.config.optimizer.get_experimental_options().get("disable_meta_optimizer"))
print(device.environment()["graph optimizer"])
"""
    ended = run_to_end([sys.executable, "-c", script])
    assert ended.stdout == "True\noff\n", ended.stderr


def test_a_graph_optimizer_that_is_on_belongs_to_the_environment():
    before = tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    try:
        assert make_gan(DATA).environment()["graph optimizer"] == "on"
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})
    assert make_gan(DATA).environment()["graph optimizer"] == "off"


def test_draw_makes_the_pictures_that_generate_writes(here, labelled):
    assert here(f"{FIND} --generate 3 --seed 5 --label 1")[0] == 0
    written = [np.asarray(Image.open(f"samples/generated/class_1/{i:06d}.png")) for i in range(3)]
    gan = WGAN.load(RUN)
    assert_array_equal(gan.draw(3, seed=5, label=1), written)
    assert_array_equal(gan.draw(1, seed=5, first=2, label=1)[0], written[2])
    with pytest.raises(Refused, match="--label 3: expected a class from 0 to 2"):
        gan.draw(1, label=3)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"mode": "wgan-gp"}, "--mode wgan-gp: expected regular or gp"),
        ({"LAMBDA": -1.0}, "--LAMBDA -1.0: expected"),
        ({"critic_num": "five"}, "--critic_num five: expected a whole number"),
        ({"mode": "gp", "critic_norm": "batch"}, "--critic_norm batch"),
    ],
)
def test_a_configuration_that_the_command_line_refuses_is_refused(values, message):
    with pytest.raises(Refused, match=message):
        WGAN(Config(output_height=8, batch_size=8, **values), DATA.facts)


def test_an_unresolved_configuration_is_resolved():
    gan = WGAN(Config(output_height=8, batch_size=8, arch="symmetric"), DATA.facts)
    assert gan.config.optimizer == "adam" and gan.config.z_dim == 10
    assert np.isfinite(float(gan.train_iteration(DATA, 1)["g_loss"]))


def test_a_configuration_cannot_be_changed_after_the_steps_are_compiled():
    gan = make_gan(DATA)
    with pytest.raises(AttributeError):
        gan.config = dataclasses.replace(gan.config, LAMBDA=1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        gan.config.LAMBDA = 1.0


def test_iterations_count_from_1():
    with pytest.raises(ValueError, match="iterations count from 1"):
        make_gan(DATA).train_iteration(DATA, 0)


def test_what_is_saved_in_a_folder_of_any_name_can_be_loaded(tmp_path):
    gan = make_gan(DATA, conditional=True)
    gan.train_iteration(DATA, 1)
    gan.save(tmp_path / "mine", 1)
    again = WGAN.load(tmp_path / "mine")
    assert_array_equal(again.draw(4), gan.draw(4))
    assert again.source == str(tmp_path / "mine/ckpt-1") and again.config == gan.config


def test_networks_that_ignore_their_labels_are_refused(monkeypatch):
    generator, critic = networks.BUILDERS["symmetric"]
    deaf = lambda x, labels, *rest: critic(x, None, *rest)  # noqa: E731
    monkeypatch.setitem(networks.BUILDERS, "symmetric", (generator, deaf))
    with pytest.raises(ValueError, match="the critic is conditional, but none of its layers takes"):
        make_gan(DATA, conditional=True)


def test_a_run_is_refused_to_go_on_with_another_loss(here, folder, still, monkeypatch):
    before = json.loads(Path(folder, "config.json").read_text())["environment"]
    assert before["loss"] == "wasserstein"
    monkeypatch.setattr(ops, "LOSS", "hinge")
    code, _, errors = here(f"--train {SMALL} --max_iterations 60")
    assert code == 2 and errors.count("\n") == 1
    assert "was trained with loss wasserstein, and ops.LOSS is now hinge" in errors


def test_the_generators_loss_gets_real_scores_where_it_asks_for_them(monkeypatch):
    """With twice as many fakes as a critic's batch, and labels of the real images."""
    seen = []

    def generator_loss(fake_scores, real_scores):
        seen.append((fake_scores.shape, real_scores.shape))
        return tf.reduce_mean(real_scores) - tf.reduce_mean(fake_scores)

    monkeypatch.setattr(ops, "GENERATOR_SEES_REAL", True)
    monkeypatch.setattr(ops, "generator_loss", generator_loss)
    gan = make_gan(DATA, conditional=True, generator_batch=2)
    z, labels, images = gan.inputs.generator(DATA, 3)
    expected = DATA.critic_batch(0, 16, 3)
    assert len(z) == 16
    assert_array_equal(images, expected[0])
    assert_array_equal(labels, expected[1])
    real, (fake, _) = ops.to_network(images), networks.apply(gan.generator, z, labels)
    scores = [networks.apply(gan.critic, x, labels)[0] for x in (real, fake)]
    g_loss = gan.generator_step(z, labels, images, np.float32(0.9))["g_loss"]
    assert seen == [((16, 1), (16, 1))]
    assert_allclose(g_loss, np.mean(scores[0]) - np.mean(scores[1]), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_does_not_bring_an_old_step_size_back(tmp_path):
    gan = make_gan(DATA, learning_rate=0.5)
    gan.save(tmp_path, 1)
    other = make_gan(DATA, learning_rate=0.25)
    other.restore(str(tmp_path / "ckpt-1"))
    assert float(other.critic_optimizer.learning_rate) == 0.5
    other.train_iteration(DATA, 2)
    for optimizer in (other.critic_optimizer, other.generator_optimizer):
        assert float(optimizer.learning_rate) == 0.25
