"""The images of a data set as one uint8 memory map, converted once and then only opened.

Reads what the user has and writes beside it, never in it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets import image_file
from system.errors import Refused, explain
from system.screen import printable

BAD_SHARE = 0.05  # more unreadable files than this stop the program
CHUNK = 64  # files per task of a thread
MANIFEST = {
    *("wanted", "shape", "class_names", "labels", "held_out"),
    *("bad", "digest", "fingerprint", "written"),
}  # in manifest.json


class Converted:
    """A data set, converted.

    `images` uint8 [N, H, W, C], mapped from disk; `labels` int32 [N] or None; `class_names`;
    `held_out`, how many of the last ones never train, where the data set says so, or else 0;
    `digest`, the sha256 of all this, and `fingerprint`, of that, names, sizes and settings.
    """

    def __init__(self, place, manifest):
        self.images = np.memmap(place / "images.bin", np.uint8, "r", shape=tuple(manifest["shape"]))
        self.class_names = manifest["class_names"]
        self.labels = np.array(manifest["labels"], np.int32) if self.class_names else None
        self.held_out = manifest["held_out"]
        self.digest, self.fingerprint = manifest["digest"], manifest["fingerprint"]


def fingerprint(digest, class_names, crop, shape, sizes, kind="folder"):
    """Return the sha256 of a data set's content and origin: files of `sizes` {name: bytes}.

    `digest` is of images [N, H, W, C] = `shape` and labels; `crop` is (height, width) or None.
    """
    total = hashlib.sha256()
    total.update(json.dumps([digest, class_names, crop, shape]).encode())
    for name in sorted(sizes):
        total.update(f"{sizes[name]} {name!a}\n".encode())
    if kind != "folder":
        total.update(kind.encode())
    return total.hexdigest()


@contextlib.contextmanager
def readable():
    """Turn what the system refuses, of the user's data, into a Refused."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; make it readable") from None


@contextlib.contextmanager
def listing_of(origin):
    """Give the Listing of an origin, open for reading. Raises Refused."""
    with contextlib.ExitStack() as held:
        with readable():
            listed = held.enter_context(origin.listed())
        yield listed


def read_chunk(path, listed, chunk, size, crop):
    """Read some of the images listed in `path`: a list of (pixels, grey), or of why one is bad.

    Raises Refused where the system refuses, and MemoryError: neither makes a file a bad one.
    """
    results = []
    for i in chunk:
        content = None
        try:
            content = listed.read(i)
            results.append(image_file.read_image(content, size, crop))
        except MemoryError:
            raise
        except Exception as error:  # rubbish makes decoders raise anything; bad_files.txt tells
            # The system's word, not the decoder's; EINVAL is its word on an offset in the file.
            if isinstance(error, OSError) and error.errno and error.errno != errno.EINVAL:
                raise Refused(
                    f"{path / listed.names[i]}: {error.strerror}; make it readable, or move it away"
                ) from None
            results.append(explain(error).replace(repr(content), "it"))
    return results


def plan(origin, source):
    """Return where a conversion belongs and what it is made of: (place, wanted).

    `wanted` are the settings and the state of the origin (origins.find), as the manifest keeps
    them. Raises Refused where a folder holds no images.
    """
    with readable():
        stamp = origin.stamp
    wanted = {"source": str(origin.path.resolve()), "pattern": origin.pattern}
    wanted |= {"size": list(source.size), "crop": source.crop and list(source.crop)}
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
    wanted["files"] = stamp
    place = source.cache / f"{source.name}-{key}"
    if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(source.folder)):
        raise Refused(
            f"--cache_dir {source.cache}: inside the data set {source.folder}; choose another"
            " folder"
        )
    return place, wanted


def open_converted(origin, source):
    """Open the converted images of a data set, converting them first where that is needed.

    Raises Refused where there are no images, too many bad ones, or no cache can be written.
    """
    place, wanted = plan(origin, source)
    if manifest := read_manifest(place, wanted):
        return Converted(place, manifest)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another program may be converting the same images
            manifest = read_manifest(place, wanted)
            if manifest is None:
                manifest = convert(origin, source, wanted, place)
            return Converted(place, manifest)
    except OSError as error:
        raise Refused(
            f"--cache_dir {place.parent}: {error.strerror or error}; name a folder with room for"
            " the converted images"
        ) from None


def read_manifest(place, wanted):
    """Read what a finished conversion wrote last; None where there is none for just this plan."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        manifest = json.loads((place / "manifest.json").read_text())
        expected = int(np.prod(manifest["shape"], dtype=np.int64))
        status = (place / "images.bin").stat()
        whole = status.st_size == expected and status.st_mtime_ns == manifest["written"]
        if whole and manifest["wanted"] == wanted and manifest.keys() == MANIFEST:
            return manifest
    return None


def convert(origin, source, wanted, place):
    """Convert all images into a temporary folder and rename it to `place`; returns the manifest."""
    temporary, old = Path(f"{place}.tmp"), Path(f"{place}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        with listing_of(origin) as listed:
            manifest = write_all(origin, listed, source, wanted, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)  # it may be large, and the disk full
        raise
    if place.exists():
        place.rename(old)
    temporary.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    if manifest["bad"]:
        bad = f"{len(manifest['bad'])} of {len(listed.names)} files"
        print(f"{bad} are left out, see {place / 'bad_files.txt'}")
    return manifest


def write_all(origin, listed, source, wanted, temporary):
    """Write all that the folder of a conversion holds, the manifest last, and return that."""
    path, names = temporary / "images.bin", listed.names
    good, bad, colour = write_pixels(origin.path, listed, source, path)
    rows = [printable(f"{names[i]}: {reason}", None) + "\n" for i, reason in bad.items()]
    (temporary / "bad_files.txt").write_text("".join(rows), "utf-8")
    bad = {names[i]: reason for i, reason in bad.items()}
    check_bad(origin.path, bad, len(names))
    if not colour:
        drop_colour(path)
    shape = [len(good), *source.size, 3 if colour else 1]
    labels = None if listed.labels is None else listed.labels[good]
    held_out = sum(i >= len(names) - listed.held_out for i in good)
    if listed.held_out and not held_out:
        what = f"all {listed.held_out} held-out images are bad files"
        raise Refused(f"{origin.path}: {what}; fetch them again")
    total = digest(path, labels, held_out)
    sizes = {names[i]: listed.sizes[i] for i in good}
    manifest = {
        "wanted": wanted,
        "shape": shape,
        "class_names": listed.class_names,
        "labels": None if labels is None else labels.tolist(),
        "held_out": held_out,
        "bad": list(bad),
        "digest": total,
        "fingerprint": fingerprint(
            total, listed.class_names, source.crop, shape, sizes, origin.kind
        ),
        "written": path.stat().st_mtime_ns,  # whoever writes it later is seen
    }
    (temporary / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def write_pixels(origin, listed, source, path):
    """Write the pixels of all good images as RGB; returns (good, {bad: reason}, colour).

    `good` and the bad ones are positions in the Listing; `origin` is its path.
    """
    good, bad, colour, count = [], {}, False, len(listed.names)
    chunks = [range(i, min(i + CHUNK, count)) for i in range(0, count, CHUNK)]
    desc = f"converting {printable(origin.name)}"
    bar = tqdm(total=count, desc=desc, unit="file", disable=None)
    with open(path, "wb") as file, bar:
        done = read_all(origin, listed, chunks, source)
        for chunk, results in zip(chunks, done, strict=True):
            for i, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    bad[i] = result
                    continue
                pixels, grey = result
                file.write(pixels.data)
                good.append(i)
                colour = colour or not grey
            bar.update(len(chunk))
    return good, bad, colour


def read_all(origin, listed, chunks, source):
    """Yield what `read_chunk` makes of each chunk, in order.

    Threads do it: Pillow decodes and resizes without Python's lock. Only a few chunks are under way
    at any time, so that memory does not grow with the data set.
    """
    workers = os.cpu_count() or 1
    pool, under_way = ThreadPoolExecutor(workers), deque()
    try:
        for chunk in chunks:
            task = pool.submit(read_chunk, origin, listed, chunk, source.size, source.crop)
            under_way.append(task)
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_bad(path, bad, count):
    """Refuse a data set of `count` files of which too many are in `bad`, {name: reason}."""
    if len(bad) > BAD_SHARE * count:
        name, reason = next(iter(bad.items()))
        raise Refused(
            f"{path}: {len(bad)} of {count} files cannot be used, as {name} ({reason});"
            f" at most {100 * BAD_SHARE:.0f} % may be left out"
        )


def drop_colour(path):
    """Keep one of the three equal channels of a grey data set."""
    narrow = Path(f"{path}.grey")
    with open(path, "rb") as wide, open(narrow, "wb") as file:
        while block := wide.read(3 << 20):
            file.write(block[::3])
    narrow.rename(path)


def digest(path, labels, held_out):
    """Return the sha256 of all pixels and labels, and of what the data set holds out, in hex."""
    with open(path, "rb") as file:
        total = hashlib.file_digest(file, "sha256")
    if labels is not None:
        total.update(labels.data)
    if held_out:
        total.update(f"{held_out} held out".encode())
    return total.hexdigest()
