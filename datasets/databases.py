"""LSUN's databases (LMDB, an encoded image per key) as a Listing. They are only read."""

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets import listing
from system.errors import Refused
from system.screen import printable

CONTENT = "data.mdb"


@dataclass(frozen=True)
class Databases:
    """The databases `folders` of the data set in `path`: one, or one for each class and split."""

    path: Path
    folders: tuple[Path, ...]

    format = "lmdb"
    pattern = None  # keys are not the names of files

    @property
    def stamp(self):
        """Return the names, sizes and times of the databases, which are not read."""
        states = [(folder.name, (folder / CONTENT).stat()) for folder in self.folders]
        return str([(name, state.st_size, state.st_mtime_ns) for name, state in states])

    @contextlib.contextmanager
    def listed(self):
        """Give the Listing, which can be read while the context is open. Raises Refused."""
        parts = sort_parts(self.folders)
        names, sizes, labels, places, held_out = [], [], [], [], 0
        with contextlib.ExitStack() as held:
            for folder, label, is_held_out in parts:
                environment = held.enter_context(open_database(folder))
                prefix = f"{folder.name}/" if len(parts) > 1 else ""
                keys, lengths = list_keys(environment, folder)
                names += [prefix + key for key in keys]
                sizes += lengths
                places += [(environment, len(prefix))] * len(keys)
                labels += [label] * len(keys)
                held_out += len(keys) * is_held_out

            def read(i):
                environment, start = places[i]
                key = names[i][start:].encode("utf-8", "surrogateescape")
                with environment.begin(buffers=True) as transaction:
                    return io.BytesIO(transaction.get(key))

            class_names = sorted({class_of(folder) for folder in self.folders})
            if len(class_names) == 1:  # it is no class, as a single folder around all images
                labels, class_names = None, []
            else:
                labels = np.array(labels, np.int32)
            yield listing.Listing(names, sizes, labels, class_names, read, held_out)


def class_of(folder):
    """Return the class that is in the name of a database's folder, or None."""
    match = re.fullmatch(r"(.+)_(train|val)_lmdb", folder.name)
    return match and match[1]


def sort_parts(folders):
    """Return [(folder, label, whether it is held out)] of databases, held-out ones last.

    A single one is all training images, whatever its name. Raises Refused.
    """
    if len(folders) == 1:
        return [(folders[0], 0, False)]
    classes = sorted({class_of(folder) or "" for folder in folders})
    names = {folder.name for folder in folders}
    for folder in folders:
        if f"{class_of(folder)}_train_lmdb" not in names:
            raise Refused(
                f"{folder}: expected the names <class>_train_lmdb and <class>_val_lmdb; rename it"
                " or move it away"
            )
    order = []
    for folder in folders:  # as files in class folders are sorted
        is_held_out = folder.name.endswith("_val_lmdb")
        order.append((is_held_out, f"{class_of(folder)}/", folder))
    return [
        (folder, classes.index(name[:-1]), held_out) for held_out, name, folder in sorted(order)
    ]


def open_database(folder):
    """Open a database for reading, without a lock file. Raises Refused."""
    try:
        import lmdb
    except ImportError:
        raise Refused(
            f"{folder}: the package lmdb is missing: pip install -r requirements-lmdb.txt"
        ) from None
    try:
        environment = lmdb.open(str(folder), readonly=True, lock=False, create=False)
    except lmdb.Error as error:
        raise Refused(f"{folder}: cannot be opened ({error}); fetch it again") from None
    pages = environment.info()["last_pgno"] + 1
    if (folder / CONTENT).stat().st_size < pages * environment.stat()["psize"]:
        environment.close()  # reading the missing pages would crash the process
        raise Refused(f"{folder / CONTENT}: cut short; fetch it again")
    return environment


def list_keys(environment, folder):
    """Return the keys of a database as text, in their order, and the sizes of the values.

    The library visits every value for that, in the order of the file. Raises Refused.
    """
    import lmdb

    keys, sizes = [], []
    desc, count = f"listing {printable(folder.name)}", environment.stat()["entries"]
    try:
        with environment.begin(buffers=True) as transaction:
            for key, value in tqdm(transaction.cursor(), desc, count, disable=None):
                keys.append(bytes(key).decode("utf-8", "surrogateescape"))
                sizes.append(len(value))
    except lmdb.Error as error:
        raise Refused(f"{folder / CONTENT}: damaged ({error}); fetch it again") from None
    if not keys:
        raise Refused(f"{folder}: {CONTENT} holds no images; fetch it again")
    return keys, sizes
