"""Every random number of a run, each a pure function of (seed, purpose, index).

A training draws nothing else, but for the networks' first weights. So it is a function of its
configuration and its iteration, wherever it was interrupted. NumPy makes all draws on the host, so
neither processor nor compiler nor the number of replicas can change them.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

# Each purpose has a number, and so a stream of its own.
PERMUTATION, CRITIC, GENERATOR, FIXED, VALIDATION, PICTURE, ROW, SUBSET, CORNER, MIRROR = range(10)


def _rng(seed, purpose, *index):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, *index])))


def _uniform(rng, low, high, shape):
    return (low + (high - low) * rng.random(shape, dtype=np.float32)).astype(np.float32)


@functools.lru_cache(maxsize=2)
def _permutation(seed, count, index):
    return _rng(seed, PERMUTATION, index).permutation(count)


def batch_positions(seed, count, batch_size, m):
    """Return which of `count` training images make critic batch m (from 0): int64 [batch_size].

    Batch m has the positions m*B to m*B + B-1 of an endless chain of permutations. So every image
    comes exactly once per pass, and a batch may lie across the end of a pass.
    """
    positions = []
    start, missing = m * batch_size, batch_size
    while missing:
        index, offset = divmod(start, count)
        positions.append(_permutation(seed, count, index)[offset : offset + missing])
        start += len(positions[-1])
        missing -= len(positions[-1])
    return np.concatenate(positions)


def fixed_permutation(count):
    """Permute 0 .. count-1 in an order that no flag changes.

    It decides which images are held out and which train_size keeps. NumPy promises that the streams
    of RandomState never change; those of its newer generators may.
    """
    return np.random.RandomState(1701).permutation(count)


# In all functions `distribution` is what latents are drawn from, uniform or normal (--latents).


def latents(rng, count, z_dim, distribution):
    """Draw latents z ~ U(-1, 1) or, if `normal`, z ~ N(0, 1): float32 [count, z_dim]."""
    if distribution == "normal":
        return rng.standard_normal((count, z_dim), dtype=np.float32)
    return _uniform(rng, -1, 1, (count, z_dim))


def labels(rng, count, label_counts):
    """Draw labels with the frequencies of `label_counts`: int32 [count]."""
    share = np.asarray(label_counts) / np.sum(label_counts)
    return rng.choice(len(share), size=count, p=share).astype(np.int32)


class CriticDraws(NamedTuple):
    """The random numbers of one update of the critic, all float32."""

    z: Any  # latents [B, z_dim]
    alpha: Any  # U[0, 1) [B], one per image: where its interpolate lies between real and fake
    noise: Any  # [B, H, W, C], added to the real images, or None


def critic_draws(seed, m, batch_size, z_dim, distribution, noise_shape=None, noise=0.0):
    """Draw the CriticDraws of update m of a run.

    The noise is U(-noise, noise) of shape [B, *noise_shape], or None where `noise` is 0.
    """
    rng = _rng(seed, CRITIC, m)
    z = latents(rng, batch_size, z_dim, distribution)
    alpha = _uniform(rng, 0, 1, batch_size)
    added = _uniform(rng, -noise, noise, (batch_size, *noise_shape)) if noise else None
    return CriticDraws(z, alpha, added)


def mirrored(seed, m, batch_size):
    """Draw which images of critic batch m are flipped left to right, half of all: bool [B]."""
    return _rng(seed, MIRROR, m).random(batch_size) < 0.5


def generator_draws(seed, iteration, batch_size, z_dim, distribution, label_counts=None):
    """Draw the latents [B, z_dim] and, given the classes' counts, labels [B] of an update."""
    rng = _rng(seed, GENERATOR, iteration)
    z = latents(rng, batch_size, z_dim, distribution)
    return z, None if label_counts is None else labels(rng, batch_size, label_counts)


def fixed_latents(seed, count, z_dim, distribution):
    """Draw the latents of a run's grids, the same at every iteration: float32 [count, z_dim]."""
    return latents(_rng(seed, FIXED), count, z_dim, distribution)


def validation_latents(seed, count, z_dim, distribution):
    """Draw the latents of w_distance_val, the same at every iteration: float32 [count, z_dim]."""
    return latents(_rng(seed, VALIDATION), count, z_dim, distribution)


def row_latents(seed, rows, z_dim, distribution):
    """Draw two latents for each row of the interpolations: float32 [2, rows, z_dim]."""
    rng = _rng(seed, ROW)
    return np.stack([latents(rng, rows, z_dim, distribution) for _ in range(2)])


def corner_latents(seed, sets, z_dim, distribution):
    """Draw the four corners of each square of explore.html: float32 [sets, 4, z_dim]."""
    return latents(_rng(seed, CORNER), sets * 4, z_dim, distribution).reshape(sets, 4, z_dim)


def picture_draws(seed, first, count, z_dim, distribution, label_counts=None, label=None):
    """Draw the latents [count, z_dim] and labels [count] of pictures, from number `first` on.

    Those of picture i depend on (seed, i) alone. The labels are all `label`, or drawn with the
    frequencies of `label_counts`; without these they are None.
    """
    rngs = [_rng(seed, PICTURE, i) for i in range(first, first + count)]
    z = np.concatenate([latents(rng, 1, z_dim, distribution) for rng in rngs])
    if label_counts is None:
        return z, None
    if label is not None:
        return z, np.full(count, label, np.int32)
    return z, np.concatenate([labels(rng, 1, label_counts) for rng in rngs])


def subset(seed, index, count, size):
    """Draw subset `index`: the positions of `size` of `count` images, int64 [size]."""
    return _rng(seed, SUBSET, index).permutation(count)[:size]
