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
from PIL import Image, UnidentifiedImageError

import draws
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
    if config.dataset == "mnist":
        return _load_mnist(folder, config)
    return _load_folder(folder, config)


def _load_mnist(folder, config):
    paths = [_find_part(folder, name) for name in MNIST_PARTS]
    images, labels, test_images, test_labels = (read_idx(path) for path in paths)
    for pictures, digits, path in (
        (images, labels, paths[1]),
        (test_images, test_labels, paths[3]),
    ):
        if pictures.ndim != 3 or digits.ndim != 1 or len(pictures) != len(digits):
            raise Refused(
                f"{path}: {digits.shape} labels for {pictures.shape} images, expected one each"
            )
        if digits.size and digits.max() > 9:
            raise Refused(f"{path}: holds a label {digits.max()}, expected digits from 0 to 9")
    everything = np.concatenate([images, test_images])
    if config.crop or everything.shape[1:] != _output_size(config):
        fit = (fit_image(Image.fromarray(image), config, folder) for image in everything)
        everything = np.stack([np.asarray(image) for image in fit])
    return _split(
        config,
        everything[..., np.newaxis],
        np.concatenate([labels, test_labels]).astype(np.int32),
        [str(digit) for digit in range(10)],
        {path.name: path.stat().st_size for path in paths},
        held_out=np.arange(len(images), len(everything)),
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
    files = list_images(folder, config.input_fname_pattern)
    labelled = [file.parent != folder for file in files]
    if any(labelled) and not all(labelled):
        loose = files[labelled.index(False)]
        raise Refused(
            f"{folder}: images both in class folders and beside them ({loose.name});"
            " use one or the other"
        )
    names = sorted({file.parent.name for file in files}) if all(labelled) else []
    labels = (
        np.array([names.index(file.parent.name) for file in files], np.int32) if names else None
    )
    pictures = [open_image(file, config) for file in files]
    colour = any(picture.mode == "RGB" for picture in pictures)
    channels = 3 if colour else 1
    images = np.stack(
        [np.asarray(picture.convert("RGB" if colour else "L")) for picture in pictures]
    )
    images = images.reshape(len(files), *_output_size(config), channels)
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    held_out = draws.fixed_permutation(len(files))[: max(16, len(files) // 20)]
    return _split(config, images, labels, names, sizes, held_out)


def list_images(folder, pattern):
    """List the files of a folder and of its class sub-folders that match `pattern`, sorted."""
    files = [
        file
        for file in (*folder.glob(pattern), *folder.glob(f"*/{pattern}"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]
    if not files:
        raise Refused(
            f"{folder}: no image there is called {pattern};"
            " name your files with --input_fname_pattern"
        )
    return sorted(files, key=lambda file: file.relative_to(folder).as_posix())


def open_image(path, config):
    """Open a file as a grey (L) or RGB Pillow image of the run's size. Raises Refused."""
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L")
            image = image.convert("L" if grey else "RGB")
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise Refused(f"{path}: cannot be read as an image ({error})") from None
    return fit_image(image, config, path)


def fit_image(image, config, source):
    """Cut the centre out where `crop` says so and resize, antialiased, to the output size."""
    if config.crop:
        height, width = config.input_height, config.input_width or config.input_height
        if height > image.height or width > image.width:
            raise Refused(
                f"{source}: {image.height}x{image.width} pixels, smaller than the crop of"
                f" {height}x{width}; choose a smaller --input_height and --input_width"
            )
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    height, width = _output_size(config)
    if (image.height, image.width) != (height, width):
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return image


def _output_size(config):
    return config.output_height, config.output_width or config.output_height


def _split(config, images, labels, class_names, sizes, held_out):
    """Put a Data together: what is not held out, in the fixed permutation, is for training."""
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
    conversion = [
        config.crop,
        config.crop and config.input_height,
        config.crop and config.input_width,
    ]
    digest = hashlib.sha256(np.ascontiguousarray(images).data)
    if labels is not None:
        digest.update(labels.data)
    digest.update(
        json.dumps([sorted(sizes.items()), class_names, conversion, images.shape]).encode()
    )
    facts = Facts(
        shape=tuple(int(size) for size in images.shape[1:]),
        available=len(rest),
        held_out=len(held_out),
        class_names=tuple(class_names),
        label_counts=tuple(counts),
        fingerprint=digest.hexdigest(),
    )
    return Data(images, labels, train, held_out, facts)
