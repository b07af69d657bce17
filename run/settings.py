"""What the flags of a run resolve to for its data, and what follows from that.

Knows no files and no model.
"""

import dataclasses
import hashlib
import json

from config import FLAGS, check
from pairs import find_pair
from system.errors import Refused
from system.flags import FIXED, FREE

# What `auto` means in each mode; what it means for a pair of networks is in pairs.PAIRS.
AUTO = {
    "optimizer": {"gp": "adam", "regular": "rmsprop"},
    "critic_boost": {"gp": 0, "regular": 25},
}
MOST_CLASSES = 100


def resolve(flags, facts):
    """Return a Config in which every `auto` is decided and what has no effect is None.

    `facts` (datasets.dataset.Facts) describe the data. A resolved Config stays as it is. Raises
    Refused where a value is wrong or does not fit the data.
    """
    check(flags)
    train_size = int(min(flags.train_size, facts.available))
    if train_size < flags.batch_size:
        raise Refused(
            f"--batch_size {flags.batch_size}: larger than the {train_size} training images of"
            f" '{flags.dataset}' ({facts.held_out} more are held out, at least 16 of a folder)"
        )
    pair = find_pair(flags.arch, facts.shape)
    conditional = is_conditional(flags, pair, len(facts.class_names))
    auto = {name: by_mode[flags.mode] for name, by_mode in AUTO.items()} | {
        "latents": pair.latents,
        "critic_norm": pair.critic_norm[flags.mode],
        "condition": pair.conditions[0] if conditional else None,
    }
    config = dataclasses.replace(
        flags,
        train_size=train_size,
        input_width=flags.input_width or flags.input_height,
        output_width=flags.output_width or flags.output_height,
        conditional=conditional,
        z_dim=flags.z_dim or pair.z_dim,
        **{name: value for name, value in auto.items() if getattr(flags, name) == "auto"},
    )
    values = vars(config) | {"image_files": facts.image_files, "images": len(facts.shape) == 3}
    idle = [
        name
        for name, field in FLAGS.items()
        if (needs := field.metadata["only_if"]) and values[needs[0]] != needs[1]
    ]
    return dataclasses.replace(config, **dict.fromkeys(idle))


def is_conditional(flags, pair, classes):
    """Return whether the networks of a Pair see labels.

    Raises Refused where they cannot, or not in the way that --condition asks for.
    """
    if flags.conditional == "auto":
        conditional = classes > 0 and pair.conditional
    else:
        conditional = flags.conditional
    if conditional and not classes:
        raise Refused(f"--conditional True: data set '{flags.dataset}' has no labels")
    if conditional and classes > MOST_CLASSES:
        raise Refused(
            f"data set '{flags.dataset}' has {classes} classes, at most {MOST_CLASSES} are"
            " supported: use --conditional False"
        )
    if conditional and not pair.conditions:
        raise Refused(f"--conditional True: --arch {flags.arch} takes no labels; leave it out")
    if conditional and flags.condition not in (None, "auto", *pair.conditions):
        raise Refused(
            f"--condition {flags.condition}: not with --arch {flags.arch}; use"
            f" {' or '.join(pair.conditions)}, or leave it at auto"
        )
    return conditional


def kept(config, lifetimes=(FIXED, FREE)):
    """Return the settings of a resolved run that config.json keeps, by name."""
    return {
        name: getattr(config, name)
        for name, field in FLAGS.items()
        if field.metadata["lifetime"] in lifetimes
    }


def steps_per_epoch(config):
    """Count the generator iterations of an epoch."""
    return config.train_size // config.batch_size


def last_iteration(config):
    """Return the iteration at which a run ends."""
    end = config.epoch * steps_per_epoch(config)
    return end if config.max_iterations is None else min(end, config.max_iterations)


def check_decay(config):
    """Refuse a run whose step size would be 0 before its end."""
    end = last_iteration(config)
    if config.decay_iterations and end > config.decay_iterations:
        raise Refused(
            f"--decay_iterations {config.decay_iterations}: the run ends at iteration {end}, beyond"
            " it; give it a smaller --max_iterations, or a new run a larger --decay_iterations"
        )


def identity(config, facts):
    """Return a digest of what a run computes: equal digests mean equal pictures.

    A flag at the value that it had before it existed is left out, so older runs keep their digest.
    """
    stored = {
        name: value
        for name, value in kept(config, (FIXED,)).items()
        if "before" not in FLAGS[name].metadata
        or value not in (FLAGS[name].metadata["before"], None)
    }
    text = json.dumps([stored, facts.fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
