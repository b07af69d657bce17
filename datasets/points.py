"""The WGAN-GP authors' three sets of points in a plane, made from their formulas by a fixed seed.

The centres, deviations and scales are those of their program gan_toy.py.
"""

import hashlib

import numpy as np

from datasets.conversion import Converted

TRAINING, HELD_OUT = 64_000, 3_200  # points of a set
SEED = 1701
_TURNS = np.arange(8) * np.pi / 4
_PLACES = np.arange(-2.0, 3.0)
CENTRES = {  # [K, 2]; a swiss roll has none
    "8gaussians": np.sqrt(2) * np.stack([np.cos(_TURNS), np.sin(_TURNS)], axis=1),
    "25gaussians": np.array([(x, y) for x in _PLACES for y in _PLACES]) / np.sqrt(2),
}
DEVIATIONS = {"8gaussians": 0.02 / np.sqrt(2), "25gaussians": 0.05 / np.sqrt(8)}
NEAR = 1 / 5  # of the distance between neighbouring centres


def make(name):
    """Make the points of a set: float32 [67200, 2]; the held-out ones are the last 3,200.

    Gaussians: point i has centre i mod K. Swiss roll: t (cos t, sin t) plus noise N(0, 0.25^2), all
    divided by 7.5, for t from 1.5 pi to 4.5 pi.
    """
    rng = np.random.RandomState(SEED)  # NumPy promises that its streams never change
    count = TRAINING + HELD_OUT
    noise = rng.standard_normal((count, 2))
    if name in CENTRES:
        points = CENTRES[name][np.arange(count) % len(CENTRES[name])] + DEVIATIONS[name] * noise
    else:
        t = 1.5 * np.pi * (1 + 2 * rng.random_sample(count))
        points = (np.stack([t * np.cos(t), t * np.sin(t)], axis=1) + 0.25 * noise) / 7.5
    return points[rng.permutation(count)].astype(np.float32)


def load(name):
    """Return a set as a Converted, whose held-out points are its last ones."""
    made = make(name)
    digest = hashlib.sha256(made.data).hexdigest()
    return Converted(made, None, [], HELD_OUT, digest, digest)


def modes_covered(name, points):
    """Return the share of points [n, 2] near a mode, and the smallest number of them at one mode.

    The number is a multiple of a mode's right share. Near is within a fifth of the distance between
    neighbouring modes. A swiss roll has no modes: (None, None).
    """
    if name not in CENTRES:
        return None, None
    centres = CENTRES[name]
    gaps = np.linalg.norm(centres[1:] - centres[0], axis=1)
    distances = np.linalg.norm(points[:, np.newaxis] - centres, axis=2)  # [n, K]
    near = distances.min(axis=1) < NEAR * gaps.min()
    counts = np.bincount(distances.argmin(axis=1)[near], minlength=len(centres))
    return float(near.mean()), float(counts.min() * len(centres) / len(points))
