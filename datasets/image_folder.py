"""A folder of images as one uint8 memory map at output size, converted once and then only opened.

Reads the user's folder and writes beside it, never in it.
"""

import contextlib
import errno
import fcntl
import fnmatch
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
from system.errors import Refused

BAD_SHARE = 0.05  # more unreadable files than this stop the program
CHUNK = 64  # files per task of a thread
MANIFEST = {
    "wanted",
    "shape",
    "class_names",
    "bad",
    "digest",
    "written",
}  # in manifest.json


class Folder:
    """A converted folder.

    `images` uint8 [N, H, W, C], mapped from disk; `labels` int32 [N] or None; `class_names`;
    `names` and `sizes` of the files behind them; `digest`, the sha256 of images and labels.
    """

    def __init__(self, place, manifest, listed):
        self.images = np.memmap(place / "images.bin", np.uint8, "r", shape=tuple(manifest["shape"]))
        bad = set(manifest["bad"])
        good = [(name, size) for name, size, _ in listed if name not in bad]
        self.names, self.sizes = zip(*good, strict=True)
        self.class_names = manifest["class_names"]
        self.labels = label(self.names, self.class_names)
        self.digest = manifest["digest"]


def label(names, class_names):
    """Return the number of each file's class, int32 [N], or None where there are no classes."""
    if not class_names:
        return None
    number = {name: k for k, name in enumerate(class_names)}
    return np.array([number[name.split("/")[0]] for name in names], np.int32)


def scan(folder):
    """Yield (relative name, os.DirEntry) of all files in a folder and in its sub-folders."""
    inner = []
    for entry in os.scandir(folder):
        if entry.name.startswith("."):
            continue
        if entry.is_file():
            yield entry.name, entry
        elif entry.is_dir():
            inner.append(entry)
    for place in inner:
        for entry in os.scandir(place):
            if entry.is_file() and not entry.name.startswith("."):
                yield f"{place.name}/{entry.name}", entry


def list_images(folder, pattern):
    """List the files of a folder, or of its class sub-folders, that match `pattern`.

    Returns [(relative name, size in bytes, time in ns)], sorted by name. Raises Refused where there
    are none, or some in sub-folders and some beside them.
    """
    found, others = [], set()
    for name, entry in scan(folder):
        if fnmatch.fnmatchcase(entry.name, pattern):
            status = entry.stat()
            found.append((name, status.st_size, status.st_mtime_ns))
        else:
            others.add(Path(entry.name).suffix)
    if not found:
        known = sorted(ending for ending in others if ending.lower() in image_file.ENDINGS)
        hint = f"; try --input_fname_pattern '*{known[0]}'" if known else ""
        raise Refused(f"{folder}: no file there is called {pattern}{hint}")
    loose = [name for name, _, _ in found if "/" not in name]
    if loose and len(loose) < len(found):
        raise Refused(
            f"{folder}: images both in class folders and beside them ({loose[0]});"
            " use one or the other"
        )
    return sorted(found)


def read_chunk(folder, names, size, crop):
    """Read some files: a list of (pixels, grey), or of the reason where a file is bad.

    Raises Refused where the system refuses, and MemoryError: neither makes a file a bad one.
    """
    results = []
    for name in names:
        try:
            results.append(image_file.read_image(folder / name, size, crop))
        except MemoryError:
            raise
        except Exception as error:  # rubbish makes decoders raise anything; bad_files.txt tells
            # The system's word, not the decoder's; EINVAL is its word on an offset in the file.
            if isinstance(error, OSError) and error.errno and error.errno != errno.EINVAL:
                raise Refused(
                    f"{folder / name}: {error.strerror}; mend that, or move the file away"
                ) from None
            results.append(f"{type(error).__name__}: {error}".replace("\n", " "))
    return results


def plan(source):
    """Return where a folder's conversion belongs and what it is made of: (place, wanted, listed).

    `wanted` are the settings and a sha256 of the list of files, as the manifest keeps them, and
    `listed` is that list. Raises Refused where the folder holds no images.
    """
    try:
        listed = list_images(source.folder, source.pattern)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; make it readable") from None
    wanted = {"source": str(source.folder.resolve()), "pattern": source.pattern}
    wanted |= {"size": list(source.size), "crop": source.crop and list(source.crop)}
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
    total = hashlib.sha256()
    for name, size, time in listed:
        total.update(f"{size} {time} {name!a}\n".encode())
    wanted["files"] = total.hexdigest()
    place = source.cache / f"{source.name}-{key}"
    if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(source.folder)):
        raise Refused(
            f"--cache_dir {source.cache}: inside the data set {source.folder}; choose another"
            " folder"
        )
    return place, wanted, listed


def open_folder(source):
    """Open the converted folder of a data set, converting it first where that is needed.

    Raises Refused where there are no images, too many bad ones, or no cache can be written.
    """
    place, wanted, listed = plan(source)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another program may be converting the same folder
            manifest = read_manifest(place, wanted)
            if manifest is None:
                manifest = convert(source, listed, wanted, place)
            return Folder(place, manifest, listed)
    except OSError as error:
        raise Refused(
            f"--cache_dir {place.parent}: {error.strerror}; name a folder with room for"
            f" {len(listed)} converted images"
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


def convert(source, listed, wanted, place):
    """Convert all files into a temporary folder and rename it to `place`; returns the manifest."""
    temporary, old = Path(f"{place}.tmp"), Path(f"{place}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        manifest = write_folder(source, listed, wanted, temporary)
    except (OSError, Refused, MemoryError):
        shutil.rmtree(temporary, ignore_errors=True)  # it may be large, and the disk full
        raise
    if place.exists():
        place.rename(old)
    temporary.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    if manifest["bad"]:
        bad = f"{len(manifest['bad'])} of {len(listed)} files"
        print(f"{bad} are left out, see {place / 'bad_files.txt'}")
    return manifest


def write_folder(source, listed, wanted, temporary):
    """Write all that a converted folder holds, the manifest last, and return that."""
    names = [name for name, _, _ in listed]
    good, bad, colour = write_pixels(source, names, temporary / "images.bin")
    lines = "".join(f"{name}: {reason}\n" for name, reason in bad.items())
    (temporary / "bad_files.txt").write_text(lines, "utf-8", "backslashreplace")
    check_bad(source.folder, bad, len(names))
    if not colour:
        drop_colour(temporary / "images.bin")
    class_names = sorted({name.split("/")[0] for name in names}) if "/" in names[0] else []
    manifest = {
        "wanted": wanted,
        "shape": [len(good), *source.size, 3 if colour else 1],
        "class_names": class_names,
        "bad": list(bad),
        "digest": digest(temporary / "images.bin", label(good, class_names)),
        "written": (temporary / "images.bin").stat().st_mtime_ns,  # whoever writes it later is seen
    }
    (temporary / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def write_pixels(source, names, path):
    """Write the pixels of all good files as RGB; returns (good, {bad: reason}, colour)."""
    good, bad, colour = [], {}, False
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    bar = tqdm(total=len(names), desc=f"converting {source.folder.name}", unit="file", disable=None)
    with open(path, "wb") as file, bar:
        for chunk, results in zip(chunks, read_all(source, chunks), strict=True):
            for name, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    bad[name] = result
                    continue
                pixels, grey = result
                file.write(pixels.data)
                good.append(name)
                colour = colour or not grey
            bar.update(len(chunk))
    return good, bad, colour


def read_all(source, chunks):
    """Yield what `read_chunk` makes of each chunk, in order.

    Threads do it: Pillow decodes and resizes without Python's lock. Only a few chunks are under way
    at any time, so that memory does not grow with the folder.
    """
    workers = os.cpu_count() or 1
    pool, under_way = ThreadPoolExecutor(workers), deque()
    try:
        for chunk in chunks:
            task = pool.submit(read_chunk, source.folder, chunk, source.size, source.crop)
            under_way.append(task)
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_bad(folder, bad, count):
    """Refuse a folder of `count` files of which too many are in `bad`, {name: reason}."""
    if len(bad) > BAD_SHARE * count:
        name, reason = next(iter(bad.items()))
        raise Refused(
            f"{folder}: {len(bad)} of {count} files cannot be used, as {name} ({reason});"
            f" at most {100 * BAD_SHARE:.0f} % may be left out"
        )


def drop_colour(path):
    """Keep one of the three equal channels of a grey data set."""
    narrow = Path(f"{path}.grey")
    with open(path, "rb") as wide, open(narrow, "wb") as file:
        while block := wide.read(3 << 20):
            file.write(block[::3])
    narrow.rename(path)


def digest(path, labels):
    """Return the sha256 of all pixels and labels, in hex."""
    with open(path, "rb") as file:
        total = hashlib.file_digest(file, "sha256")
    if labels is not None:
        total.update(labels.data)
    return total.hexdigest()
