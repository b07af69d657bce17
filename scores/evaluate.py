"""What --evaluate computes: how good pictures are, and whether some copy training images."""

import json
from pathlib import Path

import numpy as np

import draws
import sample
import utils
from datasets.dataset import Subset
from run import folders, weights
from scores import distances
from system.errors import Refused
from system.screen import printable

# Real images whose features are read, of each kind at most. Where fewer are held out, the Frechet
# distance is to the training images.
MOST_REAL = 10000
# Training images with which pictures are compared pixel by pixel, at most.
MOST_COMPARED = 100000
FEWEST = 2 * (distances.NEIGHBOURS + 1)  # each half of them must have neighbours
FEWEST_HELD_OUT = 4  # two in each half, of which the kernel distance's subsets are
# Of the kernel distance: as many subsets as its authors took, of this size or of half the images.
SUBSETS, SUBSET_SIZE = 100, 1000
# Of the earth mover's distance: so many vectors of each kind, of what the Frechet distance takes.
MOST_MOVED = 2000
# A picture is suspicious if it is nearer to one training image than to this many around it.
AROUND = 50
# A picture is suspiciously near if only this share of the held-out images, which nobody can have
# learnt, is nearer.
SUSPICIOUS = 0.01
SHOWN = 16


def check_counts(data, count, dimensions):
    """Refuse to score too few images; say beforehand where there will be no Frechet distance.

    `count` pictures are to be scored by features of so many `dimensions`.
    """
    if len(data.rest) < FEWEST:
        raise Refused(f"{len(data.rest)} training images: at least {FEWEST} are needed for scores")
    if len(data.held_out) < FEWEST_HELD_OUT:
        raise Refused(
            f"{len(data.held_out)} held-out images: at least {FEWEST_HELD_OUT} are needed for"
            " scores"
        )
    if count < dimensions:
        raise Refused(
            f"--evaluate_images {count}: fewer pictures than the {dimensions} features that they"
            " are scored by; give more"
        )
    half = len(data.rest) // 2
    if len(data.held_out) < MOST_REAL and half < dimensions:
        print(
            f"No Frechet distance by {dimensions} features from {half} images, half of the training"
            " images; the other scores follow"
        )


def evaluate(gan, data, network, count, seed):
    """Score the first `count` pictures of a seed by the averaged generator and by the raw one.

    A shipped generator has no raw one. `network` is a feature_networks.FeatureNetwork. Writes
    scores.json into the run's folder and nearest.png into that of the pictures; prints a table.
    Raises Refused.
    """
    if broken := weights.find_non_finite([gan.generator, gan.average]):
        raise Refused(f"{gan.source}: {broken} is not finite")
    print(f"Scoring {count} pictures by {network.name}")
    real = RealImages(data, network, count, seed)
    shipped = gan.source.endswith(".npz")
    nearest = Path(gan.config.sample_dir) / "nearest.png"
    rows = {}
    for name in ("averaged", "raw")[: 1 if shipped else 2]:
        images, labels = all_pictures(gan, count, seed, raw=name == "raw")
        rows[name] = real.score(images, labels, f"{name} generator")
        if name == "averaged":
            near = real.compare_by_pixels(images, nearest)
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
    print(f"All of it is in {path}; pictures over their nearest training images are in {nearest}")


def all_pictures(gan, count, seed, raw):
    """Make the pictures that --generate would write: uint8 [n, H, W, C], labels [n] or None."""
    images = np.empty((count, *gan.shape), np.uint8)
    labels = np.empty(count, np.int32) if gan.classes else None
    for made, classes, first in sample.generated(gan, count, seed, raw=raw):
        images[first : first + len(made)] = made
        if gan.classes:
            labels[first : first + len(made)] = classes
    return images, labels


class RealImages:
    """What pictures are compared with: the features of real images, each read once.

    `reference` is what all distances but the kernel distance are to, and `others` is scored for the
    floor. `others` are not held out; nor is `reference` where few images are held out, and then no
    image is in both. (--train_size plays no part.) These scores depend on how many vectors there
    are, so pictures and floor are scored with as many.
    """

    def __init__(self, data, network, pictures, seed):
        self.data, self.network, self.pictures, self.seed = data, network, pictures, seed
        self.to_training = len(data.held_out) < MOST_REAL
        count = min(pictures, MOST_REAL)
        if self.to_training:
            count = min(count, len(data.rest) // 2)
        self.held_out, self.named = self._read(data.held_out[:MOST_REAL], "held-out images")
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
        features, named = self.network.read(images, what)
        row = self._distances(features)
        if labels is not None and named is not None:
            row |= recognised(named, labels, self.data.facts.class_names)
        return row

    def floor(self):
        """Score real images as if they were pictures: about what a perfect generator would get.

        They are training images, but for `recognised`, which is of the held-out ones. A classifier
        has been fitted to training images, so their features differ a little from held-out ones'.
        """
        row = self._distances(self.others)
        if self.named is not None:
            labels = self.data.labels[self.data.held_out[: len(self.named)]]
            row |= recognised(self.named, labels, self.data.facts.class_names)
        return row

    def _distances(self, features):
        """Compare features [n, d] with the reference; the kernel distance is to held-out images."""
        name = "frechet_distance_to_training" if self.to_training else "frechet_distance"
        compared = features[: len(self.others)]
        enough = min(len(compared), len(self.reference)) >= features.shape[1]
        mean, spread = self._kernel_distance(features)
        precision, recall = distances.precision_recall(self.reference, compared)
        moved = min(MOST_MOVED, len(compared), len(self.reference))
        chosen = draws.subset(self.seed, 2 * SUBSETS, len(self.reference), moved)
        return {
            name: distances.frechet_distance(compared, self.reference) if enough else None,
            "kernel_distance": mean,
            "kernel_distance_spread": spread,
            "earth_movers_distance": distances.earth_movers_distance(
                compared[:moved], self.reference[chosen]
            ),
            "earth_movers_images": moved,
            "precision": precision,
            "recall": recall,
        }

    def _kernel_distance(self, features):
        """Average over random subsets: mean and standard deviation."""
        seed, size = self.seed, self.subset_size
        found = []
        for i in range(SUBSETS):
            a = draws.subset(seed, 2 * i, len(features), size)
            b = draws.subset(seed, 2 * i + 1, len(self.held_out), size)
            found.append(distances.kernel_distance(features[a], self.held_out[b]))
        return float(np.mean(found)), float(np.std(found))

    def compare_by_pixels(self, images, path):
        """Look for pictures uint8 [n, H, W, C] that are nearly training images.

        Writes the worst, over the training images nearest to them, to `path`. Returns the share of
        pictures that are nearer to one than 99 % of the held-out images are, 0 to 1; exact copies
        among the latter do not count.
        """
        train = Subset(self.data.images, self.data.train[:MOST_COMPARED])
        held_out = Subset(self.data.images, self.data.held_out[:MOST_REAL])
        ratios, nearest = nearness(images, train)
        usual, found = nearness(held_out, train)
        copies = [np.array_equal(held_out[i], train[k]) for i, k in enumerate(found)]
        usual = usual[~np.array(copies)]  # data that repeat themselves tell nothing of learning
        limit = np.quantile(usual, SUSPICIOUS, method="inverted_cdf") if len(usual) else 0.0
        worst = np.argsort(ratios, kind="stable")[:SHOWN]
        shown = np.stack([images[worst], train[nearest[worst]]], axis=1)  # [16, 2, H, W, C]
        rows = [part.swapaxes(0, 1).reshape(-1, *images.shape[1:]) for part in np.split(shown, 2)]
        path.parent.mkdir(parents=True, exist_ok=True)
        utils.save_png(path, utils.grid(np.concatenate(rows), SHOWN // 2))
        return float(np.mean(ratios <= limit))


def nearness(images, train):
    """Compare each image's distance to the nearest training image with those around that.

    Both are uint8 [number, H, W, C], or a Subset. Returns the ratios [n], near 0 for copies, and
    the positions of the nearest [n]. After arXiv 2301.13188, which finds what diffusion models have
    learnt by heart in this way.
    """
    apart, positions = distances.nearest(images, train, min(AROUND, len(train)))
    return apart[:, 0] / np.maximum(apart.mean(axis=1), 1e-6), positions[:, 0]


def recognised(named, labels, class_names):
    """Return the share, 0 to 1, of pictures that are taken for what they should be.

    `named` int [n] is what the classifier takes them for, `labels` int [n] what they should be. The
    shares by class name are in it, too, None for a class without pictures.
    """
    right = named == labels
    return {
        "recognised": float(np.mean(right)),
        "recognised_by_class": {
            name: float(np.mean(right[labels == k])) if np.any(labels == k) else None
            for k, name in enumerate(class_names)
        },
    }


# Table.

ROWS = {
    "averaged": "averaged generator",
    "raw": "raw generator",
    "floor": "real images (the floor)",
}


def print_table(result):
    """Print what scores.json holds."""
    accuracy = "" if result["accuracy"] is None else f", accuracy {result['accuracy']:.2%}"
    print(
        f"{result['compared']} of {result['pictures']} pictures against"
        f" {result['reference_images']} {result['reference'].replace('_', '-')} images;"
        f" {result['features']} features of {result['network']}{accuracy}"
    )
    moved = result["scores"]["floor"]["earth_movers_images"]
    print(f"Earth mover's distance: {moved} pictures and as many of these images")
    to = " to training" if result["reference"] == "training" else ""
    print(
        f"{'':24} {'Frechet distance' + to:>{16 + len(to)}} {'kernel distance':>20}"
        f" earth mover's {'precision':>9} {'recall':>6} {'recognised':>10}"
    )
    for name, row in result["scores"].items():
        frechet = row["frechet_distance_to_training" if to else "frechet_distance"]
        kernel = f"{row['kernel_distance']:.4f} ± {row['kernel_distance_spread']:.4f}"
        shown = "-" if frechet is None else f"{frechet:.2f}"
        known = f"{row['recognised']:.2%}" if "recognised" in row else "-"
        print(
            f"{ROWS[name]:24} {shown:>{16 + len(to)}} {kernel:>20}"
            f" {row['earth_movers_distance']:13.2f} {row['precision']:9.3f}"
            f" {row['recall']:6.3f} {known:>10}"
        )
    shares = result["scores"]["averaged"].get("recognised_by_class", {})
    if shares:
        known = (
            f"{printable(name)} {'-' if share is None else f'{share:.1%}'}"
            for name, share in shares.items()
        )
        print(f"Recognised by class: {', '.join(known)}")
    print(
        f"Suspiciously near to a training image: {result['suspiciously_near']:.2%} of the pictures,"
        f" {SUSPICIOUS:.0%} of the held-out images"
    )
