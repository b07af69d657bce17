"""Every random number of a run, each a pure function of (seed, purpose, index).

Only the networks' initial weights are drawn elsewhere. So a training is a function of its
configuration and iteration, even if it was interrupted. NumPy makes all draws on the host, so the
processor, the compiler and the number of replicas cannot change them.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

# Each purpose has a number, and therefore its own random stream.
PERMUTATION, CRITIC, GENERATOR, FIXED, VALIDATION, PICTURE, ROW, SUBSET, CORNER, MIRROR = range(10)


def _rng(seed, purpose, *index):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, purpose, *index])))


def _uniform(rng, low, high, shape):
    return (low + (high - low) * rng.random(shape, dtype=np.float32)).astype(np.float32)


@functools.lru_cache(maxsize=2)
def _permutation(seed, count, index):
    return _rng(seed, PERMUTATION, index).permutation(count)


def batch_positions(seed, count, batch_size, m):
    """Return the positions of critic batch m (from 0) in `count` training images: int64 [B].

    All batches together are an endless sequence of permutations; batch m has its elements m*B to
    m*B + B-1. So each pass has every image exactly once, and a batch may lie in two passes.
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
    of RandomState never change; the streams of its newer generators may change.
    """
    return np.random.RandomState(1701).permutation(count)


# In all functions `distribution` is that of the latents: uniform or normal (--latents).


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
    alpha: Any  # U[0, 1) [B], one per image: position of its interpolate between real and fake
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
    """Draw which images of critic batch m are flipped, each with probability 1/2: bool [B]."""
    return _rng(seed, MIRROR, m).random(batch_size) < 0.5


def generator_draws(seed, iteration, batch_size, z_dim, distribution, label_counts=None):
    """Draw the latents [B, z_dim] of a generator update and, with label_counts, labels [B]."""
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

    Latent and label of picture i depend only on (seed, i). The labels are all `label`, or drawn
    with the frequencies of `label_counts`; if that is None, the labels are None.
    """
    rngs = [_rng(seed, PICTURE, i) for i in range(first, first + count)]
    z = np.concatenate([latents(rng, 1, z_dim, distribution) for rng in rngs])
    if label_counts is None:
        return z, None
    if label is not None:
        return z, np.full(count, label, np.int32)
    return z, np.concatenate([labels(rng, 1, label_counts) for rng in rngs])


def subset(seed, index, count, size):
    """Draw subset number `index` of `count` images: int64 [size], its positions."""
    return _rng(seed, SUBSET, index).permutation(count)[:size]
