"""LSUN's databases (LMDB, an encoded image per key) as a Listing. Reads them, writes nothing."""

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
    """The databases `folders`, of the data set in `path`: one, or one for each class and part."""

    path: Path
    folders: tuple[Path, ...]

    format = "lmdb"
    pattern = None  # keys are no files' names

    @property
    def stamp(self):
        """Name the state of the databases, without reading them: their sizes and times."""
        states = [(folder / CONTENT).stat() for folder in self.folders]
        names = [folder.name for folder in self.folders]
        return str([(n, s.st_size, s.st_mtime_ns) for n, s in zip(names, states, strict=True)])

    @contextlib.contextmanager
    def listed(self):
        """Give the Listing, which can be read as long as the context is open. Raises Refused."""
        parts = sort_parts(self.path, self.folders)
        names, sizes, labels, environments, held_out = [], [], [], {}, 0
        with contextlib.ExitStack() as held:
            for folder, number, is_held_out in parts:
                environment = held.enter_context(open_database(folder))
                prefix = f"{folder.name}/" if len(parts) > 1 else ""
                environments[prefix] = environment
                keys, lengths = list_keys(environment, folder)
                if not keys:
                    raise Refused(f"{folder}: {CONTENT} holds no images; fetch it again")
                names += [prefix + key for key in keys]
                sizes += lengths
                labels += [number] * len(keys)
                held_out += len(keys) * is_held_out

            def read(i):
                prefix = names[i].partition("/")[0] + "/" if len(parts) > 1 else ""
                key = names[i].removeprefix(prefix).encode("utf-8", "surrogateescape")
                with environments[prefix].begin(buffers=True) as transaction:
                    return io.BytesIO(transaction.get(key))

            class_names = sorted({class_of(folder) for folder in self.folders})
            if len(class_names) == 1:  # as a single folder around everything
                labels, class_names = None, []
            else:
                labels = np.array(labels, np.int32)
            yield listing.Listing(names, sizes, labels, class_names, read, held_out)


def class_of(folder):
    """Return the class that a folder's name tells, or None."""
    match = re.fullmatch(r"(.+)_(train|val)_lmdb", folder.name)
    return match and match[1]


def sort_parts(path, folders):
    """Return [(folder, number of its class, whether it is held out)], those last that are.

    A single one is all of a data set, whatever its name. Raises Refused.
    """
    if len(folders) == 1:
        return [(folders[0], 0, False)]
    classes = sorted({class_of(folder) or "" for folder in folders})
    listing.check_forms(classes, path)
    there = {folder.name: folder for folder in folders}
    for folder in folders:
        if f"{class_of(folder)}_train_lmdb" not in there:
            raise Refused(
                f"{folder}: expected <class>_train_lmdb, and <class>_val_lmdb beside it, under"
                f" {path}; rename it or move it away"
            )
    parts = []
    for part in ("train", "val"):
        for name in sorted(classes, key="{}/".format):  # as files in class folders are sorted
            if folder := there.get(f"{name}_{part}_lmdb"):
                parts.append((folder, classes.index(name), part == "val"))
    return parts


def open_database(folder):
    """Open a database for reading, without a lock file. Raises Refused."""
    try:
        import lmdb
    except ImportError:
        raise Refused(
            f"{folder}: a database, for which the package lmdb is missing:"
            " pip install -r requirements-lmdb.txt"
        ) from None
    with open(folder / CONTENT, "rb"):  # or the system says why not
        pass
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

    The library reads all values for that, but in the order in which they lie. Raises Refused.
    """
    import lmdb

    keys, sizes = [], []
    desc = f"listing {printable(folder.name)}"
    bar = tqdm(total=environment.stat()["entries"], desc=desc, disable=None)
    try:
        with environment.begin(buffers=True) as transaction, bar:
            for key, value in transaction.cursor():
                keys.append(bytes(key).decode("utf-8", "surrogateescape"))
                sizes.append(len(value))
                bar.update()
    except lmdb.Error as error:
        raise Refused(f"{folder / CONTENT}: damaged ({error}); fetch it again") from None
    return keys, sizes
