"""The checkpoints in a run's folder: which there are, and which are kept. Knows no TensorFlow."""

import re
import shutil
from pathlib import Path

from run.folders import write_atomically

KEPT = 3  # checkpoints of a run
UNFINISHED = ".new"  # ends the names of a checkpoint's files until all of it is written


def list_checkpoints(folder):
    """List a run's checkpoints as (iteration, prefix), newest first, from the files themselves."""
    found = {}
    for path in Path(folder).glob("ckpt-*.index"):
        if match := re.fullmatch(r"ckpt-(\d+)", path.stem):
            found[int(match[1])] = str(path.with_suffix(""))
    return sorted(found.items(), reverse=True)


def keep_newest(folder, unreadable=()):
    """Name the newest checkpoints in TensorFlow's file `checkpoint`, then delete the older ones.

    Those whose iteration is in `unreadable` do not count, and stay until a newer one is saved. The
    index is deleted first: without it the rest is not a checkpoint.
    """
    found = list_checkpoints(folder)
    good = [(iteration, prefix) for iteration, prefix in found if iteration not in unreadable]
    names = [Path(prefix).name for _, prefix in good[:KEPT]]
    lines = [f'model_checkpoint_path: "{names[0]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in reversed(names)]
    write_atomically(Path(folder) / "checkpoint", "\n".join(lines) + "\n")
    for iteration, prefix in found:
        if iteration < good[0][0] and (iteration, prefix) not in good[:KEPT]:
            Path(f"{prefix}.index").unlink()
            for path in Path(folder).glob(f"{Path(prefix).name}.data-*"):
                path.unlink()


def remove_unfinished(folder):
    """Delete the files of checkpoints that were never completed."""
    for path in Path(folder).glob(f"ckpt-*{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_leftovers(folder):
    """Delete what a kill left: checkpoints that were never completed, and data without an index."""
    remove_unfinished(folder)
    for path in Path(folder).glob("ckpt-*.data-*"):
        if not path.with_suffix(".index").exists():
            path.unlink()
