"""Where the images of a data set are: in a folder, in a zip archive, or in databases."""

import os
from pathlib import Path

from datasets import image_file, listing
from datasets.databases import CONTENT, Databases
from datasets.image_folder import ImageFolder, scan
from datasets.zip_archive import ZipArchive
from system.errors import Refused


def archive_beside(folder):
    """Return the archive that has a folder's name, or None. Raises Refused where both are there."""
    archive = Path(f"{folder}.zip")
    if not archive.is_file():
        return None
    if folder.exists():
        refuse_both(archive, folder)
    return archive


def find(folder, pattern):
    """Return what holds a data set's images: an ImageFolder, ZipArchive or Databases, or None.

    Each has `path`, `kind`, `pattern` (or None), `stamp` and `listed()`. Raises Refused where more
    than one is there.
    """
    try:
        if archive := archive_beside(folder):
            return ZipArchive(archive, pattern)
        if not folder.is_dir():
            raise Refused(
                f"there is no folder {folder} and no archive {folder}.zip; put the images there, or"
                " name another --dataset or --data_dir"
            )
        archives, databases = look_into(folder)
        if not archives and not databases:
            return ImageFolder(folder, pattern)
        one, *others = [*archives, *databases[:1]]
        if others:
            refuse_both(one, others[0])
        if image := find_image(folder):
            refuse_both(one, folder / image)
        return Databases(folder, databases) if databases else ZipArchive(one, pattern)
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}; make it readable") from None


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
    """Return the first name of an image file in a folder or below it, or None."""
    names = (name for name, _ in scan(folder))
    return min((name for name in names if name.lower().endswith(image_file.ENDINGS)), default=None)
