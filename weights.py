"""Weights on disk: TensorFlow checkpoints, and NumPy archives of a single network's weights.

Import it after `device.import_tensorflow()`.
"""

import glob
import hashlib
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

import runs
from errors import Failed, Refused

# What a damaged checkpoint raises: flipped bits, missing parts, a file cut short.
DAMAGE = (tf.errors.OpError, IndexError)
# Of these, what says that the system refused: no memory or file handle left, a server away, a disk
# that cannot be read.
REFUSED_BY_SYSTEM = (
    *(tf.errors.ResourceExhaustedError, tf.errors.UnavailableError, tf.errors.UnknownError),
    *(tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError),
)
# What a file that is no good archive of arrays raises.
BAD_ARCHIVE = (
    *(EOFError, OSError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
    *(KeyError, RuntimeError, TypeError, ValueError),
)


def write_checkpoint(checkpoint, prefix):
    """Write a tf.train.Checkpoint. Raises Failed where that cannot be done.

    TensorFlow does not write the index in one step. Hence another name first; the index comes last.
    """
    new = prefix + runs.UNFINISHED
    try:
        checkpoint.write(new)
        for path in sorted(glob.glob(f"{glob.escape(new)}.*")):  # .data first, then .index
            os.replace(path, prefix + path.removeprefix(new))
    except (tf.errors.OpError, OSError) as error:
        runs.remove_unfinished(Path(prefix).parent)  # a full disk needs the room
        raise Failed(
            f"{prefix}: cannot be written ({system_reason(error)}); the checkpoints before it are"
            " kept: mend that, and the same command goes on from the newest"
        ) from None


def read_checkpoint(checkpoint, prefix):
    """Read what `write_checkpoint` wrote; raises one of DAMAGE where it is damaged.

    Raises Failed where it is whole but does not fit the networks, or where the system does not let
    it be read.
    """
    try:
        checkpoint.read(prefix).assert_consumed()
    except DAMAGE as error:
        if refusal := find_refusal(prefix, error):
            raise Failed(
                f"{prefix}: cannot be read ({refusal}); nothing is changed: mend that, and start"
                " again"
            ) from None
        raise
    except (ValueError, AssertionError) as error:
        raise Failed(
            f"{prefix}: does not fit the networks that config.json beside it describes"
            f" ({first_line(error)}); bring back the file that was there, or delete the folder"
        ) from None


def find_refusal(prefix, error):
    """Say why the system does not let a checkpoint be read, after an `error` of DAMAGE.

    None where it does. TensorFlow raises the same for most damage and for some of these reasons.
    """
    if isinstance(error, REFUSED_BY_SYSTEM):
        return system_reason(error)
    place = Path(prefix)
    try:
        for path in place.parent.iterdir():
            if path.name.startswith(f"{place.name}."):
                path.read_bytes()
    except OSError as refused:
        return refused.strerror
    return None


def restore_newest(gan, checkpoints):
    """Restore the newest checkpoint that can be read, set damaged ones aside; returns its state."""
    for _, prefix in checkpoints:
        try:
            return gan.restore(prefix)
        except DAMAGE as error:
            runs.set_aside(prefix)
            print(f"{prefix} is damaged ({type(error).__name__}): renamed to *.damaged")
    raise Failed(
        f"{checkpoints[0][1]}: no checkpoint there is whole; delete the folder to start anew"
    )


def read_archive(path, named, numbers=()):
    """Read arrays of a NumPy archive into variables, listed as (name, variable).

    Returns what else is asked for in `numbers`, a float per name. Raises Refused where the archive
    is damaged or does not fit.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
        for name, variable in named:
            if arrays[name].shape != variable.shape:
                raise ValueError(f"{name} is not {tuple(variable.shape)}")
            variable.assign(arrays[name])
        return [float(arrays[name]) for name in numbers]
    except BAD_ARCHIVE as error:
        raise Refused(f"{path}: damaged ({first_line(error)})") from None


def find_non_finite(networks):
    """Name a variable of some networks that holds a NaN or an infinity, or return None."""
    for network in networks:
        for variable in network.variables:
            if not np.isfinite(variable.numpy().sum(dtype=np.float64)):
                return f"{network.name}'s {variable.path}"
    return None


def digest(variables):
    """Return the first 16 hex digits of the sha256 of some variables' values."""
    total = hashlib.sha256()
    for variable in variables:
        total.update(np.ascontiguousarray(variable.numpy()).data)
    return total.hexdigest()[:16]


def system_reason(error):
    """Say what the system refused: of TensorFlow's '... <path>; <reason> [Op: ...]' the reason."""
    return first_line(error).split("; ")[-1].split(" [Op:")[0]


def first_line(error):
    """Say what an exception is, and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
