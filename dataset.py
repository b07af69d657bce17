"""Any data set as uint8 images [N, H, W, C] and labels, split into training and held-out images.

Knows files and Pillow; knows no TensorFlow and draws nothing.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

import cache
import draws
import imagefile
import official
from errors import Refused


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


def load(config):
    """Read the data set that `config` names, as published or as a folder of images.

    Downloads it where that can be done and it is missing. Raises Refused.
    """
    folder = folder_of(config)
    if official.is_missing(config.dataset, folder):
        official.download(config.dataset, folder)
    if read := official.find(config.dataset, folder):
        return _load_published(folder, config, read())
    if not folder.is_dir():
        raise Refused(
            f"--dataset {config.dataset}: there is no folder {folder}; put the data there"
            " or name the folder above it with --data_dir"
        )
    return _load_folder(folder, config)


def folder_of(config):
    """Name the folder of the data set that `config` names."""
    return Path(config.data_dir) / config.dataset


def _load_published(folder, config, published):
    images, labels = published.images, published.labels
    if config.crop or images.shape[1:3] != config.output_size:
        try:
            fit = [
                imagefile.fit_image(Image.fromarray(image), config.output_size, config.crop_size)
                for image in images.squeeze()
            ]
        except ValueError as error:
            raise Refused(f"{folder}: {error}; choose a smaller --input_height") from None
        images = np.stack(fit).reshape(len(images), *config.output_size, images.shape[3])
    total = hashlib.sha256(np.ascontiguousarray(images).data)
    total.update(labels.data)
    return _split(
        config,
        images,
        labels,
        official.CLASS_NAMES[config.dataset],
        published.sizes,
        np.arange(published.trained, len(images)),
        total.hexdigest(),
        image_files=False,
    )


def held_out_count(count):
    """Say how many of a folder's images are held out."""
    return max(16, count // 20)


def _load_folder(folder, config):
    found = cache.open_folder(folder, config)
    count = len(found.images)
    held_out = draws.fixed_permutation(count)[: held_out_count(count)]
    sizes = dict(zip(found.names, found.sizes, strict=True))
    return _split(
        config,
        found.images,
        found.labels,
        found.class_names,
        sizes,
        held_out,
        found.digest,
        image_files=True,
    )


def _others(count, held_out):
    order = draws.fixed_permutation(count)
    return order[~np.isin(order, held_out)]


def _split(config, images, labels, class_names, sizes, held_out, digest, *, image_files):
    """Put a Data together: what is not held out, in the fixed permutation, is for training.

    `sizes` are the files' by name, `digest` is the sha256 of images and labels.
    """
    rest = _others(len(images), held_out)
    train = rest[: int(min(config.train_size, len(rest)))]
    if len(train) < config.batch_size:
        raise Refused(
            f"--batch_size {config.batch_size}: larger than the {len(train)} training images of"
            f" '{config.dataset}' ({len(held_out)} of {len(images)} are held out)"
        )
    counts = (
        () if labels is None else np.bincount(labels[train], minlength=len(class_names)).tolist()
    )
    fingerprint = hashlib.sha256()
    content = [digest, class_names, config.crop_size, images.shape]
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
