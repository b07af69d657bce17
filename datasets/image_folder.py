"""A folder of image files, or of class folders of them, as a Listing."""

import contextlib
import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from datasets import listing


@dataclass(frozen=True)
class ImageFolder:
    """The files in `path` and below whose names match `pattern`, without hidden ones."""

    path: Path
    pattern: str

    format = "folder"

    @functools.cached_property
    def files(self):
        """Map the names of images and tables of labels to (size in bytes, time in ns)."""
        found = listing.pick(scan(self.path), self.pattern, self.path)
        states = ((name, entry.stat()) for name, entry in found)
        return {name: (state.st_size, state.st_mtime_ns) for name, state in states}

    @property
    def stamp(self):
        """Return a sha256 of the names, sizes and times of all files."""
        total = hashlib.sha256()
        for name in sorted(self.files):
            size, time = self.files[name]
            total.update(f"{size} {time} {name!a}\n".encode())
        return total.hexdigest()

    @contextlib.contextmanager
    def listed(self):
        """Give the Listing; Pillow opens the files by itself."""
        path = self.path
        arranged = listing.arrange(self.files, path, lambda name: (path / name).read_bytes())
        names, labels, class_names = arranged
        sizes = [self.files[name][0] for name in names]
        yield listing.Listing(names, sizes, labels, class_names, lambda i: path / names[i])


def scan(folder):
    """Yield (relative name, os.DirEntry) of all files in a folder and below, but for hidden ones.

    Links are followed, except to a folder that they lie in.
    """
    places = [(folder, "", {os.path.realpath(folder)})]
    while places:
        place, prefix, above = places.pop()
        for entry in os.scandir(place):
            if listing.is_hidden(entry.name):
                continue
            if entry.is_file():
                yield f"{prefix}{entry.name}", entry
            elif entry.is_dir() and (real := os.path.realpath(entry.path)) not in above:
                places.append((entry.path, f"{prefix}{entry.name}/", above | {real}))
