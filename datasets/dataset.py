"""Any data set as uint8 images [N, H, W, C] and labels, split into training and held-out images.

Knows files and Pillow; knows no TensorFlow and draws nothing.
"""

import dataclasses
import hashlib
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

import draws
from datasets import image_file, image_folder, published
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
    image_files: bool  # a folder of them, not a published data set
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

    def critic_batch(self, seed, batch_size, m, part=slice(None)):
        """Return the images [B, H, W, C] and labels [B] (or None) of critic update m of a run.

        Only a `part` of them is read, if that is asked for.
        """
        chosen = self.train[draws.batch_positions(seed, len(self.train), batch_size, m)[part]]
        return self.images[chosen], None if self.labels is None else self.labels[chosen]


class Subset:
    """Some images of an array or memory map, read when they are asked for."""

    def __init__(self, images, positions):
        self.images, self.positions = images, positions
        self.shape = (len(positions), *images.shape[1:])

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, which):
        return self.images[self.positions[which]]


def load(source, train_size=math.inf):
    """Read a data set, as published or as a folder of images, of which `train_size` are to train.

    Downloads it where that can be done and it is missing. Raises Refused.
    """
    if published.is_missing(source.name, source.folder):
        published.download(source.name, source.folder)
    if read := published.find(source.name, source.folder):
        return _load_published(source, read(), train_size)
    if not source.folder.is_dir():
        raise Refused(
            f"--dataset {source.name}: there is no folder {source.folder}; put the data there"
            " or name the folder above it with --data_dir"
        )
    return _load_folder(source, train_size)


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
    return _split(
        source,
        train_size,
        images,
        labels,
        published.CLASS_NAMES[source.name],
        found.sizes,
        np.arange(found.trained, len(images)),
        total.hexdigest(),
        image_files=False,
    )


def held_out_count(count):
    """Return how many of a folder's images are held out."""
    return max(16, count // 20)


def _load_folder(source, train_size):
    found = image_folder.open_folder(source)
    count = len(found.images)
    return _split(
        source,
        train_size,
        found.images,
        found.labels,
        found.class_names,
        dict(zip(found.names, found.sizes, strict=True)),
        draws.fixed_permutation(count)[: held_out_count(count)],
        found.digest,
        image_files=True,
    )


def _others(count, held_out):
    order = draws.fixed_permutation(count)
    return order[~np.isin(order, held_out)]


def _split(
    source, train_size, images, labels, class_names, sizes, held_out, digest, *, image_files
):
    """Put a Data together: what is not held out, in the fixed permutation, is for training.

    `sizes` are the files' by name, `digest` is the sha256 of images and labels.
    """
    rest = _others(len(images), held_out)
    train = rest[: int(min(train_size, len(rest)))]
    counts = (
        () if labels is None else np.bincount(labels[train], minlength=len(class_names)).tolist()
    )
    fingerprint = hashlib.sha256()
    content = [digest, class_names, source.crop, images.shape]
    fingerprint.update(json.dumps(content).encode())
    for name in sorted(sizes):
        fingerprint.update(f"{sizes[name]} {name!a}\n".encode())
    facts = Facts(
        shape=tuple(int(size) for size in images.shape[1:]),
        available=len(rest),
        held_out=len(held_out),
        class_names=tuple(class_names),
        label_counts=tuple(counts),
        image_files=image_files,
        pixels=digest,
        fingerprint=fingerprint.hexdigest(),
    )
    return Data(images, labels, train, held_out, facts)
