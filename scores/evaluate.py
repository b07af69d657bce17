"""What --evaluate computes: how good pictures are, and whether some copy training images."""

import json
from pathlib import Path

import numpy as np

import draws
import utils
from datasets.dataset import Subset
from run import folders, weights
from scores import distances
from system.errors import Refused
from system.screen import printable

# Real images whose features are read, of each part of the data at most. Where fewer are held out,
# the Frechet distance is to training images.
MOST_REAL = 10000
# Training images with which pictures are compared pixel by pixel, at most.
MOST_COMPARED = 100000
FEWEST = 2 * (distances.NEIGHBOURS + 1)  # training images: each has its neighbours in its half
FEWEST_HELD_OUT = 4  # so that the kernel distance has subsets of two
# Of the kernel distance: as many subsets as its authors took, of this size or of half the images.
SUBSETS, SUBSET_SIZE = 100, 1000
# Pictures and real images that the earth mover's distance is between, at most.
MOST_MOVED = 2000
# A picture's distance to the nearest training image is compared with those to this many.
AROUND = 50
# A picture is suspiciously near if only this share of the held-out images, which nobody can have
# learnt, is nearer.
SUSPICIOUS = 0.01
SHOWN = 16


def check_counts(data, count, dimensions):
    """Refuse to score `count` pictures by features of so many `dimensions` where these are few."""
    if len(data.rest) < FEWEST or len(data.held_out) < FEWEST_HELD_OUT:
        raise Refused(
            f"{len(data.rest)} training images and {len(data.held_out)} held-out ones: scores need"
            f" at least {FEWEST} and {FEWEST_HELD_OUT}"
        )
    if count < dimensions:
        raise Refused(
            f"--evaluate_images {count}: expected at least {dimensions}, the number of features"
        )


def evaluate(gan, data, network, count, seed):
    """Score the first `count` pictures of a seed by the averaged generator and by the raw one.

    A shipped generator has no raw one. `network` is a feature_networks.FeatureNetwork. Writes
    scores.json into the run's folder and nearest.png into that of the pictures; prints a table.
    Raises Refused.
    """
    if broken := weights.find_non_finite([gan.generator, gan.average]):
        raise Refused(f"{gan.source}: {broken} is not finite; train anew, or bring back the file")
    print(f"Scoring {count} pictures by {network.name}")
    real = RealImages(data, network, count, seed)
    shipped = gan.source.endswith(".npz")
    nearest = Path(gan.config.sample_dir) / "nearest.png"
    z, labels = gan.picture_inputs(count, seed)
    rows = {}
    for name in ("averaged", "raw")[: 1 if shipped else 2]:
        images = gan.sample(z, labels, raw=name == "raw")
        rows[name] = real.score(images, labels, f"{name} generator")
        if name == "averaged":
            near = compare_by_pixels(images, data, nearest)
        del images  # so that no two rows' pictures are in memory at once
    result = {
        "weights": gan.source,
        "iteration": None if shipped else int(gan.iteration),
        "seed": seed,
        **real.protocol(),
        "scores": rows | {"floor": real.floor()},
        "suspiciously_near": near,
    }
    path = Path(gan.config.run_dir) / "scores.json"
    folders.write_atomically(path, json.dumps(result, indent=2) + "\n")
    print_table(result)
    print(f"All numbers are in {path}; {nearest} shows pictures over their nearest training images")


class RealImages:
    """What pictures are compared with: the features of real images, each read once.

    The kernel distance is to `held_out`, all other distances are to `reference`. The latter are the
    held-out images or, where these are few, training images. `others` are other training images,
    which are scored for the floor. Scores depend on the number of images, so as many pictures are
    compared as there are `others`. (--train_size plays no part.)
    """

    def __init__(self, data, network, pictures, seed):
        self.data, self.network, self.pictures, self.seed = data, network, pictures, seed
        self.to_training = len(data.held_out) < MOST_REAL
        count = min(pictures, MOST_REAL)
        if self.to_training:
            count = min(count, len(data.rest) // 2)
        self.held_out, self.found = self._read(data.held_out[:MOST_REAL], "held-out images")
        self.others, _ = self._read(data.rest[:count], "training images")
        self.reference = self.held_out
        if self.to_training:
            chosen = data.rest[count:][:MOST_REAL]
            self.reference, _ = self._read(chosen, "other training images")
        self.subset_size = min(SUBSET_SIZE, len(self.others) // 2, len(self.held_out) // 2)

    def _read(self, chosen, what):
        return self.network.read(Subset(self.data.images, chosen), what)

    def protocol(self):
        """Return what the scores were computed from, without which no number means anything."""
        network = self.network
        return {
            "pictures": self.pictures,
            "compared": len(self.others),
            "reference": "training" if self.to_training else "held_out",
            "reference_images": len(self.reference),
            "held_out": len(self.held_out),
            "kernel_subset": self.subset_size,
            "network": network.name,
            "network_digest": network.digest,
            "features": network.dimensions,
            "accuracy": network.accuracy,
        }

    def score(self, images, labels, what):
        """Score pictures uint8 [n, H, W, C], of the classes `labels` [n] if not None."""
        features, found = self.network.read(images, what)
        names = self.data.facts.class_names
        return self._distances(features) | recognised(found, labels, names)

    def floor(self):
        """Score real images as if they were pictures: about what a perfect generator would get.

        They are training images, but held-out ones for `recognised`. A classifier was fitted to
        training images, so their features differ a little from those of held-out images.
        """
        labels = self.data.labels
        if labels is not None:
            labels = labels[self.data.held_out[: len(self.held_out)]]
        names = self.data.facts.class_names
        return self._distances(self.others) | recognised(self.found, labels, names)

    def _distances(self, features):
        """Compare the features [n, d] of pictures with those of real images."""
        compared = features[: len(self.others)]
        enough = min(len(compared), len(self.reference)) >= features.shape[1]
        frechet = distances.frechet_distance(compared, self.reference) if enough else None
        size, kernel = self.subset_size, []
        for i in range(SUBSETS):
            a = draws.subset(self.seed, 2 * i, len(features), size)
            b = draws.subset(self.seed, 2 * i + 1, len(self.held_out), size)
            kernel.append(distances.kernel_distance(features[a], self.held_out[b]))
        moved = min(MOST_MOVED, len(compared), len(self.reference))
        chosen = self.reference[draws.subset(self.seed, 2 * SUBSETS, len(self.reference), moved)]
        precision, recall = distances.precision_recall(self.reference, compared)
        return {
            "frechet_distance" + "_to_training" * self.to_training: frechet,
            "kernel_distance": float(np.mean(kernel)),
            "kernel_distance_spread": float(np.std(kernel)),
            "earth_movers_distance": distances.earth_movers_distance(compared[:moved], chosen),
            "earth_movers_images": moved,
            "precision": precision,
            "recall": recall,
        }


def recognised(found, labels, class_names):
    """Return the share, 0 to 1, of images whose class the classifier finds; all, and by class.

    `found` int [n] are the classes that it finds, `labels` int [n] the right ones. Where either is
    None there are no shares. A class without images has None.
    """
    if found is None or labels is None:
        return {}
    right = found == labels
    return {
        "recognised": float(np.mean(right)),
        "recognised_by_class": {
            name: float(np.mean(right[labels == k])) if np.any(labels == k) else None
            for k, name in enumerate(class_names)
        },
    }


def compare_by_pixels(images, data, path):
    """Look for pictures uint8 [n, H, W, C] that are nearly training images of a Data.

    Writes the worst, over the training images nearest to them, to `path`. Returns the share of
    pictures, 0 to 1, that are nearer to one than 99 % of the held-out images are. Held-out images
    that are exact copies of training images do not count.
    """
    train = Subset(data.images, data.train[:MOST_COMPARED])
    held_out = Subset(data.images, data.held_out[:MOST_REAL])
    ratios, nearest = nearness(images, train)
    usual, found = nearness(held_out, train)
    copies = [np.array_equal(held_out[i], train[k]) for i, k in enumerate(found)]
    usual = usual[~np.array(copies)]
    limit = np.quantile(usual, SUSPICIOUS, method="inverted_cdf") if len(usual) else 0.0
    worst = np.argsort(ratios, kind="stable")[:SHOWN]
    shown = np.stack([images[worst], train[nearest[worst]]], axis=1)  # [16, 2, H, W, C]
    rows = [part.swapaxes(0, 1).reshape(-1, *images.shape[1:]) for part in np.split(shown, 2)]
    path.parent.mkdir(parents=True, exist_ok=True)
    utils.save_png(path, utils.grid(np.concatenate(rows), SHOWN // 2))
    return float(np.mean(ratios <= limit))


def nearness(images, train):
    """Divide each image's distance to the nearest training image by its mean distance to 50.

    Both are uint8 [number, H, W, C], or a Subset. Returns the ratios [n], near 0 for copies, and
    the positions of the nearest [n]. After arXiv 2301.13188, which finds in this way what diffusion
    models have learnt by heart.
    """
    apart, positions = distances.nearest(images, train, min(AROUND, len(train)))
    return apart[:, 0] / np.maximum(apart.mean(axis=1), 1e-6), positions[:, 0]


def print_table(result):
    """Print what scores.json holds."""
    accuracy = "" if result["accuracy"] is None else f", accuracy {result['accuracy']:.2%}"
    print(
        f"{result['compared']} of {result['pictures']} pictures against"
        f" {result['reference_images']} {result['reference'].replace('_', '-')} images;"
        f" {result['features']} features of {result['network']}{accuracy}"
    )
    scores = result["scores"]
    moved = scores["floor"]["earth_movers_images"]
    print(f"Earth mover's distance: {moved} pictures and as many of these images")
    frechet = next(name for name in scores["floor"] if name.startswith("frechet"))
    title = frechet.replace("_", " ").capitalize()
    table = [["", title, "kernel distance", "earth mover's", "precision", "recall", "recognised"]]
    for name, row in scores.items():
        kernel = f"{row['kernel_distance']:.4f} ± {row['kernel_distance_spread']:.4f}"
        numbers = [shown(row[frechet], ".2f"), kernel, f"{row['earth_movers_distance']:.2f}"]
        numbers += [f"{row['precision']:.3f}", f"{row['recall']:.3f}"]
        table.append([name, *numbers, shown(row.get("recognised"), ".2%")])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))
    shares = scores["averaged"].get("recognised_by_class", {})
    if shares:
        words = (f"{printable(name)} {shown(share, '.1%')}" for name, share in shares.items())
        print(f"Recognised by class: {', '.join(words)}")
    print(
        f"Suspiciously near to a training image: {result['suspiciously_near']:.2%} of the pictures,"
        f" {SUSPICIOUS:.0%} of the held-out images"
    )


def shown(value, form):
    """Format a number; None is a dash."""
    return "-" if value is None else format(value, form)
