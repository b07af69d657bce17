"""Distances between two sets of feature vectors, in float64, and nearest images in float32.

Knows no network, no file and no randomness. A set is [n, d], a row per image.
"""

import numpy as np
from scipy import linalg, optimize
from tqdm import tqdm

NEIGHBOURS = 3  # that make precision and recall, as in their paper
BLOCK = 1000  # rows whose distances are in memory at a time
BLOCK_BYTES = 256e6  # of images in memory at a time


def frechet_distance(a, b):
    """Compute the squared Frechet distance of two Gaussians with the means and covariances of sets.

    arXiv 1706.08500, equation 6, there with the features of another network.
    """
    return gaussian_distance(
        a.mean(0, dtype=np.float64), _covariance(a), b.mean(0, dtype=np.float64), _covariance(b)
    )


def _covariance(x):
    return np.atleast_2d(np.cov(x, rowvar=False, dtype=np.float64))


def gaussian_distance(mean_a, covariance_a, mean_b, covariance_b):
    """Compute |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) for covariances A and B [d, d].

    A B is not symmetric, but A^(1/2) B A^(1/2) is, and has the same eigenvalues.
    """
    values, vectors = linalg.eigh(covariance_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    inner = linalg.eigvalsh(root @ covariance_b @ root)
    traces = np.trace(covariance_a) + np.trace(covariance_b)
    cross = np.sqrt(np.maximum(inner, 0)).sum()
    return float(np.sum((mean_a - mean_b) ** 2) + traces - 2 * cross)


def kernel_distance(a, b):
    """Estimate the squared maximum mean discrepancy without bias; it may come out below 0.

    The kernel is (x y / d + 1)^3. Unbiased means that an image is not compared with itself. arXiv
    1801.01401, section 4.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)

    def kernel(x, y):
        base = x @ y.T / x.shape[1] + 1
        return base * base * base  # ten times as fast as NumPy's power

    def within(x):
        matrix, n = kernel(x, x), len(x)
        return (matrix.sum() - np.trace(matrix)) / (n * (n - 1))

    return float(within(a) + within(b) - 2 * kernel(a, b).mean())


def earth_movers_distance(a, b):
    """Compute the exact Wasserstein distance W1 of two sets of as many vectors.

    Each vector is paired with one of the other set, so that the mean Euclidean distance within the
    pairs is the smallest possible. arXiv 1701.07875, equation 1: with as many vectors on both sides
    a best plan pairs whole vectors.
    """
    costs = np.sqrt(np.concatenate(list(_squared_distances(a, b))))
    return float(costs[optimize.linear_sum_assignment(costs)].mean())


def precision_recall(real, fake):
    """Return the share of fakes among the real ones, and of real ones among the fakes, 0 to 1.

    A vector is among others if it is no farther from one of them than the third neighbour of that
    one is. arXiv 1904.06991, equations 1 and 2.
    """
    return _share_among(fake, real), _share_among(real, fake)


def _share_among(x, others):
    blocks = _squared_distances(others, others)
    # In a sorted row the first number, at 0, is the vector's distance to itself.
    radii = np.concatenate([np.partition(rows, NEIGHBOURS)[:, NEIGHBOURS] for rows in blocks])
    among = [np.any(block <= radii, axis=1) for block in _squared_distances(x, others)]
    return float(np.mean(np.concatenate(among)))


def _squared_distances(x, y):
    """Yield the squared distances of each row of x to all of y, in blocks of rows."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    y_norms = np.sum(y**2, axis=1)
    for start in range(0, len(x), BLOCK):
        block = x[start : start + BLOCK]
        squares = np.sum(block**2, axis=1)[:, None] + y_norms - 2 * block @ y.T
        yield np.maximum(squares, 0)


def nearest(queries, images, k):
    """Find the k images nearest to each query, pixel by pixel: distances and positions [n, k].

    Both are uint8 [n, ...]; the distance is Euclidean, in units of 255; the nearest comes first.
    `images` may be a memory map larger than memory, or a dataset.Subset of one.
    """
    size = max(1, min(10 * BLOCK, int(BLOCK_BYTES / (4 * np.prod(images.shape[1:])))))
    best = np.full((len(queries), k), np.inf, np.float32)
    where = np.zeros((len(queries), k), np.int64)
    blocks = range(0, len(images), size)
    for first in tqdm(blocks, desc="nearest images", disable=None, leave=False):
        y = _flat(images[first : first + size])
        y_norms = np.sum(y**2, axis=1)
        for start in range(0, len(queries), min(BLOCK, size)):
            rows = slice(start, start + min(BLOCK, size))
            x = _flat(queries[rows])
            squares = np.sum(x**2, axis=1)[:, None] + y_norms - 2 * x @ y.T
            both = np.concatenate([best[rows], squares], axis=1)
            positions = np.broadcast_to(np.arange(first, first + len(y)), squares.shape)
            positions = np.concatenate([where[rows], positions], axis=1)
            chosen = np.argpartition(both, k - 1, axis=1)[:, :k]
            best[rows] = np.take_along_axis(both, chosen, 1)
            where[rows] = np.take_along_axis(positions, chosen, 1)
    order = np.argsort(best, axis=1, kind="stable")
    best, where = (np.take_along_axis(x, order, 1) for x in (best, where))
    return np.sqrt(np.maximum(best, 0)), where


def _flat(images):
    return images.reshape(len(images), -1).astype(np.float32) / 255
