"""A folder of images as one uint8 memory map at output size, converted once and then only opened.

Reads the user's folder and writes beside it, never in it.
"""

import contextlib
import fcntl
import fnmatch
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

import imagefile
from errors import Refused

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
BAD_SHARE = 0.05  # more unreadable files than this stop the program
CHUNK = 64  # files per task of a worker
ALONE = 400  # fewer files than this are not worth starting workers


class Folder:
    """A converted folder.

    `images` uint8 [N, H, W, C], mapped from disk; `labels` int32 [N] or None; `class_names`;
    `names` and `sizes` of the files behind them; `digest`, the sha256 of images and labels.
    """

    def __init__(self, place, manifest):
        self.images = np.memmap(place / "images.bin", np.uint8, "r", shape=tuple(manifest["shape"]))
        self.names, self.sizes = manifest["names"], manifest["sizes"]
        self.class_names = manifest["class_names"]
        self.labels = label(self.names, self.class_names)
        self.digest = manifest["digest"]


def label(names, class_names):
    """Return the number of each file's class, int32 [N], or None where there are no classes."""
    if not class_names:
        return None
    number = {name: k for k, name in enumerate(class_names)}
    return np.array([number[name.split("/")[0]] for name in names], np.int32)


def list_images(folder, pattern):
    """List the files of a folder, or of its class sub-folders, that match `pattern`.

    Returns {relative name: (size in bytes, time in ns)}, sorted by name. Raises Refused where there
    are none, or some in sub-folders and some beside them.
    """
    found, others = {}, set()
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        prefix = "" if place == folder else f"{place.name}/"
        if prefix.startswith("."):
            continue
        for entry in os.scandir(place):
            if entry.name.startswith(".") or not entry.is_file():
                continue
            if fnmatch.fnmatchcase(entry.name, pattern):
                status = entry.stat()
                found[prefix + entry.name] = (status.st_size, status.st_mtime_ns)
            else:
                others.add(Path(entry.name).suffix)
    if not found:
        known = sorted(ending for ending in others if ending.lower() in ENDINGS)
        hint = f"; try --input_fname_pattern '*{known[0]}'" if known else ""
        raise Refused(f"{folder}: no file there is called {pattern}{hint}")
    loose = [name for name in found if "/" not in name]
    if loose and len(loose) < len(found):
        raise Refused(
            f"{folder}: images both in class folders and beside them ({loose[0]});"
            " use one or the other"
        )
    return dict(sorted(found.items()))


def read_chunk(folder, names, size, crop):
    """Read some files: a list of (pixels, grey), or of the reason where a file is bad."""
    results = []
    for name in names:
        try:
            results.append(imagefile.read_image(Path(folder) / name, size, crop))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            results.append(f"{type(error).__name__}: {error}".replace("\n", " "))
    return results


def plan(folder, config):
    """Say where a folder's conversion belongs and what it must be made of: (place, wanted, listed).

    `wanted` are the settings and `listed` the files, as the manifest keeps them. Raises Refused
    where the folder holds no images.
    """
    listed = list_images(folder, config.input_fname_pattern)
    wanted = {"source": str(folder.resolve()), "pattern": config.input_fname_pattern}
    wanted |= {
        "size": list(config.output_size),
        "crop": config.crop_size and list(config.crop_size),
    }
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:12]
    place = Path(config.cache_dir or Path(config.data_dir) / ".cache") / f"{config.dataset}-{key}"
    return place, wanted, listed


def open_folder(folder, config):
    """Open the converted folder of a data set, converting it first where that is needed.

    Raises Refused where the folder is none, too many files are bad, or the cache cannot be written.
    """
    place, wanted, listed = plan(folder, config)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{place}.lock", "a")  # noqa: SIM115
    except OSError as error:
        raise Refused(
            f"--cache_dir {place.parent}: {error.strerror}; name a folder that can be written"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another program may be converting the same folder
        manifest = read_manifest(place, wanted, listed)
        if manifest is None:
            manifest = convert(folder, listed, config.output_size, config.crop_size, wanted, place)
        return Folder(place, manifest)


def pack(listed):
    """Put a listing into the form that JSON gives back."""
    return [[name, *status] for name, status in listed.items()]


def read_manifest(place, wanted, listed):
    """Read what a finished conversion wrote last; None where there is none for just this plan."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        manifest = json.loads((place / "manifest.json").read_text())
        expected = int(np.prod(manifest["shape"], dtype=np.int64))
        whole = (place / "images.bin").stat().st_size == expected
        if whole and manifest["wanted"] == wanted and manifest["listed"] == pack(listed):
            return manifest
    return None


def convert(folder, listed, size, crop, wanted, place):
    """Convert all files into a temporary folder and rename it to `place`; returns the manifest."""
    temporary, old = Path(f"{place}.tmp"), Path(f"{place}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir()
    names = list(listed)
    good, bad, colour = write_pixels(folder, names, size, crop, temporary / "images.bin")
    report_bad(folder, bad, names, temporary)
    if not colour:
        drop_colour(temporary / "images.bin", (len(good), *size, 3))
    class_names = sorted({name.split("/")[0] for name in names}) if "/" in names[0] else []
    manifest = {
        "wanted": wanted,
        "listed": pack(listed),
        "shape": [len(good), *size, 3 if colour else 1],
        "class_names": class_names,
        "names": good,
        "sizes": [listed[name][0] for name in good],
        "digest": digest(temporary / "images.bin", label(good, class_names)),
    }
    (temporary / "manifest.json").write_text(json.dumps(manifest))
    if place.exists():
        place.rename(old)
    temporary.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    if bad:
        print(f"{len(bad)} of {len(names)} files are left out, see {place / 'bad_files.txt'}")
    return manifest


def write_pixels(folder, names, size, crop, path):
    """Write the pixels of all good files as RGB; returns (good, {bad: reason}, colour)."""
    good, bad, colour = [], {}, False
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    bar = tqdm(total=len(names), desc=f"converting {folder.name}", unit="file", disable=None)
    with open(path, "wb") as file, bar, started_workers(len(names)) as run:
        for chunk, results in zip(chunks, run(str(folder), chunks, size, crop), strict=True):
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


@contextlib.contextmanager
def started_workers(count):
    """Give a function that reads chunks in order: in this process for few files, else in several.

    At any time only a few chunks are under way, so that memory does not grow with the folder.
    """

    def alone(folder, chunks, size, crop):
        return (read_chunk(folder, chunk, size, crop) for chunk in chunks)

    if count < ALONE:
        yield alone
        return
    workers = os.cpu_count() or 1
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:

        def together(folder, chunks, size, crop):
            under_way = []
            for chunk in chunks:
                under_way.append(pool.submit(read_chunk, folder, chunk, size, crop))
                if len(under_way) > 4 * workers:
                    yield under_way.pop(0).result()
            for task in under_way:
                yield task.result()

        yield together


def _start_worker():
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def report_bad(folder, bad, names, temporary):
    """List the bad files in bad_files.txt; raises Refused where they are too many."""
    lines = "".join(f"{name}: {reason}\n" for name, reason in bad.items())
    (temporary / "bad_files.txt").write_text(lines)
    if len(bad) > BAD_SHARE * len(names):
        name, reason = next(iter(bad.items()))
        shutil.rmtree(temporary)
        raise Refused(
            f"{folder}: {len(bad)} of {len(names)} files cannot be used, as {name} ({reason});"
            f" at most {100 * BAD_SHARE:.0f} % may be left out"
        )


def drop_colour(path, shape):
    """Keep one of the three equal channels of a grey data set."""
    wide = np.memmap(path, np.uint8, "r", shape=shape)
    narrow = Path(f"{path}.grey")
    with open(narrow, "wb") as file:
        for start in range(0, len(wide), 4096):
            file.write(np.ascontiguousarray(wide[start : start + 4096, ..., 0]).data)
    narrow.rename(path)


def digest(path, labels):
    """Return the sha256 of all pixels and labels, in hex."""
    with open(path, "rb") as file:
        total = hashlib.file_digest(file, "sha256")
    if labels is not None:
        total.update(labels.data)
    return total.hexdigest()
