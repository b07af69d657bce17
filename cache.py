"""A folder of images as one uint8 memory map at output size, converted once and then only opened.

Reads the user's folder and writes beside it, never in it.
"""

import contextlib
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

import imagefile
from errors import Refused

BAD_SHARE = 0.05  # more unreadable files than this stop the program
CHUNK = 64  # files per task of a thread


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
        known = sorted(ending for ending in others if ending.lower() in imagefile.ENDINGS)
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
    """Read some files: a list of (pixels, grey), or of the reason where a file is bad."""
    results = []
    for name in names:
        try:
            results.append(imagefile.read_image(folder / name, size, crop))
        except Exception as error:  # rubbish makes decoders raise anything; bad_files.txt tells
            if isinstance(error, OSError) and error.errno:  # the system's word, not the decoder's
                raise Refused(
                    f"{folder / name}: {error.strerror}; mend that, or move the file away"
                ) from None
            results.append(f"{type(error).__name__}: {error}".replace("\n", " "))
    return results


def plan(folder, config):
    """Say where a folder's conversion belongs and what it must be made of: (place, wanted, listed).

    `wanted` are the settings and a sha256 of the list of files, as the manifest keeps them, and
    `listed` is that list. Raises Refused where the folder holds no images.
    """
    try:
        listed = list_images(folder, config.input_fname_pattern)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; make it readable") from None
    wanted = {"source": str(folder.resolve()), "pattern": config.input_fname_pattern}
    wanted |= {
        "size": list(config.output_size),
        "crop": config.crop_size and list(config.crop_size),
    }
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
    place = Path(config.cache_dir or Path(config.data_dir) / ".cache") / f"{config.dataset}-{key}"
    total = hashlib.sha256()
    for line in lines(listed):
        total.update(line)
    wanted["files"] = total.hexdigest()
    return place, wanted, listed


def open_folder(folder, config):
    """Open the converted folder of a data set, converting it first where that is needed.

    Raises Refused where the folder is none, too many files are bad, or the cache cannot be written.
    """
    place, wanted, listed = plan(folder, config)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{place}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another program may be converting the same folder
            manifest = read_manifest(place, wanted)
            if manifest is None:
                size, crop = config.output_size, config.crop_size
                manifest = convert(folder, listed, size, crop, wanted, place)
            return Folder(place, manifest, listed)
    except OSError as error:
        raise Refused(
            f"--cache_dir {place.parent}: {error.strerror}; name a folder with room for"
            f" {len(listed)} converted images"
        ) from None


def seal(manifest):
    """Return the sha256 of a manifest, in hex, by which damage to it is noticed."""
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def lines(listed):
    """Yield a line per file, as files.txt keeps them: size in bytes, time in ns, name."""
    return (f"{size} {time} {name!a}\n".encode() for name, size, time in listed)


def read_manifest(place, wanted):
    """Read what a finished conversion wrote last; None where there is none for just this plan."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        manifest = json.loads((place / "manifest.json").read_text())
        sealed = manifest.pop("sha256") == seal(manifest)
        expected = int(np.prod(manifest["shape"], dtype=np.int64))
        status = (place / "images.bin").stat()
        whole = status.st_size == expected and status.st_mtime_ns == manifest["written"]
        if sealed and whole and manifest["wanted"] == wanted:
            return manifest
    return None


def convert(folder, listed, size, crop, wanted, place):
    """Convert all files into a temporary folder and rename it to `place`; returns the manifest."""
    temporary, old = Path(f"{place}.tmp"), Path(f"{place}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    try:
        manifest = write_folder(folder, listed, size, crop, wanted, temporary)
    except (OSError, Refused):
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


def write_folder(folder, listed, size, crop, wanted, temporary):
    """Write all that a converted folder holds, the manifest last, and return that."""
    names = [name for name, _, _ in listed]
    good, bad, colour = write_pixels(folder, names, size, crop, temporary / "images.bin")
    report_bad(folder, bad, names, temporary)
    if not colour:
        drop_colour(temporary / "images.bin")
    class_names = sorted({name.split("/")[0] for name in names}) if "/" in names[0] else []
    manifest = {
        "wanted": wanted,
        "shape": [len(good), *size, 3 if colour else 1],
        "class_names": class_names,
        "bad": list(bad),
        "digest": digest(temporary / "images.bin", label(good, class_names)),
        "written": (temporary / "images.bin").stat().st_mtime_ns,  # whoever writes it later is seen
    }
    with open(temporary / "files.txt", "wb") as file:
        file.writelines(lines(listed))
    (temporary / "manifest.json").write_text(json.dumps(manifest | {"sha256": seal(manifest)}))
    return manifest


def write_pixels(folder, names, size, crop, path):
    """Write the pixels of all good files as RGB; returns (good, {bad: reason}, colour)."""
    good, bad, colour = [], {}, False
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    bar = tqdm(total=len(names), desc=f"converting {folder.name}", unit="file", disable=None)
    with open(path, "wb") as file, bar:
        for chunk, results in zip(chunks, read_all(folder, chunks, size, crop), strict=True):
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


def read_all(folder, chunks, size, crop):
    """Yield what `read_chunk` makes of each chunk, in order.

    Threads do it: Pillow decodes and resizes without Python's lock. Only a few chunks are under way
    at any time, so that memory does not grow with the folder.
    """
    workers = os.cpu_count() or 1
    pool, under_way = ThreadPoolExecutor(workers), deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(read_chunk, folder, chunk, size, crop))
            if len(under_way) > 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def report_bad(folder, bad, names, temporary):
    """List the bad files in bad_files.txt; raises Refused where they are too many."""
    lines = "".join(f"{name}: {reason}\n" for name, reason in bad.items())
    (temporary / "bad_files.txt").write_text(lines, "utf-8", "backslashreplace")
    if len(bad) > BAD_SHARE * len(names):
        name, reason = next(iter(bad.items()))
        raise Refused(
            f"{folder}: {len(bad)} of {len(names)} files cannot be used, as {name} ({reason});"
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
