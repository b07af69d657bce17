"""The inputs of an iteration, as they are sent ahead to a GPU; here the device is the CPU."""

import numpy as np
import pytest
from conftest import make_data, make_gan, values_of
from numpy.testing import assert_array_equal

from distributed.inputs import Inputs

CASES = {
    "labels, noise, mirrored": (3, {"noise": 0.1, "mirror": True, "conditional": True}),
    "more updates at first": (0, {"mode": "regular", "critic_boost": 4, "critic_num": 2}),
}


def staging(gan):
    """The inputs of a WGAN, sent ahead."""
    own = gan.inputs
    return Inputs(own.config, own.shape, own.label_counts, own.replicas, "CPU:0")


@pytest.mark.parametrize("classes, values", CASES.values(), ids=CASES)
def test_inputs_that_are_sent_ahead_give_the_same_bits(classes, values):
    data = make_data(classes=classes)
    one, other = (make_gan(data, **values) for _ in range(2))
    other.inputs = staging(other)
    for i in (1, 2, 3, 10, 11):
        expected, found = (gan.train_iteration(data, i) for gan in (one, other))
        assert {k: float(v) for k, v in expected.items()} == {k: float(v) for k, v in found.items()}
    for network in ("generator", "critic", "average"):
        for a, b in zip(*(values_of(getattr(g, network)) for g in (one, other)), strict=True):
            assert_array_equal(a, b)


def test_the_next_inputs_are_made_once_and_ahead():
    data, made = make_data(), []
    gan = make_gan(data)
    inputs = staging(gan)
    stage = inputs.stage
    inputs.stage = lambda data, i: made.append(i) or stage(data, i)
    for i in (1, 2, 3):
        inputs.of(data, i)
    inputs.next.result()
    assert made == [1, 2, 3, 4]
    other = make_data(images=32)
    assert_array_equal(inputs.of(other, 4)[1][0], gan.inputs.of(other, 4)[1][0])
    inputs.next.result()
    assert made == [1, 2, 3, 4, 4, 5]  # those of other data are not taken


def test_every_update_has_its_own_inputs_and_labels_are_bytes():
    data = make_data(classes=3)
    gan = make_gan(data, conditional=True, critic_num=3)
    critic, generator = staging(gan).of(data, 2)
    plain, others = gan.inputs.of(data, 2)
    assert len(critic) == len(plain) == 3
    for one, other in zip(critic, plain, strict=True):
        assert_array_equal(one[0], other[0])
        assert_array_equal(one[1], other[1])
        assert one[1].dtype == np.uint8
        assert_array_equal(one[2].z, other[2].z)
        assert_array_equal(one[2].alpha, other[2].alpha)
    for one, other in zip(generator, others, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert_array_equal(one, other)


def test_the_step_sizes_are_set_where_they_change_and_after_a_restore(tmp_path):
    data = make_data()
    gan = make_gan(data, decay_iterations=10, max_iterations=4)
    gan.train_iteration(data, 1)
    gan.save(tmp_path, 1)
    gan.train_iteration(data, 6)
    assert float(gan.critic_optimizer.learning_rate) == pytest.approx(0.0001)
    gan.restore(str(tmp_path / "ckpt-1"))
    gan.train_iteration(data, 6)
    assert float(gan.critic_optimizer.learning_rate) == pytest.approx(0.0001)
