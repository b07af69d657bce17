"""Weights on disk: TensorFlow checkpoints, and NumPy archives of a single network's weights.

Import it after `device.import_tensorflow()`.
"""

import contextlib
import glob
import hashlib
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.lib import format as npy

from run import description
from run.checkpoints import UNFINISHED, remove_unfinished
from run.folders import regular
from system.errors import Failed, Refused, explain

# What TensorFlow raises for a checkpoint that cannot be read: flipped bits, missing parts, a file
# cut short, or one that the system refuses to open.
UNREADABLE = (tf.errors.OpError, IndexError)
# What is raised for a file that is not an archive of arrays, or a damaged one.
BAD_ARCHIVE = (
    *(EOFError, OSError, zipfile.BadZipFile, zlib.error, tokenize.TokenError),
    *(KeyError, RuntimeError, SyntaxError, TypeError, ValueError),
)
HEADER_MAX = 10_000  # bytes before an array's data; NumPy writes about 100


def save(gan, folder, iteration):
    """Write a WGAN's checkpoint, and config.json if the folder has none. Raises Failed."""
    if broken := find_non_finite([gan.generator, gan.critic, gan.average]):
        raise Failed(
            f"{broken} is not finite at iteration {iteration}; the last checkpoint is kept:"
            " delete the run and start again with a smaller --learning_rate"
        )
    path = Path(folder) / "config.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        description.write_config(path, gan.config, gan.facts, gan.environment())
    write_checkpoint(gan.checkpoint, str(path.parent / f"ckpt-{iteration}"))


def write_checkpoint(checkpoint, prefix):
    """Write a tf.train.Checkpoint. Raises Failed where that cannot be done.

    TensorFlow does not write the index in one step. Hence another name first; the index comes last.
    """
    new = prefix + UNFINISHED
    try:
        checkpoint.write(new)
        for path in sorted(glob.glob(f"{glob.escape(new)}.*")):  # .data first, then .index
            os.replace(path, prefix + path.removeprefix(new))
    except (tf.errors.OpError, OSError) as error:
        remove_unfinished(Path(prefix).parent)  # a full disk needs the room
        raise Failed(
            f"{prefix}: cannot be written ({explain(error)}); earlier checkpoints stay: make room,"
            " then give the same command again"
        ) from None


def read_checkpoint(checkpoint, prefix, whole=True):
    """Read what `write_checkpoint` wrote; unless `whole`, the tf.train.Checkpoint may be a part.

    Raises one of UNREADABLE where that cannot be done.

    TensorFlow takes a path for a pattern: in `a[1]/ckpt-3` it looks for `a1/ckpt-3`. So it reads in
    the folder. Raises Failed where the checkpoint does not fit the networks.
    """
    path = Path(prefix)
    try:
        with contextlib.chdir(path.parent):
            status = checkpoint.read(f"./{path.name}")
            if whole:
                status.assert_consumed()
            else:
                status.assert_existing_objects_matched().expect_partial()
                reader = tf.train.load_checkpoint(f"./{path.name}")
                for name in reader.get_variable_to_shape_map():
                    reader.get_tensor(name)  # the rest must be good, too
    except (ValueError, AssertionError) as error:
        raise Failed(
            f"{prefix}: does not fit the networks that config.json beside it describes"
            f" ({explain(error)}); bring back the file that was there, or delete the folder"
        ) from None


def restore_newest(gan, checkpoints, folder):
    """Restore the newest of some checkpoints (iteration, prefix) that can be read.

    Returns its iteration, and the iterations of those that cannot be read; these are skipped with a
    line and not changed. Raises Failed where none can be read.
    """
    unreadable = []
    for iteration, prefix in checkpoints:
        try:
            gan.restore(prefix)
        except UNREADABLE as error:
            unreadable.append(iteration)
            print(f"{prefix} cannot be read and is skipped ({explain(error)})")
        else:
            return iteration, unreadable
    raise Failed(
        f"{folder}: none of its checkpoints can be read; bring one back, or delete the folder to"
        " start again"
    )


def read_newest(gan, run):
    """Restore the newest weights of a description.Run and return their path.

    Without a checkpoint that is the shipped generator.npz. Raises Refused and Failed.
    """
    if not run.checkpoints:
        path = os.path.join(run.folder, "generator.npz")
        read_generator(path, gan)
        return path
    iteration, _ = restore_newest(gan, run.checkpoints, run.folder)
    return os.path.join(run.folder, f"ckpt-{iteration}")


def write_generator(path, network):
    """Write the weights of one network: a NumPy archive, a float16 array per variable."""
    np.savez_compressed(path, **{v.path: v.numpy().astype(np.float16) for v in network.variables})


def read_generator(path, gan):
    """Read what `write_generator` wrote into the generators of a WGAN. Raises Refused."""
    networks = [network for network in (gan.average, gan.generator) if network is not None]
    variables = [variable for network in networks for variable in network.variables]
    read_archive(path, [(variable.path, variable) for variable in variables])


def read_archive(path, named, numbers=()):
    """Read arrays of a NumPy archive into variables, listed as (name, variable).

    Returns what else is asked for in `numbers`, a float per name. Raises Refused where the archive
    is damaged or does not fit; no variable has changed then.
    """
    shapes = {name: tuple(variable.shape) for name, variable in named} | dict.fromkeys(numbers, ())
    try:
        with zipfile.ZipFile(regular(path)) as archive:
            arrays = {name: read_array(archive, name, shape) for name, shape in shapes.items()}
    except (*BAD_ARCHIVE, MemoryError) as error:  # the latter where a header claims too much
        raise Refused(f"{path}: damaged ({explain(error)})") from None
    for name, variable in named:
        variable.assign(arrays[name])
    return [float(arrays[name]) for name in numbers]


def read_array(archive, name, shape):
    """Read an array of floats, finite in float32, from an open NumPy archive.

    Its size is checked before its data are unpacked. Raises one of BAD_ARCHIVE.
    """
    part = archive.getinfo(f"{name}.npy")
    if part.file_size > HEADER_MAX + 8 * math.prod(shape):
        raise ValueError(f"{name} is larger than floats {shape}")
    if part.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed in a way that NumPy does not use")
    with archive.open(part) as file:
        array = npy.read_array(file, allow_pickle=False)
    if array.dtype.kind != "f" or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype.name} {array.shape}, expected floats {shape}")
    if not np.all(np.abs(array) <= np.finfo(np.float32).max):  # nor is a NaN
        raise ValueError(f"{name} has numbers that are not finite in float32")
    return array


def find_non_finite(networks):
    """Return the name of a variable that holds a NaN or an infinity, or None."""
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
