"""Every random number is a function of (seed, purpose, index) and distributed as it should be."""

import numpy as np
import pytest
from conftest import make_config, make_data
from numpy.testing import assert_allclose, assert_array_equal

import draws


def kolmogorov_distance(values):
    """Largest gap between the values' distribution and U[0, 1]'s."""
    ordered = np.sort(values.astype(np.float64))
    return np.max(np.abs(ordered - (np.arange(ordered.size) + 0.5) / ordered.size))


def test_each_training_image_comes_exactly_once_per_pass_of_the_chain():
    count, batch_size = 50, 8
    chain = np.concatenate([draws.batch_positions(3, count, batch_size, m) for m in range(25)])
    passes = chain.reshape(4, count)
    for one in passes:
        assert_array_equal(np.sort(one), np.arange(count))
    assert not np.array_equal(passes[0], passes[1])


def test_a_batch_is_the_same_however_one_arrives_at_it():
    forward = [draws.batch_positions(0, 30, 7, m) for m in range(20)]
    backward = [draws.batch_positions(0, 30, 7, m) for m in range(19, -1, -1)][::-1]
    assert_array_equal(forward, backward)


def test_another_seed_gives_another_order():
    assert not np.array_equal(
        draws.batch_positions(0, 100, 50, 0), draws.batch_positions(1, 100, 50, 0)
    )


def test_alpha_is_uniform_in_0_1_and_there_is_one_per_image():
    alphas = np.concatenate([draws.critic_draws(0, m, 64, 3, "uniform").alpha for m in range(500)])
    assert draws.critic_draws(0, 0, 64, 3, "uniform").alpha.shape == (64,)
    assert 0 <= alphas.min() < 0.001 and 0.999 < alphas.max() <= 1
    assert kolmogorov_distance(alphas) < 1.63 / np.sqrt(alphas.size)  # 1 % level
    assert len(np.unique(alphas[:64])) == 64


def test_latents_are_uniform_in_minus_1_1():
    z = np.concatenate([draws.critic_draws(0, m, 64, 10, "uniform").z.ravel() for m in range(100)])
    assert z.dtype == np.float32
    assert kolmogorov_distance((z + 1) / 2) < 1.63 / np.sqrt(z.size)


def test_noise_is_uniform_with_the_given_amplitude_and_drawn_anew_for_each_batch():
    noise = [draws.critic_draws(0, m, 16, 3, "uniform", (4, 4, 1), 0.1).noise for m in range(50)]
    assert noise[0].shape == (16, 4, 4, 1) and noise[0].dtype == np.float32
    assert not np.array_equal(noise[0], noise[1])
    values = np.concatenate([batch.ravel() for batch in noise])
    assert kolmogorov_distance((values / 0.1 + 1) / 2) < 1.63 / np.sqrt(values.size)
    assert draws.critic_draws(0, 0, 16, 3, "uniform").noise is None


def test_noise_leaves_latents_and_alpha_as_they_are():
    without, with_noise = (
        draws.critic_draws(0, 5, 8, 3, "uniform", (2, 2, 1), amount) for amount in (0, 0.5)
    )
    assert_array_equal(without[0], with_noise[0])
    assert_array_equal(without[1], with_noise[1])


def test_streams_of_different_purposes_differ():
    z = [
        draws.critic_draws(0, 1, 4, 5, "uniform").z,
        draws.critic_draws(0, 2, 4, 5, "uniform").z,
        draws.generator_draws(0, 1, 4, 5, "uniform")[0],
        draws.fixed_latents(0, 4, 5, "uniform"),
        draws.validation_latents(0, 4, 5, "uniform"),
        draws.picture_draws(0, 0, 4, 5, "uniform")[0],
        draws.row_latents(0, 4, 5, "uniform"),
        draws.corner_latents(0, 1, 5, "uniform"),
    ]
    flat = np.concatenate([values.ravel() for values in z])
    assert len(np.unique(flat)) == flat.size


def test_labels_follow_the_training_frequencies():
    counts = np.array([10, 0, 30, 60])
    labels = np.concatenate(
        [draws.generator_draws(0, i, 64, 2, "uniform", counts)[1] for i in range(300)]
    )
    assert labels.dtype == np.int32
    assert_allclose(np.bincount(labels, minlength=4) / labels.size, counts / 100, atol=0.01)


def test_picture_i_depends_on_seed_and_i_alone():
    counts = [1, 2, 3]
    many_z, many_labels = draws.picture_draws(7, 0, 20, 4, "uniform", counts)
    few_z, few_labels = draws.picture_draws(7, 12, 3, 4, "uniform", counts)
    assert_array_equal(many_z[12:15], few_z)
    assert_array_equal(many_labels[12:15], few_labels)
    asked_z, asked_labels = draws.picture_draws(7, 0, 20, 4, "uniform", counts, label=2)
    assert_array_equal(asked_z, many_z)
    assert set(asked_labels) == {2}


def test_the_permutation_that_holds_images_out_never_changes():
    assert draws.fixed_permutation(10).tolist() == [1, 7, 2, 6, 0, 9, 5, 8, 3, 4]


@pytest.mark.parametrize("boost", [0, 7, 25])
def test_critic_updates_before_an_iteration_agree_with_counting(boost):
    config = make_config(critic_num=3, critic_boost=boost)
    total = 0
    for i in range(1, 1002):
        assert config.updates_before(i) == total
        boosted = boost and (i <= 10 or i % 200 == 0)
        total += boost if boosted else 3


def test_a_batch_holds_training_images_only_and_their_labels():
    data = make_data(classes=4)
    seen = set()
    for m in range(20):
        images, labels = data.critic_batch(0, 8, m)
        for image, label in zip(images, labels, strict=True):
            (where,) = np.flatnonzero((data.images == image).all(axis=(1, 2, 3)))
            assert data.labels[where] == label
            seen.add(int(where))
    assert seen == set(data.train.tolist())
