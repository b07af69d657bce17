"""--evaluate: how good a run's pictures are, and whether they are learnt by heart."""

import json
from pathlib import Path

import numpy as np

import dataset
import device
import draws
import pictures
import runs
import scores
import utils
from errors import Refused

# With fewer held-out images than this, the Frechet distance is to the training images.
HELD_OUT = 10000
# Training images at most: of which features are read, and with which pictures are compared.
MOST_READ, MOST_COMPARED = 50000, 100000
FEWEST = 2 * (scores.NEIGHBOURS + 1)  # each half of them must have neighbours
# Of the kernel distance: as many subsets of this size as its authors took.
SUBSETS, SUBSET_SIZE = 100, 1000
# A picture is suspicious if it is nearer to one training image than to this many around it.
AROUND = 50
SUSPICIOUS = 0.01  # so close are as many of the held-out images, which nobody has learnt
SHOWN = 16


def evaluate(typed):
    """Score the run that the typed flags name; writes scores.json and nearest.png, prints a table.

    Raises Refused.
    """
    config, facts, source = runs.find(typed)
    for folder in (config.sample_dir, config.run_dir):
        runs.check_folder(folder, config)
    data = dataset.load(config)
    if found := runs.changed_data(facts, data.facts):
        raise Refused(f"{config.run_dir}: {'; '.join(found)}; evaluate with the data of the run")
    device.import_tensorflow()
    import metrics

    if len(data.train) < FEWEST:
        raise Refused(f"{len(data.train)} training images: at least {FEWEST} are needed for scores")
    dimensions = metrics.feature_dimensions(config, data)
    if config.evaluate_images < dimensions:
        raise Refused(
            f"--evaluate_images {config.evaluate_images}: fewer pictures than the {dimensions}"
            " features that they are scored by; give more"
        )
    gan = pictures.load(config, facts, source)
    print(f"Scoring {config.evaluate_images} pictures, which takes a few minutes")
    real = RealImages(config, data, metrics.feature_network(config, data))
    rows = {}
    for name, raw in (("averaged", False), ("raw", True)):
        if raw and source.endswith(".npz"):
            continue  # an archive keeps the average alone
        images, labels = all_pictures(gan, config, raw)
        rows[name] = real.score(images, labels, f"{name} generator")
        if name == "averaged":
            memory = real.compare_by_pixels(images, Path(config.sample_dir) / "nearest.png")
    rows["floor"] = real.floor()
    result = {
        "weights": source,
        "iteration": None if source.endswith(".npz") else int(gan.iteration),
        "seed": config.seed,
        **real.protocol(),
        "scores": rows,
        "nearest": memory,
    }
    path = Path(config.run_dir) / "scores.json"
    runs.write_atomically(path, json.dumps(result, indent=2) + "\n")
    print_table(result, facts)
    print(f"All of it is in {path}; pictures over their nearest training images are in nearest.png")


def all_pictures(gan, config, raw):
    """Make the pictures that --generate would write: uint8 [n, H, W, C], labels [n] or None."""
    made = list(pictures.generated(gan, config, config.evaluate_images, raw))
    images = np.concatenate([images for images, _, _ in made])
    return images, np.concatenate([labels for _, labels, _ in made]) if gan.classes else None


class RealImages:
    """What pictures are compared with: the features of real images, each read once."""

    def __init__(self, config, data, network):
        self.config, self.data, self.network = config, data, network
        self.held_out, self.named = self._read(data.held_out[:HELD_OUT], "held-out images")
        self.to_training = len(data.held_out) < HELD_OUT
        count = MOST_READ if self.to_training else config.evaluate_images
        self.train, _ = self._read(data.train[:count], "training images")
        self.reference = self.train if self.to_training else self.held_out

    def _read(self, chosen, what):
        return self.network.read(self.data.images[chosen], what)

    def protocol(self):
        """Say what the scores were computed from, without which no number means anything."""
        network = self.network
        return {
            "pictures": self.config.evaluate_images,
            "held_out": len(self.held_out),
            "training": len(self.train),
            "reference": "training" if self.to_training else "held_out",
            "network": network.name,
            "features": network.dimensions,
            "accuracy": network.accuracy,
        }

    def score(self, images, labels, what):
        """Score pictures uint8 [n, H, W, C], of the classes `labels` [n] if not None."""
        features, named = self.network.read(images, what)
        row = self._distances(features, self.reference)
        if labels is not None and named is not None:
            row |= recognised(named, labels, len(self.data.facts.class_names))
        return row

    def floor(self):
        """Score real training images as if they were pictures: no generator can be better.

        Where the reference is the training images, one half of them is scored against the other.
        """
        count = self.config.evaluate_images
        if self.to_training:
            half = len(self.train) // 2
            row = self._distances(self.train[half:][:count], self.train[:half])
        else:
            row = self._distances(self.train[:count], self.held_out)
        if self.named is not None:
            labels = self.data.labels[self.data.held_out[: len(self.named)]]
            row |= recognised(self.named, labels, len(self.data.facts.class_names))
        return row

    def _distances(self, features, reference):
        """Compare features [n, d] with a reference; the kernel distance is to held-out images."""
        name = "frechet_distance_to_training" if self.to_training else "frechet_distance"
        enough = min(len(features), len(reference)) >= features.shape[1]
        mean, spread = self._kernel_distance(features)
        precision, recall = scores.precision_recall(reference[:HELD_OUT], features[:HELD_OUT])
        return {
            name: scores.frechet_distance(features, reference) if enough else None,
            "kernel_distance": mean,
            "kernel_distance_spread": spread,
            "precision": precision,
            "recall": recall,
        }

    def _kernel_distance(self, features):
        """Average over random subsets: mean and standard deviation."""
        seed, size = self.config.seed, min(SUBSET_SIZE, len(features), len(self.held_out))
        found = []
        for i in range(SUBSETS):
            a = draws.subset(seed, 2 * i, len(features), size)
            b = draws.subset(seed, 2 * i + 1, len(self.held_out), size)
            found.append(scores.kernel_distance(features[a], self.held_out[b]))
        return float(np.mean(found)), float(np.std(found))

    def compare_by_pixels(self, images, path):
        """Look for pictures that are nearly training images; writes the worst over these to `path`.

        Held-out images, which cannot have been learnt by heart, tell how near is usual.
        """
        train = self.data.images[self.data.train[:MOST_COMPARED]]
        held_out = self.data.images[self.data.held_out[:HELD_OUT]]
        ratios, nearest = nearness(images, train)
        usual, _ = nearness(held_out, train)
        limit = np.quantile(usual, SUSPICIOUS, method="inverted_cdf")
        worst = np.argsort(ratios, kind="stable")[:SHOWN]
        shown = np.stack([images[worst], train[nearest[worst]]], axis=1)  # [16, 2, H, W, C]
        columns = SHOWN // 2
        rows = [part.swapaxes(0, 1).reshape(-1, *images.shape[1:]) for part in np.split(shown, 2)]
        path.parent.mkdir(parents=True, exist_ok=True)
        utils.save_png(path, utils.grid(np.concatenate(rows), columns))
        return {
            "training": len(train),
            "share_suspicious": float(np.mean(ratios <= limit)),
            "share_of_held_out": float(np.mean(usual <= limit)),
        }


def nearness(images, train):
    """Compare each image's distance to the nearest training image with those around that.

    Returns the ratios [n], near 0 for copies, and the positions of the nearest [n]. After arXiv
    2301.13188, which finds what diffusion models have learnt by heart in this way.
    """
    distances, positions = scores.nearest(images, train, min(AROUND, len(train)))
    return distances[:, 0] / np.maximum(distances.mean(axis=1), 1e-6), positions[:, 0]


def recognised(named, labels, classes):
    """Return the share of pictures taken for what they should be, in all and by class."""
    right = named == labels
    return {
        "recognised": float(np.mean(right)),
        "recognised_by_class": [
            float(np.mean(right[labels == k])) if np.any(labels == k) else None
            for k in range(classes)
        ],
    }


# Table.

ROWS = {
    "averaged": "averaged generator",
    "raw": "raw generator",
    "floor": "real images (the floor)",
}


def print_table(result, facts):
    """Print what scores.json holds."""
    accuracy = "" if result["accuracy"] is None else f", accuracy {result['accuracy']:.2%}"
    print(
        f"{result['pictures']} pictures; {result['held_out']} held-out and {result['training']}"
        f" training images; {result['features']} features of {result['network']}{accuracy}"
    )
    to = " to training" if result["reference"] == "training" else ""
    print(
        f"{'':24} {'Frechet distance' + to:>{16 + len(to)}} {'kernel distance':>20}"
        f" {'precision':>9} {'recall':>6} {'recognised':>10}"
    )
    for name, row in result["scores"].items():
        frechet = row["frechet_distance_to_training" if to else "frechet_distance"]
        kernel = f"{row['kernel_distance']:.4f} ± {row['kernel_distance_spread']:.4f}"
        shown = "-" if frechet is None else f"{frechet:.2f}"
        known = f"{row['recognised']:.2%}" if "recognised" in row else "-"
        print(
            f"{ROWS[name]:24} {shown:>{16 + len(to)}} {kernel:>20}"
            f" {row['precision']:9.3f} {row['recall']:6.3f} {known:>10}"
        )
    shares = result["scores"]["averaged"].get("recognised_by_class", [])
    if shares:
        known = (
            f"{name} {'-' if share is None else f'{share:.1%}'}"
            for name, share in zip(facts.class_names, shares, strict=True)
        )
        print(f"Recognised by class: {', '.join(known)}")
    memory = result["nearest"]
    print(
        f"Suspiciously near to one of {memory['training']} training images:"
        f" {memory['share_suspicious']:.2%} of the pictures,"
        f" {memory['share_of_held_out']:.2%} of the held-out images"
    )
