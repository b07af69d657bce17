"""MNIST, Fashion-MNIST (IDX files) and CIFAR-10 (batches) as they were published.

Reads them, downloads them where they are missing, and runs nothing that a file brings. Knows no
settings but the name.
"""

import functools
import gzip
import hashlib
import io
import math
import pickle
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import image_file, origins
from system import device
from system.errors import Refused

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
# What is downloaded, as in keras.datasets, with the publishers' digests.
CIFAR_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
ORIGINS = {
    "fashion_mnist": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}
FILES = {
    "fashion_mnist": {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    "cifar10": {CIFAR_ARCHIVE: CIFAR_SHA256},
}
IDX_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# The pickled batches of the official archive, in order, and their md5.
CIFAR_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR_IMAGE = (3, 32, 32)
DAMAGE = (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, ValueError)


class Published(NamedTuple):
    """A published data set: the training split, then the test split.

    `images` uint8 [N, H, W, C]; `labels` int32 [N]; the first `trained` are the training split;
    `sizes` in bytes of its parts, the same whatever kind of file they came in.
    """

    images: np.ndarray
    labels: np.ndarray
    trained: int
    sizes: dict[str, int]


def find(name, folder):
    """Find a data set's published files in a folder: a function that reads them, or None."""
    if name not in CLASS_NAMES:
        return None
    if name == "cifar10":
        return _find_cifar10(folder)
    if any(_part_paths(folder, part) for part in IDX_PARTS):
        return functools.partial(_read_idx_set, folder)
    return None


def _put_together(parts, sizes):
    """Join all parts, the test split last; raises Refused where they do not fit each other.

    A part is (images [n, H, W, C], labels [n], the file they are from).
    """
    for images, labels, path in parts:
        if labels.ndim != 1 or len(images) != len(labels):
            raise Refused(
                f"{path}: {labels.shape} labels for {images.shape} images, expected one each"
            )
        if images.shape[1:] != parts[0][0].shape[1:] or not len(images):
            raise Refused(
                f"{path}: {images.shape} images beside {parts[0][0].shape} training images"
            )
        if labels.max() > 9:
            raise Refused(f"{path}: holds a label {labels.max()}, expected 0 to 9")
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return Published(images, labels.astype(np.int32), len(images) - len(parts[-1][0]), sizes)


# IDX: MNIST and Fashion-MNIST.


def _part_paths(folder, part):
    """List the files there that may be one of the four parts, under any of its usual names."""
    stem, kind = part.rsplit("-", 1)
    names = [f"{stem}{mark}{kind}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    return [folder / name for name in names if (folder / name).is_file()]


def _read_idx_set(folder):
    paths = []
    for part in IDX_PARTS:
        found = _part_paths(folder, part)
        if not found:
            raise Refused(
                f"{folder}: {part}-ubyte is missing; expected it there, gzipped (.gz) or not"
            )
        paths.append(found[0])
    images, labels, test_images, test_labels = arrays = [read_idx(path) for path in paths]
    for pictures, path in ((images, paths[0]), (test_images, paths[2])):
        if pictures.ndim != 3:
            raise Refused(
                f"{path}: an array of {pictures.ndim} axes, expected images of one channel"
            )
    sizes = {part: array.size for part, array in zip(IDX_PARTS, arrays, strict=True)}
    training = images[..., np.newaxis], labels, paths[1]
    return _put_together([training, (test_images[..., np.newaxis], test_labels, paths[3])], sizes)


def read_idx(path):
    """Read an IDX file of unsigned bytes, gzipped or not: uint8, of its header's shape.

    The format is the one described at the end of MNIST's own page,
    http://yann.lecun.com/exdb/mnist/. Raises Refused where a file is not one or is cut short.
    """
    try:
        content = Path(path).read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except DAMAGE as error:
        raise Refused(f"{path}: cannot be read ({error}); fetch it again") from None
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise Refused(
            f"{path}: not an IDX file of unsigned bytes"
            f" (magic number {content[:4].hex() or 'missing'})"
        )
    shape = np.frombuffer(content, ">u4", content[3], 4).tolist()
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if len(shape) > 3 or 0 in shape:
        raise Refused(f"{path}: an array of shape {shape}, expected images or labels")
    if body.size != math.prod(shape):
        raise Refused(
            f"{path}: {body.size} bytes of data, its header says {math.prod(shape)}; fetch it again"
        )
    return body.reshape(shape)


# CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html describes its Python batches.


def _find_cifar10(folder):
    for place in (folder, folder / "cifar-10-batches-py"):
        paths = {name: place / name for name in CIFAR_BATCHES}
        if any(path.is_file() for path in paths.values()):
            return functools.partial(_read_batches, paths)
    archive = folder / CIFAR_ARCHIVE
    return functools.partial(_read_archive, archive) if archive.is_file() else None


def _read_batches(paths):
    parts = []
    for name, path in paths.items():
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Refused(f"{path}: {error.strerror}; all six batches are needed") from None
        parts.append(_decode_pickle(name, content, path))
    return _join_batches(parts)


def _read_archive(archive):
    """Read the tar.gz without unpacking it to disk, only when it is genuine."""
    with open(archive, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != CIFAR_SHA256:
        raise Refused(
            f"{archive}: its sha256 is {digest}, that of the official archive is"
            f" {CIFAR_SHA256}; delete it and fetch it again"
        )
    with tarfile.open(archive) as tar:
        parts = [
            _decode_pickle(name, tar.extractfile(f"cifar-10-batches-py/{name}").read(), archive)
            for name in CIFAR_BATCHES
        ]
    return _join_batches(parts)


def _join_batches(parts):
    sizes = {name: images.size for name, (images, _, _) in zip(CIFAR_BATCHES, parts, strict=True)}
    return _put_together(parts, sizes)


def _decode_pickle(name, content, path):
    """Decode a pickled batch, once it is known to be a genuine one."""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != CIFAR_BATCHES[name]:
        raise Refused(
            f"{path}: {name} is not the official one, and a pickle can hold anything;"
            f" put {CIFAR_ARCHIVE} there instead"
        )
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        planes = batch[b"data"].reshape(-1, *CIFAR_IMAGE)
        return planes.transpose(0, 2, 3, 1), np.array(batch[b"labels"]), path
    except (pickle.UnpicklingError, KeyError) as error:
        raise Refused(f"{path}: not a batch of CIFAR-10 ({error})") from None


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and NumPy arrays; any other class that a pickle names is refused."""

    KNOWN = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module, name):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.KNOWN[module, name]


# Download.


def is_missing(name, folder):
    """Return whether files of a published data set still have to be downloaded.

    An interrupted download leaves a `.part` file for each file that is still missing.
    """
    if name not in CLASS_NAMES:
        return False
    if find(name, folder):
        lacking = [part for part in IDX_PARTS if not _part_paths(folder, part)]
        return any((folder / f"{part}-ubyte.gz.part").exists() for part in lacking)
    entries = folder.iterdir() if folder.is_dir() else ()
    return origins.archive_beside(folder) is None and not any(
        entry.is_dir() or entry.suffix.lower() in (*image_file.ENDINGS, ".zip", ".mdb")
        for entry in entries
        if not entry.name.startswith(".")
    )


def download(name, folder):
    """Fetch a data set's files into `folder`, all or none. Raises Refused, offline for example.

    Keras' downloader checks their digests; keras.datasets itself would read the pickles, whatever
    they hold, and takes Fashion-MNIST unchecked.
    """
    if name not in FILES:
        parts = ", ".join(f"{part}-ubyte.gz" for part in IDX_PARTS)
        raise Refused(f"--dataset {name}: nothing in {folder}; put {parts} there")
    device.import_tensorflow()
    import keras

    files = FILES[name]
    with tempfile.TemporaryDirectory() as aside:
        for file, digest in files.items():
            try:
                keras.utils.get_file(
                    file, ORIGINS[name] + file, cache_dir=aside, cache_subdir="", file_hash=digest
                )
            except (
                Exception
            ) as error:  # nothing narrower is what Keras raises where a network fails
                raise Refused(
                    f"--dataset {name}: nothing in {folder}, and the download failed ({error});"
                    f" put {', '.join(files)} there"
                ) from None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lacking = [file for file in files if not (folder / file).exists()]
            for file in lacking:  # all of them first: then each .part tells of a file that lacks
                shutil.copyfile(Path(aside) / file, folder / f"{file}.part")
            for file in lacking:
                (folder / f"{file}.part").replace(folder / file)
        except OSError as error:
            raise Refused(f"{folder}: {error.strerror}; name another --data_dir") from None
