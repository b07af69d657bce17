"""MNIST, Fashion-MNIST (IDX files) and CIFAR-10 (Python batches), as they were published.

Reads them, downloads what is missing, and runs nothing that a file brings.
"""

import gzip
import hashlib
import io
import pickle
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from datasets import conversion, image_file, listing, origins
from system import device
from system.errors import Refused

CLASS_NAMES = {  # in the order of their labels
    "mnist": "0,1,2,3,4,5,6,7,8,9",
    "fashion_mnist": "T-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot",
    "cifar10": "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
}
# What is downloaded, as in keras.datasets, with the publishers' digests.
CIFAR_ARCHIVE = "cifar-10-python.tar.gz"
URLS = {
    "fashion_mnist": "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}
DIGESTS = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    CIFAR_ARCHIVE: "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
}
IDX_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
# The pickled batches in the archive, in order, and their md5.
CIFAR_BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR_FOLDER = "cifar-10-batches-py"  # in the archive


@listing.readable()
def missing_files(name, folder):
    """List the files of a published data set that have to be downloaded before `read`.

    The list is empty if the user has put images there, in files, an archive or a database. Raises
    Refused for MNIST, which is not downloaded.
    """
    if name not in CLASS_NAMES or origins.archive_beside(folder):
        return []
    if folder.is_dir() and (any(origins.look_into(folder)) or origins.find_image(folder)):
        return []
    if name == "cifar10":
        return [] if _find_cifar10(folder) else [CIFAR_ARCHIVE]
    missing = [f"{part}-ubyte.gz" for part in IDX_PARTS if not _find_idx(folder, part)]
    if missing and name not in URLS:
        raise Refused(f"--dataset {name}: {folder} lacks {', '.join(missing)}; put them there")
    return missing


def download(name, folder, files):
    """Download `files` of a data set into a folder. Raises Refused, offline for example.

    Keras' downloader checks their digests; keras.datasets itself would run the pickles, whatever
    they hold, and takes Fashion-MNIST unchecked.
    """
    device.import_tensorflow()
    import keras

    try:
        with tempfile.TemporaryDirectory() as aside:
            for file in files:
                url, digest = URLS[name] + file, DIGESTS[file]
                keras.utils.get_file(file, url, cache_dir=aside, cache_subdir="", file_hash=digest)
                folder.mkdir(parents=True, exist_ok=True)
                part = shutil.copyfile(Path(aside) / file, folder / f"{file}.part")
                part.replace(folder / file)
    except Exception as error:  # Keras raises nothing narrower when a network fails
        raise Refused(
            f"--dataset {name}: the download to {folder} failed ({error}); put"
            f" {', '.join(files)} there"
        ) from None


@listing.readable()
def read(source):
    """Return the Converted of a published data set, or None where its files are not in its folder.

    Raises Refused.
    """
    if source.name not in CLASS_NAMES:
        return None
    folder, is_cifar = source.folder, source.name == "cifar10"
    found = _read_cifar10(folder) if is_cifar else _read_idx_set(folder)
    if found is None:
        return None
    parts, sizes = found
    _check_parts(parts)
    images, labels = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    images, labels = _resize(images, source), labels.astype(np.int32)
    total = hashlib.sha256(np.ascontiguousarray(images).data)
    total.update(labels.data)
    digest, class_names = total.hexdigest(), CLASS_NAMES[source.name].split(",")
    settings = class_names, source.crop, images.shape
    fingerprint = conversion.fingerprint(digest, *settings, sizes, "folder")
    held_out = len(parts[-1][0])
    return conversion.Converted(images, labels, class_names, held_out, digest, fingerprint)


def _check_parts(parts):
    """Refuse parts that do not fit each other: (images [n, H, W, C], labels [n], their file)."""
    shape = parts[0][0].shape[1:]
    for images, labels, path in parts:
        if len(images) != len(labels) or images.shape[1:] != shape or not images.size:
            raise Refused(
                f"{path}: {len(labels)} labels for {len(images)} images of {images.shape[1:]};"
                f" expected a label for each image, and images of {shape}"
            )
        if labels.max() > 9:
            raise Refused(f"{path}: holds the label {labels.max()}, expected 0 to 9")


def _resize(images, source):
    """Crop and resize images [N, H, W, C] as a Source says."""
    if not source.crop and images.shape[1:3] == source.size:
        return images
    try:
        fit = [
            image_file.fit_image(Image.fromarray(image), source.size, source.crop)
            for image in images.squeeze()
        ]
    except ValueError as error:
        raise Refused(f"{source.folder}: {error}; choose a smaller --input_height") from None
    return np.stack(fit).reshape(len(images), *source.size, images.shape[3])


# IDX: MNIST and Fashion-MNIST.


def _find_idx(folder, part):
    """Return the file of one of the four parts, under any of its usual names, or None."""
    stem, axes = part.rsplit("-", 1)
    names = [f"{stem}{mark}{axes}-ubyte{ending}" for mark in "-." for ending in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_idx_set(folder):
    """Return ([(images, labels, path)], sizes) of the two splits, or None."""
    paths = [_find_idx(folder, part) for part in IDX_PARTS]
    if None in paths:
        return None
    arrays = [read_idx(path, int(part[-1])) for part, path in zip(IDX_PARTS, paths, strict=True)]
    sizes = {part: array.size for part, array in zip(IDX_PARTS, arrays, strict=True)}
    images, labels, test_images, test_labels = arrays
    parts = [(images, labels, paths[1]), (test_images, test_labels, paths[3])]
    return [(images[..., np.newaxis], labels, path) for images, labels, path in parts], sizes


def read_idx(path, axes):
    """Read an IDX file of unsigned bytes, gzipped or not: uint8, with that many axes.

    The format is the one described at the end of MNIST's own page,
    http://yann.lecun.com/exdb/mnist/. Raises Refused where a file is not one or is cut short.
    """
    magic = bytes([0, 0, 8, axes])
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if content[:4] != magic:
            raise ValueError(f"magic number {content[:4].hex()}, expected {magic.hex()}")
        shape = np.frombuffer(content, ">u4", axes, 4).tolist()
        return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise Refused(f"{path}: not a whole IDX file ({error}); fetch it again") from None


# CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html describes its Python batches.


def _find_cifar10(folder):
    """Return the folder of the batches or the archive of them, or None."""
    for place in (folder, folder / CIFAR_FOLDER):
        if all((place / name).is_file() for name in CIFAR_BATCHES):
            return place
    archive = folder / CIFAR_ARCHIVE
    return archive if archive.is_file() else None


def _read_cifar10(folder):
    """Return ([(images, labels, path)], sizes) of the six batches, or None.

    Raises Refused for a batch that is not the official one: it is not unpickled.
    """
    place, parts, sizes = _find_cifar10(folder), [], {}
    if place is None:
        return None
    for name, content in _read_batches(place):
        path = place / name
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != CIFAR_BATCHES[name]:
            raise Refused(
                f"{path}: not the official batch, and a pickle can run anything; replace it by"
                f" {CIFAR_ARCHIVE}"
            )
        try:
            batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
        except pickle.UnpicklingError as error:
            raise Refused(f"{path}: not a batch of CIFAR-10 ({error}); fetch it again") from None
        images = batch[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append((images, np.array(batch[b"labels"]), path))
        sizes[name] = images.size
    return parts, sizes


def _read_batches(place):
    """Yield (name, bytes) of each batch. An archive is opened only if it is the official one."""
    if place.is_dir():
        for name in CIFAR_BATCHES:
            yield name, (place / name).read_bytes()
        return
    with open(place, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != DIGESTS[CIFAR_ARCHIVE]:
        raise Refused(f"{place}: not the official archive (sha256 {digest}); fetch it again")
    with tarfile.open(place) as tar:
        for name in CIFAR_BATCHES:
            yield name, tar.extractfile(f"{CIFAR_FOLDER}/{name}").read()


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain values and NumPy arrays; refuses any other class that a pickle names."""

    ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.ALLOWED[module, name]
