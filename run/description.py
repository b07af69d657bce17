"""A run's description on disk: its settings, its data, and the environment that it trains in.

config.json holds it in a run's folder, generator.json beside a shipped generator. Knows no model.
"""

import dataclasses
import json
import typing
from pathlib import Path
from typing import NamedTuple

from config import FLAGS, WHOLE_MAX, Config
from datasets.dataset import Facts
from run.checkpoints import list_checkpoints
from run.folders import check_readable, regular, write_atomically
from run.settings import check_decay, kept, resolve
from system.errors import Refused
from system.flags import COMMAND, FIXED, convert

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

    The file may come from another program, so every setting is checked as on a command line, and
    every fact of the data, too. The environment is only compared and printed.
    """
    try:
        parts = "settings", "data", "environment"
        content = check_names("content", json.loads(regular(path).read_text()), parts)
        settings, data, environment = (content.get(part) for part in parts)
        facts = read_facts(data)
        check_names("environment", environment, environment)
        return read_settings(settings, facts), facts, environment
    except (OSError, ValueError, RecursionError, Refused) as error:
        raise Refused(
            f"{path}: damaged ({error}); put the file back, or delete its folder to start again"
        ) from None


def read_settings(stored, facts):
    """Return the resolved Config of stored settings. Raises ValueError or Refused for others.

    Stored settings are resolved, so resolving them again must not change them. A run that is older
    than a flag has the flag's `before` value.
    """
    names = kept(Config())
    check_names("settings", stored, names)
    fields = {name: FLAGS[name] for name in names}
    older = {
        name: field.metadata["before"]
        for name, field in fields.items()
        if "before" in field.metadata and name not in stored
    }
    given = {
        name: convert(fields[name], str(value))
        for name, value in stored.items()
        if value is not None or not fields[name].metadata["only_if"]
    }
    config = resolve(Config(**older | given), facts)
    for name in names.keys() - older:
        if getattr(config, name) != stored.get(name):
            raise ValueError(f"its {name} is {stored.get(name)!r:.50}")
    if facts.shape[:-1] != config.output_size:
        raise ValueError(f"its data's shape is {facts.shape}")
    return config


def read_facts(stored):
    """Return the stored Facts of a data set. Raises ValueError for others."""
    fields = {field.name: field.type for field in dataclasses.fields(Facts)}
    check_names("data", stored, fields)
    for name, wanted in fields.items():
        if not is_of_type(stored.get(name), wanted):
            raise ValueError(f"its data's {name} is {stored.get(name)!r:.50}")
    facts = Facts(**{n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()})
    names, counts = facts.class_names, facts.label_counts
    of_points = facts.shape == (2,)
    if not (of_points or len(facts.shape) == 3) or not len(set(names)) == len(names) == len(counts):
        raise ValueError("its data's shape, class_names and label_counts do not fit together")
    if bool(sum(counts)) != bool(names):
        raise ValueError(f"its data's label_counts are {counts!r:.50}")
    return facts


def is_of_type(value, wanted):
    """Return whether a value from JSON is a str, a bool, a whole number or a list of them."""
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return isinstance(value, list) and all(is_of_type(x, item) for x in value)
    return type(value) is wanted and (wanted is not int or 0 <= value <= WHOLE_MAX)


def check_names(what, table, names):
    """Return a table from JSON. Raises ValueError for none, and for one with other names."""
    if not isinstance(table, dict):
        raise ValueError(f"its {what} is not a table of names and values")
    for name in table:
        if name not in names:
            raise ValueError(f"its {what} has {name!r:.50}, which a later version may know")
    return table


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
    changed = changed_data(run.facts, facts)
    if not changed:
        pattern = run.config.input_fname_pattern
        config = dataclasses.replace(config, input_fname_pattern=pattern)
    if found := differences(run.config, config, FLAGS) + changed:
        raise Refused(
            f"{run.folder} is another run: {'; '.join(found)}; use its values,"
            " delete that folder to start again, or choose another --checkpoint_dir"
        )
    if facts.fingerprint not in (run.facts.fingerprint, ""):
        print(f"{run.folder}: its images are the same, but come from other files: it goes on")
    return run._replace(config=config)


def differences(stored, config, names):
    """Compare two resolved Configs: list in words each of `names` that differs."""
    before, now = kept(stored, (FIXED,)), kept(config, (FIXED,))
    return [
        f"{name} is {before[name]} in the run and {now[name]} here"
        for name in names
        if name in now and now[name] != before[name]
    ]


def changed_data(stored, facts):
    """Compare the images of a run with those found now: list each difference in words.

    A dry run may not have read the images yet. Then there is no fingerprint to compare.
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
        found.append("its images or labels are not those it was started with")
    return found
