"""Any data set as uint8 images [N, H, W, C] and labels, split into training and held-out images.

Knows files and Pillow; knows no TensorFlow and draws nothing.
"""

import dataclasses
import gzip
import hashlib
import json
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

import cache
import draws
import imagefile
from config import IDX_SETS
from errors import Refused

MNIST_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a run remembers of its data, in config.json."""

    shape: tuple[int, int, int]  # height, width, channels
    available: int  # images that are not held out
    held_out: int
    class_names: tuple[str, ...]  # () without labels
    label_counts: tuple[int, ...]  # of the training images, by class
    fingerprint: str  # of names, sizes, conversion settings, pixels and labels


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

    def critic_batch(self, seed, batch_size, m):
        """Return the images [B, H, W, C] and labels [B] (or None) of critic update m of a run."""
        chosen = self.train[draws.batch_positions(seed, len(self.train), batch_size, m)]
        return self.images[chosen], None if self.labels is None else self.labels[chosen]


def load(config):
    """Read the data set that `config` names: MNIST or a folder of images. Raises Refused."""
    folder = Path(config.data_dir) / config.dataset
    if not folder.is_dir():
        raise Refused(
            f"--dataset {config.dataset}: there is no folder {folder}; put the data there"
            " or name the folder above it with --data_dir"
        )
    if config.dataset in IDX_SETS:
        return _load_mnist(folder, config)
    return _load_folder(folder, config)


def _load_mnist(folder, config):
    paths = [_find_part(folder, name) for name in MNIST_PARTS]
    parts = [read_idx(path) for path in paths]
    images, labels, test_images, test_labels = parts
    for pictures, digits, path in (
        (images, labels, paths[1]),
        (test_images, test_labels, paths[3]),
    ):
        if pictures.ndim != 3 or digits.ndim != 1 or len(pictures) != len(digits):
            raise Refused(
                f"{path}: {digits.shape} labels for {pictures.shape} images, expected one each"
            )
        if pictures.shape[1:] != images.shape[1:] or not len(pictures):
            raise Refused(f"{path}: {pictures.shape} images beside {images.shape} training images")
        if digits.size and digits.max() > 9:
            raise Refused(f"{path}: holds a label {digits.max()}, expected digits from 0 to 9")
    everything = np.concatenate([images, test_images])
    if config.crop or everything.shape[1:] != config.output_size:
        try:
            fit = [
                imagefile.fit_image(Image.fromarray(image), config.output_size, config.crop_size)
                for image in everything
            ]
        except ValueError as error:
            raise Refused(f"{folder}: {error}; choose a smaller --input_height") from None
        everything = np.stack(fit)
    everything = everything[..., np.newaxis]
    labels = np.concatenate([labels, test_labels]).astype(np.int32)
    total = hashlib.sha256(everything.data)
    total.update(labels.data)
    return _split(
        config,
        everything,
        labels,
        [str(digit) for digit in range(10)],
        {name: array.size for name, array in zip(MNIST_PARTS, parts, strict=True)},
        np.arange(len(images), len(everything)),
        total.hexdigest(),
    )


def _find_part(folder, part):
    """Find one of MNIST's files under any of its usual names, gzipped or not."""
    stem, kind = part.rsplit("-", 1)
    names = [f"{stem}{mark}{kind}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise Refused(f"{folder}: {part}-ubyte is missing; expected one of {', '.join(names)}")


def read_idx(path):
    """Read an IDX file of unsigned bytes, gzipped or not: uint8, of its header's shape.

    The format is the one described at the end of MNIST's own page,
    http://yann.lecun.com/exdb/mnist/. Raises Refused where a file is none or is cut short.
    """
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, OSError) as error:
        raise Refused(f"{path}: cannot be read ({error}); fetch it again") from None
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise Refused(
            f"{path}: no IDX file of unsigned bytes (magic number {content[:4].hex() or 'missing'})"
        )
    shape = np.frombuffer(content, ">u4", content[3], 4)
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if body.size != math.prod(shape.tolist()):
        raise Refused(
            f"{path}: {body.size} bytes of data, its header says {math.prod(shape.tolist())};"
            " fetch it again"
        )
    return body.reshape(shape)


def _load_folder(folder, config):
    found = cache.open_folder(folder, config)
    count = len(found.images)
    held_out = draws.fixed_permutation(count)[: max(16, count // 20)]
    sizes = dict(zip(found.names, found.sizes, strict=True))
    return _split(
        config, found.images, found.labels, found.class_names, sizes, held_out, found.digest
    )


def _split(config, images, labels, class_names, sizes, held_out, digest):
    """Put a Data together: what is not held out, in the fixed permutation, is for training.

    `sizes` are the files' by name, `digest` is the sha256 of images and labels.
    """
    order = draws.fixed_permutation(len(images))
    rest = order[~np.isin(order, held_out)]
    train = rest[: int(min(config.train_size, len(rest)))]
    if len(train) < config.batch_size:
        raise Refused(
            f"--batch_size {config.batch_size}: larger than the {len(train)} training images of"
            f" '{config.dataset}' ({len(held_out)} of {len(images)} are held out)"
        )
    counts = (
        () if labels is None else np.bincount(labels[train], minlength=len(class_names)).tolist()
    )
    content = [digest, sorted(sizes.items()), class_names, config.crop_size, images.shape]
    facts = Facts(
        shape=tuple(int(size) for size in images.shape[1:]),
        available=len(rest),
        held_out=len(held_out),
        class_names=tuple(class_names),
        label_counts=tuple(counts),
        fingerprint=hashlib.sha256(json.dumps(content).encode()).hexdigest(),
    )
    return Data(images, labels, train, held_out, facts)
