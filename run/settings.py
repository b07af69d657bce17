"""What the given flags come to for given data, and the files in which a run keeps that.

A run's config.json holds the settings that make it, its data and where its bits were made;
generator.json holds the same beside a shipped generator. Knows no model.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

from config import FLAGS, FREE, IDENTITY, TODAY, Config, check, convert, pair
from run.checkpoints import list_checkpoints
from run.folders import check_readable, regular, write_atomically
from run.outside import check_kind, check_names, read_facts
from system.errors import Refused

# What `auto` comes to, by mode. Why the small pair is an exception docs/results.md says.
AUTO = {
    "optimizer": {"gp": "adam", "regular": "rmsprop"},
    "critic_boost": {"gp": 0, "regular": 25},
    "critic_norm": {"gp": "none", "regular": "batch"},
}
SMALL_PAIR_NORM = {"gp": "layer", "regular": "batch"}
Z_DIM = {"dcgan": 100, "symmetric": 10, "resnet": 128}
COUNTS = "threads", "replicas", "arithmetic"  # what is a number in a run's environment
MOVED = "{}: its images are the same, but come from other files: it goes on"
NO_RUN = (
    "{}: no checkpoint with its configuration there; train first with --train True, or name the run"
    " with --dataset, --batch_size, --output_height, --output_width and --checkpoint_dir"
)


def resolve(flags, facts):
    """Return a Config in which every `auto` is decided and what has no effect is None.

    `facts` (datasets.dataset.Facts) are those of the data. Raises Refused where the flags do not
    fit the data.
    """
    train_size = int(min(flags.train_size, facts.available))
    if train_size < flags.batch_size:
        raise Refused(
            f"--batch_size {flags.batch_size}: larger than the {train_size} training images of"
            f" '{flags.dataset}' ({facts.held_out} more are held out, at least 16 of a folder)"
        )
    auto = AUTO
    if pair(flags.arch, facts.shape) == "small":
        auto = AUTO | {"critic_norm": SMALL_PAIR_NORM}
    decided = {n: by[flags.mode] for n, by in auto.items() if getattr(flags, n) == "auto"}
    resnet = flags.arch == "resnet"
    if flags.latents == "auto":
        decided["latents"] = "normal" if resnet else "uniform"
    if flags.condition == "auto":
        decided["condition"] = "projection" if resnet else "concat"
    config = dataclasses.replace(
        flags,
        train_size=train_size,
        input_width=flags.input_width or flags.input_height,
        output_width=flags.output_width or flags.output_height,
        conditional=is_conditional(flags, len(facts.class_names)),
        z_dim=flags.z_dim or Z_DIM[flags.arch],
        **decided,
    )
    known = vars(config) | {"image_files": facts.image_files}
    idle = [
        name
        for name, field in FLAGS.items()
        if (needs := field.metadata["only_if"]) and known[needs[0]] != needs[1]
    ]
    return dataclasses.replace(config, **dict.fromkeys(idle))


def is_conditional(flags, classes):
    """Return whether the networks see labels. Raises Refused where they cannot."""
    conditional = flags.conditional
    if conditional == "auto":
        conditional = classes > 0 and flags.arch != "symmetric"
    if conditional and not classes:
        raise Refused(f"--conditional True: data set '{flags.dataset}' has no labels")
    if conditional and classes > 100:
        raise Refused(
            f"data set '{flags.dataset}' has {classes} classes, at most 100 are supported:"
            " use --conditional False"
        )
    return conditional


def kept(config, kinds=(IDENTITY, FREE)):
    """Return the settings of a resolved run that config.json keeps, by name."""
    return {n: getattr(config, n) for n, field in FLAGS.items() if field.metadata["kind"] in kinds}


def steps_per_epoch(config):
    """Count the generator iterations of an epoch."""
    return config.train_size // config.batch_size


def last_state(config):
    """Return the state at which a run ends."""
    end = config.epoch * steps_per_epoch(config)
    return end if config.max_iterations is None else min(end, config.max_iterations)


def check_decay(config):
    """Refuse a run whose step size would be 0 before its end."""
    end = last_state(config)
    if config.decay_iterations and end > config.decay_iterations:
        raise Refused(
            f"--decay_iterations {config.decay_iterations}: the run ends at iteration {end}, beyond"
            " it; give it a smaller --max_iterations, or a new run a larger --decay_iterations"
        )


# Files.


def write_config(path, config, facts, environment):
    """Write what a resolved run is: its settings, its data and where its bits were made."""
    content = {
        "settings": kept(config),
        "data": dataclasses.asdict(facts),
        "environment": environment,
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def read_config(path):
    """Read what `write_config` wrote: (Config, Facts, environment). Raises Refused.

    The file may come from outside. It is held to what the command line is held to.
    """
    try:
        content = json.loads(regular(path).read_text())
        parts = ("settings", "data", "environment")
        check_names("content", content, parts)
        if missing := [name for name in parts if name not in content]:
            raise ValueError(f"it lacks {missing[0]}")
        facts = read_facts(content["data"])
        environment = content["environment"]
        check_names("environment", environment, environment)
        for name, value in environment.items():
            check_kind(f"environment's {name}", value, int if name in COUNTS else str)
        return read_settings(content["settings"], facts), facts, environment
    except (OSError, ValueError, RecursionError, Refused) as error:
        raise Refused(
            f"{path}: damaged ({error}); put the file back, or delete its folder to start again"
        ) from None


def read_settings(stored, facts):
    """Return the resolved Config of stored settings. Raises ValueError or Refused for others.

    Settings of a run were resolved, so to resolve them again must leave them as they are. A flag
    that is younger than the run has the value that the program had before it.
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
    flags = Config(**given)
    check(flags)
    config = resolve(flags, facts)
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
    """Return what a run's folder holds: (Config, Facts, source). Raises Refused.

    `source` is the newest checkpoint's prefix or, where there is none, the shipped generator.npz.
    """
    check_readable(folder)
    folder = Path(folder)
    if saved := list_checkpoints(folder):
        described, source = folder / "config.json", saved[0][1]
    else:
        described, source = folder / "generator.json", str(folder / "generator.npz")
    if not described.exists():
        raise Refused(NO_RUN.format(folder))
    config, facts, _ = read_config(described)
    if config.run_name != folder.absolute().name:
        raise Refused(f"{folder}: holds the run {config.run_name}; give the folder that name back")
    return config, facts, source


def find(given):
    """Find the run that the given flags name, for all commands but training.

    Returns (config, facts, source) as `read_run`, with what is asked for today in the Config.
    Raises Refused, also where a given flag contradicts the run; seed is the pictures' and free.
    """
    flags = Config(**given)
    stored, facts, source = read_run(flags.run_dir)
    config = resolve(dataclasses.replace(stored, **given | kept(flags, (TODAY,))), facts)
    found = differences(stored, config, [name for name in given if name != "seed"])
    if found:
        raise Refused(
            f"{flags.run_dir}: {'; '.join(found)}; leave the flag out or name another run"
        )
    config = dataclasses.replace(config, seed=flags.seed)
    classes = len(facts.class_names) if config.conditional else 0
    if config.label is not None and config.label >= classes:
        known = (
            f"expected a class from 0 to {classes - 1}"
            if classes
            else "the run is unconditional; leave the flag out"
        )
        raise Refused(f"--label {config.label}: {known}")
    return config, facts, source


def check_same(config, facts, folder):
    """Refuse to go on with a run of other settings or data: (config, facts, environment) of it.

    Where its images are the same but come from elsewhere, it keeps what it knows of their files.
    """
    stored, stored_facts, environment = read_config(Path(folder) / "config.json")
    moved = is_moved(stored_facts, facts)
    if moved or not facts.fingerprint:  # a dry run does not know yet whether they are the same
        config = dataclasses.replace(config, input_fname_pattern=stored.input_fname_pattern)
    if moved:
        facts = stored_facts
    found = differences(stored, config, FLAGS) + changed_data(stored_facts, facts)
    if found:
        raise Refused(
            f"{folder} is another run: {'; '.join(found)}; use its values,"
            " delete that folder to start again, or choose another --checkpoint_dir"
        )
    if moved:
        print(MOVED.format(folder))
    return config, facts, environment


def check_same_data(stored, facts, folder):
    """Refuse to score a run against other images than its own; both are Facts."""
    if is_moved(stored, facts):
        print(MOVED.format(folder))
    elif found := changed_data(stored, facts):
        raise Refused(f"{folder}: {'; '.join(found)}; evaluate with the data of the run")


def differences(stored, config, names):
    """Compare two resolved Configs: a phrase for each of `names` in which the runs differ."""
    before, now = kept(stored, (IDENTITY,)), kept(config, (IDENTITY,))
    return [
        f"{name} is {before[name]} in the run and {now[name]} here"
        for name in names
        if name in now and now[name] != before[name]
    ]


def is_moved(stored, facts):
    """Return whether the images are a run's, but not their files."""
    if stored.pixels != facts.pixels or stored.fingerprint == facts.fingerprint:
        return False
    known = dataclasses.replace(stored, fingerprint=facts.fingerprint)
    return dataclasses.replace(facts, image_files=stored.image_files) == known


def changed_data(stored, facts):
    """Compare the data of a run with what is there now: a phrase per difference.

    Without a fingerprint, as by a dry run, the images are not known yet and not compared.
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


def identity(config, facts):
    """Return a name of what a run computes, equal for two that would leave the same pictures.

    What the program did before a flag existed does not count, so that it knows its older runs.
    """
    stored = {
        name: value
        for name, value in kept(config, (IDENTITY,)).items()
        if "before" not in FLAGS[name].metadata
        or value not in (FLAGS[name].metadata["before"], None)
    }
    text = json.dumps([stored, facts.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
