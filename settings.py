"""What the flags come to for given data, what of it a run keeps, and what may change later."""

import dataclasses

from config import ACTIONS, FLAGS
from errors import Refused

# Nothing that these say changes what a run computes, so they may differ each time it goes on.
FREE = (
    *("epoch", "max_iterations", "sample_every", "save_every", "log_every"),
    *("data_dir", "cache_dir", "checkpoint_dir", "sample_dir"),
)
# Their values have no effect in some runs and are None there.
IDLE = (
    *("input_fname_pattern", "input_height", "input_width", "beta1", "beta2"),
    *("clip_up", "clip_down", "LAMBDA"),
)
# What is asked of the program today, as opposed to what the run is; no part of config.json.
TODAY = (
    *(*ACTIONS, "visualize", "label", "dry_run", "evaluate_images", "feature_weights"),
    "distribute",
    *("data_dir", "cache_dir", "checkpoint_dir", "sample_dir"),
)
# What `auto` comes to, by mode. Why the small pair is an exception the README's results say.
AUTO = {
    "optimizer": {"gp": "adam", "regular": "rmsprop"},
    "critic_boost": {"gp": 0, "regular": 25},
    "critic_norm": {"gp": "none", "regular": "batch"},
}
SMALL_PAIR_NORM = {"gp": "layer", "regular": "batch"}


def pair(arch, shape):
    """Name the pair of networks for images of `shape` (height, width, channels).

    `dcgan` means the small pair for images of one channel and at most 32x32, else the general one.
    """
    height, width, channels = shape
    if arch == "dcgan":
        return "small" if channels == 1 and max(height, width) <= 32 else "general"
    return arch


def auto(networks):
    """Say what `auto` comes to for a pair of networks: {flag: {mode: value}}."""
    return AUTO | {"critic_norm": SMALL_PAIR_NORM} if networks == "small" else AUTO


def resolve(config, facts):
    """Decide every `auto` and default that depends on the data, and set what has no effect to None.

    `facts` is a dataset.Facts. Raises Refused where the flags do not fit the data.
    """
    gp = config.mode == "gp"
    classes = len(facts.class_names)
    conditional = config.conditional
    if conditional == "auto":
        conditional = classes > 0 and config.arch == "dcgan"
    if conditional and not classes:
        raise Refused(f"--conditional True: data set '{config.dataset}' has no labels")
    if conditional and classes > 100:
        raise Refused(
            f"data set '{config.dataset}' has {classes} classes, at most 100 are supported:"
            " use --conditional False"
        )
    decided = {
        name: by_mode[config.mode] if getattr(config, name) == "auto" else getattr(config, name)
        for name, by_mode in auto(pair(config.arch, facts.shape)).items()
    }
    adam = decided["optimizer"] == "adam"
    return dataclasses.replace(
        config,
        train_size=int(min(config.train_size, facts.available)),
        input_fname_pattern=config.input_fname_pattern if facts.image_files else None,
        input_height=config.input_height if config.crop else None,
        input_width=(config.input_width or config.input_height) if config.crop else None,
        output_width=config.output_width or config.output_height,
        conditional=conditional,
        **decided,
        z_dim=config.z_dim or (100 if config.arch == "dcgan" else 10),
        beta1=config.beta1 if adam else None,
        beta2=config.beta2 if adam else None,
        clip_up=None if gp else config.clip_up,
        clip_down=None if gp else config.clip_down,
        LAMBDA=config.LAMBDA if gp else None,
    )


def kept(config):
    """List what makes a resolved run what it is, as config.json keeps it."""
    return {name: getattr(config, name) for name in FLAGS if name not in TODAY}


def differences(stored, config, names):
    """Compare a resolved config with stored settings: a phrase per difference in `names`."""
    return [
        f"{name} is {stored.get(name)} in the run and {getattr(config, name)} here"
        for name in names
        if name in stored and name not in FREE and stored[name] != getattr(config, name)
    ]


def steps_per_epoch(config):
    """Count the generator iterations of an epoch."""
    return config.train_size // config.batch_size


def last_state(config):
    """Say at which state a run ends."""
    end = config.epoch * steps_per_epoch(config)
    return end if config.max_iterations is None else min(end, config.max_iterations)
