"""Folders that the program writes into: whether it may, the lock on them, files in one step."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from pathlib import Path

from system.errors import Refused


def check_folder(path, data_folder):
    """Return the path, or refuse one that cannot be made, listed or written, or lies in the data.

    `data_folder` is the user's data set, into which nothing is ever written.
    """
    path = there = Path(path)
    try:
        if there.resolve().is_relative_to(Path(data_folder).resolve()):
            raise Refused(f"{path}: inside the data set {data_folder}; choose another folder")
        while not there.exists() and not there.is_symlink():  # which may lead nowhere
            there = there.parent
    except (OSError, RuntimeError) as error:  # the latter for a link to itself
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"{path}: {reason}; choose another folder") from None
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise Refused(f"{path}: cannot be written; choose another folder")
    return path


def check_readable(folder):
    """Refuse a folder that is there but cannot be listed or entered."""
    try:
        os.listdir(folder)
        os.stat(os.path.join(folder, "."))
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{folder}: {error.strerror}; name another folder") from None


@contextlib.contextmanager
def claim(*folders):
    """Make the folders and hold a lock on each, so that no second command writes there.

    The lock is the kernel's, on `.lock`, and dies with the process. The file stays: where it is
    removed, two programs can hold locks on two files of one name. Raises Refused.
    """
    with contextlib.ExitStack() as held:
        for folder in {Path(folder).resolve(): Path(folder) for folder in folders}.values():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(folder / ".lock", "a+", errors="replace"))
                _lock(file, folder)
                file.truncate(0)
                os.write(file.fileno(), b"%d\n" % os.getpid())
            except OSError as error:  # without a name where the disk is full
                where = error.filename or folder
                raise Refused(f"{where}: {error.strerror}; choose another folder") from None
        yield


def check_free(folder):
    """Refuse a folder that another command holds; changes nothing."""
    path = Path(folder) / ".lock"
    try:
        with open(regular(path), errors="replace") as file:
            _lock(file, folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}; choose another folder") from None


def _lock(file, folder):
    """Lock an open file for as long as it is open, or refuse."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = re.sub(r"\D", "", file.read()) or "unknown"
        raise Refused(
            f"{folder}: in use by another command, process {owner}; wait for it or stop it"
        ) from None


def regular(path):
    """Return the path of a file. Raises OSError for others: to read a pipe may take for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return Path(path)


def write_atomically(path, text):
    """Replace a file in one step, so that a kill leaves the old or the new one."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def free_bytes(folder):
    """Return how many bytes are free where `folder` is, or would be."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
