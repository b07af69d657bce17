"""A run's description on disk: its settings, its data, and the environment that it trains in.

config.json holds it in a run's folder, generator.json beside a shipped generator. Knows no model.
"""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

from config import FLAGS, Config
from datasets.dataset import Facts
from run.checkpoints import list_checkpoints
from run.folders import check_readable, regular, write_atomically
from run.outside import check_names, check_type, read_facts
from run.settings import check_decay, kept, resolve
from system.errors import Refused
from system.flags import COMMAND, FIXED, convert

COUNTS = "threads", "replicas", "arithmetic"  # the numbers in an environment
MOVED = "{}: its images are the same, but come from other files: it goes on"
NO_RUN = (
    "{}: no checkpoint with its configuration there; train first with --train True, or name the run"
    " with --dataset, --batch_size, --output_height, --output_width and --checkpoint_dir"
)


class Run(NamedTuple):
    """What a run is, and the checkpoints in its folder."""

    folder: Path
    config: Config  # resolved
    facts: Facts
    environment: dict  # in which it was trained last, {} if it starts from scratch
    checkpoints: list  # (iteration, prefix), newest first; [] if it has a shipped generator alone


def write_config(path, config, facts, environment):
    """Write a run's resolved settings, its data and the environment that it trains in."""
    content = {
        "settings": kept(config),
        "data": dataclasses.asdict(facts),
        "environment": environment,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_config(path):
    """Read what `write_config` wrote: (Config, Facts, environment). Raises Refused.

    The file may come from another program, so every value is checked as on a command line.
    """
    try:
        content = json.loads(regular(path).read_text())
        parts = ("settings", "data", "environment")
        check_names("content", content, parts)
        if missing := [name for name in parts if name not in content]:
            raise ValueError(f"{missing[0]} is missing")
        facts = read_facts(content["data"])
        environment = content["environment"]
        check_names("environment", environment, environment)
        for name, value in environment.items():
            check_type(f"environment's {name}", value, int if name in COUNTS else str)
        return read_settings(content["settings"], facts), facts, environment
    except (OSError, ValueError, RecursionError, Refused) as error:
        raise Refused(
            f"{path}: damaged ({error}); put the file back, or delete its folder to start again"
        ) from None


def read_settings(stored, facts):
    """Return the resolved Config of stored settings. Raises ValueError or Refused for others.

    Stored settings are resolved, so resolving them again must not change them. A flag that is
    younger than the run has its `before` value.
    """
    names = kept(Config())
    check_names("settings", stored, names)
    stored = {n: before(n, stored) for n in names if "before" in FLAGS[n].metadata} | stored
    if missing := [name for name in names if name not in stored]:
        raise ValueError(f"its settings lack {missing[0]}")
    given = {
        name: convert(FLAGS[name], str(value))
        for name, value in stored.items()
        if value is not None or not FLAGS[name].metadata["only_if"]
    }
    config = resolve(Config(**given), facts)
    for name, value in kept(config).items():
        if type(value) is not type(stored[name]) or value != stored[name]:
            raise ValueError(f"its {name} is {stored[name]!r:.50}")
    if facts.shape[:2] != config.output_size or facts.shape[2] not in (1, 3):
        raise ValueError(f"its data's shape is {facts.shape}")
    return config


def before(name, stored):
    """Return the value of a flag that is younger than stored settings."""
    limits = FLAGS[name].metadata
    needs = limits["only_if"]
    return limits["before"] if not needs or stored.get(needs[0]) == needs[1] else None


# Runs.


def read_run(folder):
    """Return the Run in a folder. Raises Refused without one or where its files are damaged."""
    check_readable(folder)
    folder = Path(folder)
    saved = list_checkpoints(folder)
    described = folder / ("config.json" if saved else "generator.json")
    if not saved and not described.exists():
        raise Refused(NO_RUN.format(folder))
    return Run(folder, *read_config(described), saved)


def find(flags):
    """Return the Run that a Config of flags names, with its values for this command.

    For all commands but training. Raises Refused, also where a typed flag contradicts the run; the
    seed is that of the pictures.
    """
    run = read_run(flags.run_dir)
    if run.config.run_name != run.folder.absolute().name:
        raise Refused(
            f"{run.folder}: holds the run {run.config.run_name}; give the folder that name back"
        )
    config = dataclasses.replace(run.config, **flags.given | kept(flags, (COMMAND,)))
    config = resolve(config, run.facts)
    if found := differences(run.config, config, [name for name in flags.typed if name != "seed"]):
        raise Refused(f"{run.folder}: {'; '.join(found)}; leave the flag out or name another run")
    check_label(config.label, len(run.facts.class_names) if config.conditional else 0)
    return run._replace(config=dataclasses.replace(config, seed=flags.seed))


def check_label(label, classes):
    """Refuse a --label that a generator of so many classes (0: unconditional) cannot draw."""
    if label is None or label < classes:
        return
    if not classes:
        raise Refused(f"--label {label}: the run is unconditional; leave the flag out")
    raise Refused(f"--label {label}: expected a class from 0 to {classes - 1}")


def to_train(flags, facts):
    """Return the Run that flags describe for the data: a new one, or the one in its folder.

    Raises Refused where the checkpoints in its folder are of other settings or other data.
    """
    config = resolve(flags, facts)
    check_decay(config)
    folder = Path(config.run_dir)
    if not list_checkpoints(folder):
        return Run(folder, config, facts, {}, [])
    return go_on(read_run(folder), config, facts)


def go_on(run, config, facts):
    """Return the Run with the config and facts of this start.

    If its images are the same but lie in other files, the run keeps its own description of them.
    Raises Refused if the config or the data are those of another run.
    """
    moved = is_moved(run.facts, facts)
    if moved or not facts.fingerprint:  # a dry run does not know yet whether they are the same
        pattern = run.config.input_fname_pattern
        config = dataclasses.replace(config, input_fname_pattern=pattern)
    if moved:
        facts = run.facts
    if found := differences(run.config, config, FLAGS) + changed_data(run.facts, facts):
        raise Refused(
            f"{run.folder} is another run: {'; '.join(found)}; use its values,"
            " delete that folder to start again, or choose another --checkpoint_dir"
        )
    if moved:
        print(MOVED.format(run.folder))
    return run._replace(config=config, facts=facts)


def check_same_data(stored, facts, folder):
    """Refuse to score a run against other images than its own; both are Facts."""
    if is_moved(stored, facts):
        print(MOVED.format(folder))
    elif found := changed_data(stored, facts):
        raise Refused(f"{folder}: {'; '.join(found)}; evaluate with the data of the run")


def differences(stored, config, names):
    """Compare two resolved Configs: list in words each of `names` that differs."""
    before, now = kept(stored, (FIXED,)), kept(config, (FIXED,))
    return [
        f"{name} is {before[name]} in the run and {now[name]} here"
        for name in names
        if name in now and now[name] != before[name]
    ]


def is_moved(stored, facts):
    """Return whether the images are those of a run but lie in other files."""
    if stored.pixels != facts.pixels or stored.fingerprint == facts.fingerprint:
        return False
    expected = dataclasses.replace(stored, fingerprint=facts.fingerprint)
    return dataclasses.replace(facts, image_files=stored.image_files) == expected


def changed_data(stored, facts):
    """Compare the data of a run with the data found now: list each difference in words.

    A dry run may not have read the images yet; then there is no fingerprint and nothing to compare.
    """
    if facts.fingerprint in (stored.fingerprint, ""):
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
