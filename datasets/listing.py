"""Which images a folder or an archive holds, in which order, and of which classes.

The rules of names are the same for all of them. Nothing here opens an image.
"""

import fnmatch
import json
import posixpath
import unicodedata
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
    """The images of a data set, sorted by name; `held_out` of them, the last ones, never train.

    `sizes` are the files' in bytes; `labels` int32 [N] or None; `read(i)` returns what Pillow opens
    as image i, and works in any thread. It raises OSError or ValueError.
    """

    names: list[str]
    sizes: list[int]
    labels: np.ndarray | None
    class_names: list[str]
    read: Callable[[int], Path | BytesIO]
    held_out: int = 0


def is_hidden(part):
    """Return whether a file or folder of this name holds nothing of the user's."""
    return part.startswith(".") or part == "__MACOSX"


def pick(files, pattern, path):
    """Yield those of (name, file) whose last name matches `pattern`, and tables of labels.

    Raises Refused at the end where no image was among them.
    """
    count, others = 0, set()
    for name, file in files:
        last = name.rpartition("/")[2]
        if last == TABLE:
            yield name, file
        elif fnmatch.fnmatchcase(last, pattern):
            count += 1
            yield name, file
        else:
            others.add(PurePosixPath(last).suffix)
    if not count:
        known = sorted(ending for ending in others if ending.lower() in image_file.ENDINGS)
        hint = f"; try --input_fname_pattern '*{known[0]}'" if known else ""
        if ".mdb" in others:
            hint = "; its data.mdb is read where its folder is in the data set's, unpacked"
        raise Refused(f"{path}: no file there is called {pattern}{hint}")


def arrange(names, path, read_table):
    """Return (images, labels, class_names): the images sorted, and what their folders make of them.

    `names` are of images and of tables of labels; `read_table(name)` returns the bytes of one.
    Folders around all images say nothing. Raises Refused.
    """
    images = sorted(name for name in names if name.rpartition("/")[2] != TABLE)
    folders = {name.rpartition("/")[0] for name in images}
    around = [part for part in posixpath.commonpath(folders).split("/") if part]
    for depth in range(len(around) + 1):
        base = "".join(f"{part}/" for part in around[:depth])
        if base + TABLE in names:
            table = parse_table(read_table(base + TABLE), path / base / TABLE)
            if table is not None:
                return images, *table_labels(images, table, base, path / base / TABLE)
    return images, *folder_labels(images, folders, len(around), path)


def parse_table(content, path):
    """Return the `labels` of a table: a list, [] where it gives none, or None for other JSON."""
    try:
        table = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: not JSON ({error}); mend it or move it away") from None
    if not isinstance(table, dict) or "labels" not in table:
        return None
    return [] if table["labels"] is None else table["labels"]


def table_labels(images, table, base, path):
    """Return (labels, class_names) from [[name, number], ...]; names are relative to `base`."""
    if table == []:
        return None, []
    try:
        numbers = {name.replace("\\", "/"): number for name, number in table}
        if len(numbers) < len(table):
            raise ValueError("twice")
    except (AttributeError, TypeError, ValueError):
        expected = f"{TABLE_FORM}, each name once"
        raise Refused(f"{path}: expected {expected}; mend it or move it away") from None
    chosen = [numbers.get(name.removeprefix(base)) for name in images]
    for name, number in zip(images, chosen, strict=True):
        if type(number) is not int or number < 0:
            known = "no label" if number is None else f"the label {number!r:.50}"
            raise Refused(f"{path}: {known} for {name}; expected a whole number, as {TABLE_FORM}")
    classes = sorted(set(chosen))
    place = {number: k for k, number in enumerate(classes)}
    return np.array([place[number] for number in chosen], np.int32), [str(k) for k in classes]


def folder_labels(images, folders, depth, path):
    """Return (labels, class_names) from folders `depth` deep, (None, []) where there are none.

    Raises Refused for images beside the class folders or below them.
    """
    below = {folder: len(folder.split("/")) - depth if folder else 0 for folder in folders}
    first = {}
    for name in images:
        first.setdefault(name.rpartition("/")[0], name)
    if deep := [first[folder] for folder, number in below.items() if number > 1]:
        raise Refused(
            f"{path}: {min(deep)} is below a class folder; expected images in class folders, as"
            " <class>/<file>, or all in one folder"
        )
    if len(set(below.values())) > 1:
        loose = min(first[folder] for folder, number in below.items() if not number)
        raise Refused(
            f"{path}: images both in class folders and beside them ({loose}); use one or the other"
        )
    if 0 in below.values():
        return None, []
    number = {folder: k for k, folder in enumerate(sorted(folders))}
    labels = np.array([number[name.rpartition("/")[0]] for name in images], np.int32)
    class_names = [folder.rpartition("/")[2] for folder in number]
    check_forms(class_names, path)
    return labels, class_names


def check_forms(class_names, path):
    """Refuse classes of which two names are the same text in two of Unicode's forms."""
    known = {}
    for name in class_names:
        if known.setdefault(unicodedata.normalize("NFC", name), name) != name:
            raise Refused(
                f"{path}: two classes are called {name}, in two Unicode forms; merge them or rename"
                " one"
            )
