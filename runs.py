"""The folder of a run: lock, configuration, log and list of checkpoints. Knows no TensorFlow."""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import config as flags
import settings
from dataset import Facts, folder_of
from errors import Failed, Refused

UNFINISHED = ".new"  # ends the names of a checkpoint's files until all of it is written


def check_folder(path, config):
    """Refuse a folder that cannot be made, listed or written, or that lies in the user's data."""
    path = there = Path(path)
    try:
        if there.resolve().is_relative_to(folder_of(config).resolve()):
            raise Refused(f"{path}: inside the data set {folder_of(config)}; choose another folder")
        while not there.exists():
            there = there.parent
    except (OSError, RuntimeError) as error:  # the latter for a link to itself
        reason = getattr(error, "strerror", None) or error
        raise Refused(f"{path}: {reason}; choose another folder") from None
    if not there.is_dir() or not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise Refused(f"{path}: cannot be written; choose another folder")
    return path


@contextlib.contextmanager
def claim(*folders):
    """Make the folders and hold a lock on each, so that no second training writes there.

    The lock is the kernel's, on `.lock`, and dies with the process. Gives the open files, by which
    `check_mine` recognises the folders. Raises Refused, with nothing left behind.
    """
    made, locks = [], []
    with contextlib.ExitStack() as stack:
        try:
            for folder in {Path(folder).resolve(): Path(folder) for folder in folders}.values():
                missing = [path for path in (folder, *folder.parents) if not path.exists()]
                for path in reversed(missing):
                    path.mkdir()
                    made.append(path)
                lock = folder / ".lock"
                with contextlib.suppress(FileExistsError):
                    lock.touch(exist_ok=False)
                    made.append(lock)
                locks.append(stack.enter_context(_locked(lock)))
        except (OSError, Refused) as error:
            for path in reversed(made):
                path.unlink() if path.is_file() else path.rmdir()
            if isinstance(error, Refused):
                raise
            where = error.filename or "the folder that the program runs in"
            raise Refused(f"{where}: {error.strerror}; choose another folder") from None
        yield locks


def check_mine(locks):
    """Notice that a claimed folder is gone, even where another training has made it again."""
    for lock in locks:
        folder = str(Path(lock.name).parent)
        try:
            same = os.path.samestat(os.stat(lock.name), os.fstat(lock.fileno()))
        except FileNotFoundError:
            same = False
        if not same:
            raise FileNotFoundError(errno.ENOENT, "the folder was deleted", folder)


@contextlib.contextmanager
def _locked(path):
    with open(path, "r+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = re.sub(r"\D", "", file.read()) or "unknown"
            raise Refused(
                f"{path.parent}: in use by another training, process {owner};"
                " wait for it or stop it"
            ) from None
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file


def write_atomically(path, text):
    """Replace a file in one step, so that a kill leaves the old or the new one."""
    temporary = Path(f"{path}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


# Configuration.


def write_config(path, config, facts, environment):
    """Write what a resolved run is: its settings, its data and where its bits were made."""
    content = {
        "settings": settings.kept(config),
        "data": dataclasses.asdict(facts),
        "environment": environment,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_config(path):
    """Read what `write_config` wrote: (settings, Facts, environment). Raises Refused."""
    try:
        content = json.loads(Path(path).read_text())
        facts = Facts(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in content["data"].items()}
        )
        stored = {
            name: None
            if value is None and name in settings.IDLE
            else flags.convert(flags.FLAGS[name], str(value))
            for name, value in content["settings"].items()
        }
        environment = content["environment"]
        if not isinstance(environment, dict) or [type(n) for n in facts.shape] != [int] * 3:
            raise TypeError("its environment or its data's shape is none")
        return stored, facts, environment
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Refused) as error:
        raise Refused(
            f"{path}: damaged ({error}); put the file back, or delete its folder to start again"
        ) from None


def read_run(folder):
    """Find what a run's folder holds: (config, Facts, source). Raises Refused.

    `source` is the newest checkpoint's prefix or, where there is none, the shipped generator.npz.
    """
    folder = Path(folder)
    checkpoints = list_checkpoints(folder)
    if checkpoints:
        described, source = folder / "config.json", checkpoints[0][1]
    else:
        described, source = folder / "generator.json", str(folder / "generator.npz")
    if not described.is_file():
        raise Refused(
            f"{folder}: no checkpoint with its configuration there; train first with --train True,"
            " or name the run with --dataset, --batch_size, --output_height, --output_width and"
            " --checkpoint_dir"
        )
    stored, facts, _ = read_config(described)
    return flags.Config(**stored), facts, source


def identity(config, facts):
    """Name what a run computes: equal for two runs that would leave the same pictures."""
    stored = {k: v for k, v in settings.kept(config).items() if k not in settings.FREE}
    text = json.dumps([stored, facts.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find(typed):
    """Find the run that the typed flags name and fit it to them, for all modes but training.

    Returns (config, facts, source) as `read_run`, today's wishes in the configuration. Raises
    Refused, also where a typed flag contradicts the run; seed is the pictures' and free.
    """
    wanted = flags.Config(**typed)
    stored, facts, source = read_run(wanted.run_dir)
    today = {name: getattr(wanted, name) for name in (*settings.TODAY, "seed")}
    config = settings.resolve(dataclasses.replace(stored, **typed | today), facts)
    names = [name for name in typed if name != "seed"]
    found = settings.differences(settings.kept(stored), config, names)
    if found:
        raise Refused(
            f"{wanted.run_dir}: {'; '.join(found)}; leave the flag out or name another run"
        )
    classes = len(facts.class_names) if config.conditional else 0
    if config.label is not None and config.label >= classes:
        known = (
            f"expected a class from 0 to {classes - 1}" if classes else "the run is unconditional"
        )
        raise Refused(f"--label {config.label}: {known}")
    return config, facts, source


def check_same(config, facts, folder):
    """Refuse to go on with a run of other settings or data; returns the run's environment."""
    stored, stored_facts, environment = read_config(folder / "config.json")
    definite = {n: f.default for n, f in flags.FLAGS.items() if f.default not in ("auto", None)}
    before = {n: v for n, v in definite.items() if n in settings.kept(config)}
    stored = before | stored  # a run from before a flag existed has its default
    found = settings.differences(stored, config, stored)
    found += changed_data(stored_facts, facts)
    if found:
        raise Refused(
            f"{folder} is another run: {'; '.join(found)}; use its values,"
            " delete that folder to start again, or choose another --checkpoint_dir"
        )
    return environment


def changed_data(stored, facts):
    """Say how the data of a run differ from what is there now: a phrase per difference."""
    if stored.fingerprint == facts.fingerprint:
        return []
    names = ("shape", "available", "held_out", "class_names")
    found = [
        f"its data's {name} was {getattr(stored, name)} and is {getattr(facts, name)}"
        for name in names
        if getattr(stored, name) != getattr(facts, name)
    ]
    if stored.pixels != facts.pixels:
        return [*found, "its images or labels are not those it was started with"]
    return [*found, "its images are the same, but their files have other names, sizes or settings"]


# Checkpoints.


def list_checkpoints(folder):
    """List a run's checkpoints as (state, prefix), newest first, whatever the state file says."""
    found = {}
    for path in Path(folder).glob("ckpt-*.index"):
        if match := re.fullmatch(r"ckpt-(\d+)", path.stem):
            found[int(match[1])] = str(path.with_suffix(""))
    return sorted(found.items(), reverse=True)


def keep_newest(folder, count):
    """Name the newest checkpoints in TensorFlow's state file, then delete the others.

    Of a checkpoint to be deleted the index goes first: without it, it is no checkpoint any more.
    """
    checkpoints = list_checkpoints(folder)
    names = [Path(prefix).name for _, prefix in checkpoints[:count]]
    lines = [f'model_checkpoint_path: "{names[0]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in reversed(names)]
    write_atomically(Path(folder) / "checkpoint", "\n".join(lines) + "\n")
    for _, prefix in checkpoints[count:]:
        Path(f"{prefix}.index").unlink()
        for path in Path(folder).glob(f"{Path(prefix).name}.data-*"):
            if path.suffix != ".damaged":
                path.unlink()


def remove_unfinished(folder):
    """Delete what there is of checkpoints that were being written."""
    for path in Path(folder).glob(f"ckpt-*{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_leftovers(folder):
    """Delete what a kill left of a checkpoint that was never finished, and refuse to go on blindly.

    Data without their index are such a leftover, unless they were once finished: then the index was
    lost, and they are set aside. Raises Failed where there are damaged checkpoints and no good one.
    """
    folder = Path(folder)
    remove_unfinished(folder)
    finished = finished_checkpoints(folder)
    for path in folder.glob("ckpt-*.data-*"):
        if path.name.endswith(".damaged") or path.with_suffix(".index").exists():
            continue
        if path.stem in finished:
            set_aside(str(path.with_suffix("")))
            print(f"{path.with_suffix('')} is damaged (it has no index): renamed to *.damaged")
        else:
            path.unlink()
    if not list_checkpoints(folder) and list(folder.glob("ckpt-*.damaged")):
        raise Failed(f"{folder}: all checkpoints there are damaged; delete it to start anew")


def finished_checkpoints(folder):
    """Name the checkpoints in a folder that were once whole: those in TensorFlow's state file.

    Where it names none, all; without that file, too, but then a single one may be the first, killed
    before the file was written.
    """
    found = {path.stem for path in folder.glob("ckpt-*.data-*")}
    try:
        text = (folder / "checkpoint").read_text(errors="replace")
    except FileNotFoundError:
        return found if len(found) > 1 else set()
    return set(re.findall(r"ckpt-\d+", text)) or found


def set_aside(prefix):
    """Rename the files of a damaged checkpoint to <name>.damaged, so that it is none any more."""
    for path in Path(prefix).parent.glob(f"{Path(prefix).name}.*"):
        path.rename(f"{path}.damaged")


def free_bytes(folder):
    """Say how many bytes are free where `folder` is, or would be."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
