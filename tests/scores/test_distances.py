"""The distances between two sets of features against closed forms."""

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from scores import distances


def normal(count, d, seed=0, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).standard_normal((count, d))


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_the_distance_of_gaussians_with_commuting_covariances():
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25])
    mean = np.array([3.0, 0.0, 4.0])
    expected = 25 + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    found = distances.gaussian_distance(np.zeros(3), np.diag(a), mean, np.diag(b))
    assert_allclose(found, expected, rtol=1e-12)


def test_the_distance_of_gaussians_whose_covariances_do_not_commute():
    a = np.diag([4.0, 1.0])
    b = rotation(0.7) @ np.diag([9.0, 0.5]) @ rotation(0.7).T
    # For a 2x2 matrix M, tr M^(1/2) = sqrt(tr M + 2 sqrt(det M)).
    product = a @ b
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(a) + np.trace(b) - 2 * root
    for first, second in ((a, b), (b, a)):
        found = distances.gaussian_distance(np.zeros(2), first, np.zeros(2), second)
        assert_allclose(found, expected, rtol=1e-12)


def test_the_frechet_distance_of_large_samples_is_that_of_their_gaussians():
    a, b = normal(200_000, 2), normal(200_000, 2, seed=1, mean=1.0, scale=3.0)
    assert_allclose(distances.frechet_distance(a, b), 2 * 1.0 + 2 * (3 - 1) ** 2, rtol=0.02)


def test_the_covariance_is_the_unbiased_one():
    x = np.arange(5.0)[:, None]  # mean 2, variance 2.5
    assert_allclose(distances.frechet_distance(x, 2 * x), (4 - 2) ** 2 + 2.5, rtol=1e-12)


@pytest.mark.parametrize("count", [5, 300])  # fewer and more than dimensions
def test_identical_sets_are_at_distance_0(count):
    x = normal(count, 20, mean=5.0).astype(np.float32)
    # With few images most eigenvalues are 0 but for rounding, of which the root is taken.
    assert_allclose(distances.frechet_distance(x, x), 0, atol=1e-9 if count > 20 else 1e-5)
    assert distances.precision_recall(x, x) == (1.0, 1.0)


def test_the_frechet_distance_is_float64():
    x = normal(500, 4, mean=1e4)
    shifted = x + 1e-3
    assert_allclose(distances.frechet_distance(x, shifted), 4e-6, rtol=1e-2)


def test_the_kernel_distance_is_its_definition():
    a, b = normal(7, 3), normal(5, 3, seed=1)

    def kernel(x, y):
        return (np.dot(x, y) / 3 + 1) ** 3

    within = [
        np.mean([kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j])
        for x in (a, b)
    ]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert_allclose(distances.kernel_distance(a, b), sum(within) - 2 * between, rtol=1e-12)


def test_the_kernel_distance_of_equal_distributions_has_mean_0():
    found = [
        distances.kernel_distance(normal(50, 4, seed=2 * i), normal(50, 4, seed=2 * i + 1))
        for i in range(400)
    ]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0 < max(found)
    moved = distances.kernel_distance(normal(50, 4), normal(50, 4, seed=1, mean=1.0))
    assert moved > 3 * np.std(found)


def test_the_earth_movers_distance_is_the_mean_within_the_best_of_all_pairings():
    a, b = normal(6, 3), normal(6, 3, seed=1)
    best = min(
        np.mean(np.linalg.norm(a - b[list(order)], axis=1))
        for order in itertools.permutations(range(6))
    )
    assert_allclose(distances.earth_movers_distance(a, b), best, rtol=1e-9)


def test_on_a_line_the_earth_movers_distance_is_between_sorted_numbers():
    a, b = normal(1500, 1), normal(1500, 1, seed=1, mean=2.0, scale=3.0)
    expected = np.mean(np.abs(np.sort(a, axis=0) - np.sort(b, axis=0)))
    assert_allclose(distances.earth_movers_distance(a, b), expected, rtol=1e-9)


def test_the_earth_movers_distance_of_a_moved_set_is_how_far_it_was_moved():
    a, move = normal(300, 20), normal(1, 20, seed=1)
    mixed = np.random.default_rng(2).permutation(a)
    found = distances.earth_movers_distance(a, mixed + move)
    assert_allclose(found, np.linalg.norm(move), rtol=1e-9)
    assert_allclose(distances.earth_movers_distance(a, mixed), 0, atol=1e-6)


def test_disjoint_sets_have_neither_precision_nor_recall():
    assert distances.precision_recall(normal(50, 3), normal(60, 3, mean=100.0)) == (0.0, 0.0)


def test_samples_of_one_place_are_precise_and_recall_little():
    real, fake = normal(2000, 2), normal(2000, 2, seed=1, scale=0.3)
    precision, recall = distances.precision_recall(real, fake)
    assert precision > 0.9
    assert recall < 0.6


def test_precision_counts_balls_to_the_third_neighbour():
    real = np.array([[0.0], [1.0], [2.0], [3.0]])  # radii 3, 2, 2, 3
    fake = np.array([[-3.1], [-2.9], [5.9], [6.1]])
    precision, _ = distances.precision_recall(real, fake)
    assert precision == 0.5


def test_nothing_depends_on_the_blocks(monkeypatch):
    a, b = normal(50, 3).astype(np.float32), normal(60, 3, seed=1).astype(np.float32)
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8) for n in (9, 105))
    whole = distances.precision_recall(a, b), distances.nearest(x, y, 5)
    monkeypatch.setattr(distances, "BLOCK", 4)
    parts = distances.precision_recall(a, b), distances.nearest(x, y, 5)
    assert whole[0] == parts[0]
    assert_allclose(whole[1][0], parts[1][0], rtol=1e-4)
    assert np.array_equal(whole[1][1], parts[1][1])


def test_nearest_finds_copies_and_counts_pixels_in_units_of_255():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8)
    apart, positions = distances.nearest(images[[7, 3]], images, 30)
    assert positions[:, 0].tolist() == [7, 3]
    assert_allclose(apart[:, 0], 0, atol=0.01)
    expected = np.linalg.norm((images[[7]] / 255 - images / 255).reshape(30, -1), axis=1)
    assert_allclose(apart[0], np.sort(expected), atol=0.01)
    assert np.array_equal(positions[0], np.argsort(expected))
