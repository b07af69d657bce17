"""Any data set as uint8 images [N, H, W, C] and labels, split into training and held-out images.

Knows files and Pillow; knows no TensorFlow and draws nothing.
"""

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
from PIL import Image

import draws
from config import FLAGS
from datasets import conversion, image_file, origins, points, published
from pairs import PLANE
from system.errors import Refused


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
    image_files: bool  # in a folder or an archive, chosen by the pattern of their names
    pixels: str  # sha256 of all images and labels
    fingerprint: str  # of that, names, sizes and conversion settings


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and who is who in it.

    `images` uint8 [all, H, W, C], `labels` int32 [all] or None; `train` and `held_out` are indices
    into `images`; `train` is already cut to --train_size.
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


def load(source, train_size=math.inf):
    """Read a data set, as published or as images of any origin, of which `train_size` are to train.

    Downloads it where that can be done and it is missing. Raises Refused.
    """
    if source.name in PLANE:
        return _load_points(source.name, train_size)
    origins.archive_beside(source.folder)
    if published.is_missing(source.name, source.folder):
        published.download(source.name, source.folder)
    if read := published.find(source.name, source.folder):
        return _load_published(source, read(), train_size)
    origin = origins.find(source.folder, source.pattern)
    if origin is None:
        raise Refused(
            f"--dataset {source.name}: there is no folder {source.folder} and no archive"
            f" {source.folder}.zip; put the data there or name the folder above it with --data_dir"
        )
    return _load_images(source, origin, train_size)


def _load_points(name, train_size):
    made = points.make(name)
    digest = hashlib.sha256(made.data).hexdigest()
    held_out = np.arange(points.TRAINING, len(made))
    return _split(train_size, made, None, (), held_out, digest, digest, image_files=False)


def _load_published(source, found, train_size):
    images, labels = found.images, found.labels
    if source.crop or images.shape[1:3] != source.size:
        try:
            fit = [
                image_file.fit_image(Image.fromarray(image), source.size, source.crop)
                for image in images.squeeze()
            ]
        except ValueError as error:
            raise Refused(f"{source.folder}: {error}; choose a smaller --input_height") from None
        images = np.stack(fit).reshape(len(images), *source.size, images.shape[3])
    total = hashlib.sha256(np.ascontiguousarray(images).data)
    total.update(labels.data)
    digest, class_names = total.hexdigest(), published.CLASS_NAMES[source.name]
    return _split(
        train_size,
        images,
        labels,
        class_names,
        np.arange(found.trained, len(images)),
        digest,
        conversion.fingerprint(digest, class_names, source.crop, images.shape, found.sizes),
        image_files=False,
    )


def held_out_count(count):
    """Return how many images are held out where the data set does not say."""
    return max(16, count // 20)


def _load_images(source, origin, train_size):
    found = conversion.open_converted(origin, source)
    count = len(found.images)
    held_out = np.arange(count - found.held_out, count)
    if not found.held_out:
        held_out = draws.fixed_permutation(count)[: held_out_count(count)]
    return _split(
        train_size,
        found.images,
        found.labels,
        found.class_names,
        held_out,
        found.digest,
        found.fingerprint,
        image_files=origin.pattern is not None,
    )


def _others(count, held_out):
    order = draws.fixed_permutation(count)
    return order[~np.isin(order, held_out)]


def _split(train_size, images, labels, class_names, held_out, digest, fingerprint, *, image_files):
    """Put a Data together: what is not held out, in the fixed permutation, is for training."""
    rest = _others(len(images), held_out)
    train = rest[: int(min(train_size, len(rest)))]
    counts = (
        () if labels is None else np.bincount(labels[train], minlength=len(class_names)).tolist()
    )
    facts = Facts(
        shape=tuple(int(size) for size in images.shape[1:]),
        available=len(rest),
        held_out=len(held_out),
        class_names=tuple(class_names),
        label_counts=tuple(counts),
        image_files=image_files,
        pixels=digest,
        fingerprint=fingerprint,
    )
    return Data(images, labels, train, held_out, facts)
