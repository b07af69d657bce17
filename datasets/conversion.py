"""The images of a data set as one uint8 memory map, converted once and then only opened.

Reads the user's files and writes into the cache, never beside them.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import unicodedata
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from datasets import image_file, listing
from system.errors import Refused, explain
from system.screen import printable

BAD_SHARE = 0.05  # a larger share of bad files stops the program
CHUNK = 64  # files per task of a thread


class Converted(NamedTuple):
    """All images of a data set, at the size that was asked for.

    `images` uint8 [N, H, W, C], which may be mapped from disk; `labels` int32 [N] or None. The last
    `held_out` images are never trained on; 0: the data set does not say which.
    """

    images: np.ndarray
    labels: np.ndarray | None
    class_names: list[str]
    held_out: int
    digest: str  # sha256 of the above, in hex
    fingerprint: str


def fingerprint(digest, class_names, crop, shape, sizes, format):
    """Return the sha256 of a data set's digest, settings, and files: `sizes` is {name: bytes}.

    `shape` is that of the images [N, H, W, C]; `crop` is (height, width) or None; `format` is the
    origin's.
    """
    total = hashlib.sha256()
    total.update(json.dumps([digest, class_names, crop, shape]).encode())
    for name in sorted(sizes):
        total.update(f"{sizes[name]} {name!a}\n".encode())
    if format != "folder":
        total.update(format.encode())
    return total.hexdigest()


@contextlib.contextmanager
def listing_of(origin):
    """Give the Listing of an origin, open for reading. Raises Refused."""
    with contextlib.ExitStack() as held:
        with listing.readable():
            listed = held.enter_context(origin.listed())
        normalize = functools.partial(unicodedata.normalize, "NFC")
        listing.check_twins(listed.class_names, normalize, "Unicode form", origin.path)
        yield listed


def read_chunk(path, listed, chunk, size, crop):
    """Read some of the images listed: a list of (pixels, grey), or of the reason why one is bad.

    `chunk` are positions in the Listing of `path`. Raises Refused where the system cannot read a
    file, and MemoryError: neither makes a file a bad one.
    """
    results = []
    for i in chunk:
        content = None
        try:
            content = listed.read(i)
            results.append(image_file.read_image(content, size, crop))
        except MemoryError:
            raise
        except Exception as error:  # a damaged file makes decoders raise anything
            # With a number the error is the system's; but EINVAL comes of a damaged offset.
            if isinstance(error, OSError) and error.errno and error.errno != errno.EINVAL:
                raise Refused(
                    f"{path / listed.names[i]}: {error.strerror}; make it readable, or move it away"
                ) from None
            results.append(explain(error).replace(repr(content), "it"))
    return results


def plan(origin, source):
    """Return the folder of a conversion and what it depends on: (place, wanted).

    `wanted` holds the settings and the origin's stamp, as the manifest keeps them. Raises Refused.
    """
    wanted = {"source": str(origin.path.resolve()), "pattern": origin.pattern}
    wanted |= {"size": list(source.size), "crop": source.crop and list(source.crop)}
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
    with listing.readable():
        wanted["files"] = origin.stamp
    place = source.cache / f"{source.name}-{key}"
    if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(source.folder)):
        raise Refused(f"--cache_dir {source.cache}: inside the data set; choose another folder")
    return place, wanted


def open_finished(place, wanted):
    """Return the Converted in the folder `place`, or None if `wanted` has not been converted."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        manifest = json.loads((place / "manifest.json").read_text())
        path, labels = place / "images.bin", manifest["labels"]
        others = (manifest[key] for key in ("class_names", "held_out", "digest", "fingerprint"))
        if manifest["wanted"] == wanted and manifest["written"] == path.stat().st_mtime_ns:
            images = np.memmap(path, np.uint8, "r", shape=tuple(manifest["shape"]))
            return Converted(images, labels and np.array(labels, np.int32), *others)
    return None


def open_converted(origin, source):
    """Return the Converted of an origin, which is converted first where that is needed.

    Raises Refused where there are no images, too many bad ones, or no room in the cache.
    """
    place, wanted = plan(origin, source)
    if found := open_finished(place, wanted):
        return found
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another program may be converting the same images
            if not open_finished(place, wanted):
                convert(origin, source, wanted, place)
            return open_finished(place, wanted)
    except OSError as error:
        raise Refused(
            f"--cache_dir {place.parent}: {error.strerror or error}; name a folder with room"
        ) from None


def convert(origin, source, wanted, place):
    """Convert all images into a temporary folder, and rename that to `place`."""
    temporary = Path(f"{place}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with listing_of(origin) as listed:
            bad = write_all(origin, listed, source, wanted, temporary)
        shutil.rmtree(place, ignore_errors=True)
        temporary.rename(place)
    finally:  # after a failure it may be large, and the disk full
        shutil.rmtree(temporary, ignore_errors=True)
    if bad:
        rows = place / "bad_files.txt"
        print(f"{bad} of {len(listed.names)} files are left out, see {rows}")


def write_all(origin, listed, source, wanted, folder):
    """Write the files of a conversion, the manifest last; return how many images are bad."""
    names, path = listed.names, folder / "images.bin"
    good, bad, grey = write_pixels(origin.path, listed, source, path)
    rows = [printable(f"{name}: {reason}", None) + "\n" for name, reason in bad.items()]
    (folder / "bad_files.txt").write_text("".join(rows), "utf-8")
    check_bad(origin.path, bad, len(names))
    if grey:
        drop_colour(path)
    shape = [len(good), *source.size, 1 if grey else 3]
    labels = None if listed.labels is None else listed.labels[good]
    held_out = sum(i >= len(names) - listed.held_out for i in good)
    if listed.held_out and not held_out:
        raise Refused(
            f"{origin.path}: all {listed.held_out} held-out images are bad files; fetch them again"
        )
    total = digest(path, labels, held_out)
    sizes = {names[i]: listed.sizes[i] for i in good}
    own = fingerprint(total, listed.class_names, source.crop, shape, sizes, origin.format)
    manifest = {
        "wanted": wanted,
        "shape": shape,
        "class_names": listed.class_names,
        "labels": None if labels is None else labels.tolist(),
        "held_out": held_out,
        "bad": list(bad),
        "digest": total,
        "fingerprint": own,
        "written": path.stat().st_mtime_ns,  # a later change of images.bin is seen by it
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return len(bad)


def write_pixels(origin_path, listed, source, path):
    """Write the pixels of all good images as RGB; returns (good, bad, grey).

    `good` are positions in the Listing, `bad` is {name: reason}, `grey` is whether all images are.
    """
    good, bad, all_grey, count = [], {}, True, len(listed.names)
    results = read_all(origin_path, listed, source)
    desc = f"converting {printable(origin_path.name)}"
    with open(path, "wb") as file:
        for i, result in enumerate(tqdm(results, desc, count, unit="file", disable=None)):
            if isinstance(result, str):
                bad[listed.names[i]] = result
                continue
            pixels, grey = result
            file.write(pixels.data)
            good.append(i)
            all_grey = all_grey and grey
    return good, bad, all_grey


def read_all(path, listed, source):
    """Yield what `read_chunk` returns for each image listed, in order.

    Threads read them: Pillow decodes and resizes without Python's lock. Only a few chunks are under
    way at any time, so that memory does not grow with the data set.
    """
    count, workers = len(listed.names), os.cpu_count() or 1
    pool, tasks = ThreadPoolExecutor(workers), deque()
    try:
        for start in range(0, count, CHUNK):
            chunk = range(start, min(start + CHUNK, count))
            tasks.append(pool.submit(read_chunk, path, listed, chunk, source.size, source.crop))
            if len(tasks) > 2 * workers:
                yield from tasks.popleft().result()
        while tasks:
            yield from tasks.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_bad(path, bad, count):
    """Refuse a data set of `count` files of which too many are in `bad`, {name: reason}."""
    if len(bad) > BAD_SHARE * count:
        name, reason = next(iter(bad.items()))
        raise Refused(
            f"{path}: {len(bad)} of {count} files cannot be used, as {name} ({reason}); at most"
            f" {BAD_SHARE:.0%} may be left out: mend them or move them away"
        )


def drop_colour(path):
    """Keep one of the three equal channels of a grey data set."""
    narrow = Path(f"{path}.grey")
    with open(path, "rb") as wide, open(narrow, "wb") as file:
        while block := wide.read(3 << 20):
            file.write(block[::3])
    narrow.rename(path)


def digest(path, labels, held_out):
    """Return the sha256 of all pixels and labels, and of how many images are held out, in hex."""
    with open(path, "rb") as file:
        total = hashlib.file_digest(file, "sha256")
    if labels is not None:
        total.update(labels.data)
    if held_out:
        total.update(f"{held_out} held out".encode())
    return total.hexdigest()
