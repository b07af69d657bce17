"""Any data set as uint8 images [N, H, W, C] and labels, split into training and held-out images.

Knows files and Pillow; knows no TensorFlow and draws nothing.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

import draws
from config import FLAGS
from datasets import conversion, origins, points, published
from pairs import PLANE


@dataclasses.dataclass(frozen=True)
class Source:
    """Which data set is to be read, and how; sizes are (height, width) in pixels."""

    name: str
    folder: Path
    cache: Path  # folder for converted images
    pattern: str  # of the files' names, where they are image files
    size: tuple[int, int]
    crop: tuple[int, int] | None  # of the centre, before resizing


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a run remembers of its data, in config.json."""

    shape: tuple[int, int, int]  # height, width, channels
    available: int  # images that are not held out
    held_out: int
    class_names: tuple[str, ...]  # () without labels
    label_counts: tuple[int, ...]  # of the training images, by class
    image_files: bool  # whether they come from files that --input_fname_pattern chose
    pixels: str  # sha256 of all images and labels
    fingerprint: str  # of that, names, sizes and conversion settings


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, split into training and held-out images.

    `images` uint8 [all, H, W, C], `labels` int32 [all] or None; `train` and `held_out` are indices
    into `images`; `train` has at most --train_size of them.
    """

    images: np.ndarray
    labels: np.ndarray | None
    train: np.ndarray
    held_out: np.ndarray
    facts: Facts

    @property
    def rest(self):
        """List all images that are not held out, whatever --train_size, in the fixed order."""
        return _others(len(self.images), self.held_out)

    def critic_batch(self, seed, batch_size, m, part=slice(None), mirror=False):
        """Return the images [B, H, W, C] and labels [B] (or None) of critic update m of a run.

        Only a `part` of them is read, if that is asked for; with `mirror` half of them are flipped.
        """
        chosen = self.train[draws.batch_positions(seed, len(self.train), batch_size, m)[part]]
        images = self.images[chosen]
        if mirror:
            flipped = draws.mirrored(seed, m, batch_size)[part]
            images[flipped] = images[flipped, :, ::-1]
        return images, None if self.labels is None else self.labels[chosen]

    def held_out_batches(self, batch_size, most):
        """List equal batches of at most `most` held-out images: (images, labels or None)."""
        size = min(batch_size, len(self.held_out), most)
        count = min(len(self.held_out), most) // size
        parts = np.split(self.held_out[: count * size], count)
        labels = [None] * count if self.labels is None else [self.labels[part] for part in parts]
        return [(self.images[part], of_part) for part, of_part in zip(parts, labels, strict=True)]


class Subset:
    """Some images of an array or memory map, read when they are asked for."""

    def __init__(self, images, positions):
        self.images, self.positions = images, positions
        self.shape = (len(positions), *images.shape[1:])

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, which):
        return self.images[self.positions[which]]


def source_of(config):
    """Return the Source that a Config of flags names."""
    folder = Path(config.data_dir) / config.dataset
    cache = Path(config.cache_dir or Path(config.data_dir) / ".cache")
    pattern = config.input_fname_pattern or FLAGS["input_fname_pattern"].default
    return Source(config.dataset, folder, cache, pattern, config.output_size, config.crop_size)


def load(source, train_size=math.inf, open_images=conversion.open_converted):
    """Load a published data set, downloaded if it is missing, or the user's own images.

    At most `train_size` images are for training. `open_images(origin, source)` returns the user's
    images as a Converted. Raises Refused.
    """
    if source.name in PLANE:
        return _split(points.load(source.name), False, train_size)
    if missing := published.missing_files(source.name, source.folder):
        published.download(source.name, source.folder, missing)
    found, image_files = published.read(source), False
    if found is None:
        origin = origins.find(source.folder, source.pattern)
        found, image_files = open_images(origin, source), origin.pattern is not None
    return _split(found, image_files, train_size)


def _split(found, image_files, train_size):
    """Return the Data of a Converted; the first `train_size` images not held out are to train."""
    count, labels = len(found.images), found.labels
    held_out = np.arange(count - found.held_out, count)
    if not found.held_out:
        held_out = draws.fixed_permutation(count)[: max(16, count // 20)]
    rest = _others(count, held_out)
    train = rest[: int(min(train_size, len(rest)))]
    label_counts = ()
    if labels is not None:
        label_counts = np.bincount(labels[train], minlength=len(found.class_names)).tolist()
    facts = Facts(
        shape=found.images.shape[1:],
        available=len(rest),
        held_out=len(held_out),
        class_names=tuple(found.class_names),
        label_counts=tuple(label_counts),
        image_files=image_files,
        pixels=found.digest,
        fingerprint=found.fingerprint,
    )
    return Data(found.images, labels, train, held_out, facts)


def _others(count, held_out):
    order = draws.fixed_permutation(count)
    return order[~np.isin(order, held_out)]
