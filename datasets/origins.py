"""Where the images of a data set are: in a folder, in a zip archive, or in databases."""

import os
from pathlib import Path

from datasets import image_file, listing
from datasets.databases import CONTENT, Databases
from datasets.image_folder import ImageFolder, scan
from datasets.zip_archive import ZipArchive
from system.errors import Refused


def archive_beside(folder):
    """Return the archive that is called like a folder, or None. Raises Refused if both exist."""
    archive = Path(f"{folder}.zip")
    if archive.is_file() and folder.exists():
        refuse_both(archive, folder)
    return archive if archive.is_file() else None


@listing.readable()
def find(folder, pattern):
    """Return the origin of a data set's images: an ImageFolder, a ZipArchive or Databases.

    Each has a `path`, a `format`, the `pattern` of its files' names (or None), a `stamp` that
    changes with its files, and `listed()`, which gives a Listing. Raises Refused unless there is
    exactly one.
    """
    if archive := archive_beside(folder):
        return ZipArchive(archive, pattern)
    if not folder.is_dir():
        raise Refused(
            f"there is no folder {folder} and no {folder}.zip; check --dataset and --data_dir"
        )
    archives, databases = look_into(folder)
    if not archives and not databases:
        return ImageFolder(folder, pattern)
    one, *others = [*archives, *databases[:1], *find_image(folder)]
    if others:
        refuse_both(one, others[0])
    return Databases(folder, databases) if databases else ZipArchive(one, pattern)


def refuse_both(one, other):
    """Refuse to choose between two places."""
    raise Refused(f"{one} and {other}: both are there; move one of them away")


def look_into(folder):
    """Return what is in a folder: (zip archives, databases), both sorted.

    The folder itself may be a database.
    """
    archives, databases = [], []
    for entry in os.scandir(folder):
        if listing.is_hidden(entry.name):
            continue
        if entry.name.lower().endswith(".zip") and entry.is_file():
            archives.append(Path(entry.path))
        elif entry.is_dir() and os.path.isfile(os.path.join(entry.path, CONTENT)):
            databases.append(Path(entry.path))
    if (folder / CONTENT).is_file():
        databases = [folder]
    return sorted(archives), tuple(sorted(databases))


def find_image(folder):
    """List the first image file in a folder or below it, if there is one."""
    names = (name for name, _ in scan(folder))
    images = [name for name in names if name.lower().endswith(image_file.ENDINGS)]
    return [folder / min(images)] if images else []
