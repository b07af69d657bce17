"""Which images a folder or an archive holds, in which order, and of which classes.

The rules for names are the same for all of them. Nothing here opens an image.
"""

import contextlib
import fnmatch
import json
import posixpath
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from datasets import image_file
from system.errors import Refused

TABLE = "dataset.json"  # the labels, in data sets that StyleGAN's tools have written
TABLE_FORM = '{"labels": [["name", 0], ...]}'


class Listing(NamedTuple):
    """The images of a data set, in order; the last `held_out` of them are never trained on.

    `sizes` are in bytes; `labels` int32 [N] or None. `read(i)` returns image i as Pillow opens it,
    in any thread; it raises OSError or ValueError.
    """

    names: list[str]
    sizes: list[int]
    labels: np.ndarray | None
    class_names: list[str]
    read: Callable[[int], Path | BytesIO]
    held_out: int = 0


@contextlib.contextmanager
def readable():
    """Turn an OSError that the user's files raise into Refused."""
    try:
        yield
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; make it readable") from None


def is_hidden(part):
    """Return whether a system, not the user, has made a file or folder of this name."""
    return part.startswith(".") or part == "__MACOSX"


def pick(files, pattern, path):
    """Yield each (name, file) that is an image or a table of labels.

    The last part of an image's name matches `pattern`. Raises Refused, at the end, if there was no
    image.
    """
    found, endings = False, set()
    for name, file in files:
        last = name.rpartition("/")[2]
        if last == TABLE or fnmatch.fnmatchcase(last, pattern):
            found = found or last != TABLE
            yield name, file
        else:
            endings.add(PurePosixPath(last).suffix)
    if not found:
        others = sorted(ending for ending in endings if ending.lower() in image_file.ENDINGS)
        hint = f"; try --input_fname_pattern '*{others[0]}'" if others else ""
        if ".mdb" in endings:
            hint = "; unpack the folder of its data.mdb into the data set's folder"
        raise Refused(f"{path}: no file there is called {pattern}{hint}")


def arrange(names, path, read_table):
    """Return (images, labels, class_names): the names of images sorted, and their classes.

    `names` are of images and of tables of labels; `read_table(name)` returns a table's bytes. A
    table gives the labels, or else the folders do. Raises Refused.
    """
    images = sorted(name for name in names if name.rpartition("/")[2] != TABLE)
    folders = {name.rpartition("/")[0] for name in images}
    around = [part for part in posixpath.commonpath(folders).split("/") if part]
    for depth in range(len(around) + 1):
        base = "".join(f"{part}/" for part in around[:depth])
        table = base + TABLE in names and table_labels(images, read_table, base, path)
        if table:
            return images, *table
    return images, *folder_labels(images, len(around), path)


def table_labels(images, read_table, base, path):
    """Return (labels, class_names) from the table in the folder `base`, or None for other JSON.

    Names in the table are relative to `base`. A table without labels gives (None, []).
    """
    path = path / base / TABLE
    try:
        table = json.loads(read_table(base + TABLE))
    except (OSError, ValueError, zlib.error, RecursionError) as error:
        raise Refused(f"{path}: no JSON can be read ({error}); mend it or move it away") from None
    if not isinstance(table, dict) or "labels" not in table:
        return None
    if table["labels"] in (None, []):
        return None, []
    try:
        numbers = {name.replace("\\", "/"): number for name, number in table["labels"]}
    except (AttributeError, TypeError, ValueError):
        raise Refused(f"{path}: expected {TABLE_FORM}; mend it or move it away") from None
    chosen = [numbers.get(name.removeprefix(base)) for name in images]
    for name, number in zip(images, chosen, strict=True):
        if type(number) is not int or number < 0:
            label = "no label" if number is None else f"the label {number!r:.50}"
            raise Refused(f"{path}: {label} for {name}; expected a whole number, as {TABLE_FORM}")
    classes, labels = np.unique(np.array(chosen, object), return_inverse=True)
    return labels.astype(np.int32), [str(number) for number in classes]


def folder_labels(images, depth, path):
    """Return (labels, class_names) from class folders, or (None, []) where there are none.

    All images are at least `depth` folders deep; class folders are one deeper. Raises Refused for
    images beside class folders or below them.
    """
    first = {}  # first image of each folder
    for name in images:
        first.setdefault(name.rpartition("/")[0], name)
    depths = {folder: len(name.split("/")) - 1 - depth for folder, name in first.items()}
    if set(depths.values()) == {0}:
        return None, []
    if others := [name for folder, name in first.items() if depths[folder] != 1]:
        raise Refused(
            f"{path}: {min(others)} lies beside or below the class folders; expected every image as"
            " <class>/<file>, or all in one folder"
        )
    numbers = {folder: k for k, folder in enumerate(sorted(first))}
    class_names = [folder.rpartition("/")[2] for folder in numbers]
    return np.array([numbers[name.rpartition("/")[0]] for name in images], np.int32), class_names


def check_twins(names, key, difference, path):
    """Refuse two names with the same `key`, which differ only in the `difference`, in words."""
    seen = {}
    for name in sorted(names):
        twin = seen.setdefault(key(name), name)
        if twin != name:
            raise Refused(f"{path}: {twin} and {name} differ only in {difference}; rename one")
