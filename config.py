"""The flag table: name, default, range, unit and help of every flag, and the Config that they fill.

Reads no files and imports nothing heavy, so that `--help` answers at once.
"""

import argparse
import dataclasses
import difflib
import math
import os
import re
import typing
from dataclasses import dataclass

from system.errors import Refused
from system.screen import printable

RUN, DATA, ALGORITHM, NETWORKS, FILES, MODES = (
    "length and rhythm of a run",
    "data",
    "algorithm",
    "networks",
    "folders",
    "what to do (the default is test mode: pictures of the trained generator)",
)


# What a flag is to a run: it makes the run what it is, so it must stay; it may differ each time the
# run goes on; or it says what is asked of the program today, and config.json does not keep it.
IDENTITY, FREE, TODAY = "identity", "free", "today"
WHOLE_MAX = 2**31 - 1  # larger than any whole number that makes sense


def flag(default, group, text, kind=IDENTITY, only_if=None, choices=(), **more):
    """Declare a flag.

    `only_if` names a flag, or a fact of the data, and the value without which this one has no
    effect. `choices` are the words accepted. `more`: the bounds `low` and `high` are inclusive,
    `above` is not; `before` is the value of runs from before the flag existed.
    """
    about = {"group": group, "help": text, "kind": kind, "only_if": only_if, "choices": choices}
    return dataclasses.field(default=default, metadata=about | more)


@dataclass(frozen=True)
class Config:
    """One value per flag. After `resolve` there is no `auto` left, and what has no effect is None."""

    # fmt: off
    train: bool = flag(False, MODES, "train, from scratch or on from the newest good checkpoint", kind=TODAY)
    generate: int = flag(0, MODES, "write this many single pictures into <sample_dir>/generated", kind=TODAY, low=0)
    evaluate: bool = flag(False, MODES, "score the generator against real images: a table, and scores.json in the run's folder", kind=TODAY)
    evaluate_images: int = flag(10000, MODES, "with --evaluate: how many pictures to score, at least as many as there are features, 128 by a classifier and 2048 by InceptionV3; Frechet distance, precision and recall are of the first 10000", kind=TODAY, low=128)
    feature_weights: str | None = flag(None, MODES, "with --evaluate: a file of InceptionV3's weights without its top, to score with that network (None: a classifier of the labels; without labels, InceptionV3's are downloaded)", kind=TODAY)
    export: str | None = flag(None, MODES, "write the averaged generator for other programs into export/ in the run's folder, see docs/export.md", kind=TODAY, choices=("savedmodel", "onnx", "tflite"))
    gif: bool = flag(False, MODES, "build training.gif again from the train_*.png in sample_dir", kind=TODAY)
    visualize: bool = flag(False, MODES, "in test mode, also sweep every latent dimension from -1 to 1 (normal latents: -2 to 2), and write explore.html", kind=TODAY)
    label: int | None = flag(None, MODES, "with --generate: the class of every picture, counted from 0", kind=TODAY, low=0)
    dry_run: bool = flag(False, MODES, "print what would be done, and for a training disk and time to expect; change nothing", kind=TODAY)

    dataset: str = flag("mnist", DATA, "name of the data set: mnist, fashion_mnist, cifar10, or a folder or zip archive of images in data_dir")
    data_dir: str = flag("data", DATA, "folder that holds the data sets", kind=TODAY)
    cache_dir: str | None = flag(None, DATA, "folder for converted images (None: .cache in data_dir)", kind=TODAY)
    input_fname_pattern: str = flag("*.jpg", DATA, "glob pattern of the image files in a folder or zip archive", only_if=("image_files", True))
    train_size: int | float = flag(math.inf, DATA, "training images to use at most", low=1)
    crop: bool = flag(False, DATA, "cut the centre input_height x input_width out of each image before resizing it")
    input_height: int = flag(28, DATA, "height of the centre crop, pixels", only_if=("crop", True), low=1)
    input_width: int | None = flag(None, DATA, "width of the centre crop, pixels (None: input_height)", only_if=("crop", True), low=1)
    output_height: int = flag(28, DATA, "height of the images to train on and to make, pixels", low=4, high=1024)
    output_width: int | None = flag(None, DATA, "their width, pixels (None: output_height)", low=4, high=1024)
    mirror: bool = flag(False, DATA, "flip each training image left to right with probability one half; not for digits or letters", before=False)

    epoch: int = flag(25, RUN, "how long to train: an epoch is N // batch_size generator iterations", kind=FREE, low=1)
    max_iterations: int | None = flag(None, RUN, "stop at this generator iteration of the run", kind=FREE, low=1)
    batch_size: int = flag(64, RUN, "images per update", low=1)
    sample_every: int = flag(200, RUN, "iterations between two grids of pictures", kind=FREE, low=1)
    save_every: int = flag(400, RUN, "iterations between two checkpoints", kind=FREE, low=1)
    log_every: int = flag(50, RUN, "iterations between two rows of the log", kind=FREE, low=1)
    seed: int = flag(0, RUN, "seed of all random numbers of a run; in other modes, of the pictures", low=0, high=WHOLE_MAX)

    mode: str = flag("gp", ALGORITHM, "how the critic is kept Lipschitz: weight clipping or gradient penalty", choices=("regular", "gp"))
    critic_num: int = flag(5, ALGORITHM, "critic updates per generator update", low=1)
    critic_boost: int | str = flag("auto", ALGORITHM, "critic updates in the first 10 iterations and every 200th; 0 = critic_num (auto: 25 in regular, 0 in gp)", low=0, choices=("auto",))
    clip_up: float = flag(0.01, ALGORITHM, "upper bound of the critic's weights, in regular", only_if=("mode", "regular"))
    clip_down: float = flag(-0.01, ALGORITHM, "lower bound of the critic's weights, in regular", only_if=("mode", "regular"))
    LAMBDA: float = flag(10.0, ALGORITHM, "weight of the gradient penalty, in gp", only_if=("mode", "gp"), low=0)
    optimizer: str = flag("auto", ALGORITHM, "auto: adam in gp, rmsprop in regular", choices=("auto", "adam", "rmsprop", "sgd"))
    learning_rate: float = flag(0.0002, ALGORITHM, "step size of both optimizers", above=0)
    beta1: float = flag(0.5, ALGORITHM, "Adam's decay of the gradient's mean, per update", only_if=("optimizer", "adam"), low=0, high=0.9999)
    beta2: float = flag(0.9, ALGORITHM, "Adam's decay of the squared gradient's mean, per update", only_if=("optimizer", "adam"), low=0, high=0.999999)
    decay_iterations: int | None = flag(None, ALGORITHM, "let the step size of both optimizers fall linearly, to 0 after this iteration (None: it stays)", low=1, before=None)
    generator_batch: int = flag(1, ALGORITHM, "the generator's batch as a multiple of batch_size", low=1, high=64, before=1)
    noise: float = flag(0.0, ALGORITHM, "real images get U(-noise, noise) added, on their scale [-1, 1]", low=0, high=1)
    ema: float = flag(0.999, ALGORITHM, "decay per iteration of the averaged generator that makes the pictures, smaller in the first iterations; 0 = off", low=0, high=0.999999)

    arch: str = flag("dcgan", NETWORKS, "dcgan: the small pair for images of one channel and at most 32x32, else the general one; symmetric: small 3x3 networks; resnet: the residual ones of the WGAN-GP paper", choices=("dcgan", "symmetric", "resnet"))
    z_dim: int | None = flag(None, NETWORKS, "numbers per latent (None: 100 for dcgan, 10 for symmetric, 128 for resnet)", low=1, high=10000)
    latents: str = flag("auto", NETWORKS, "what each number of a latent is drawn from: U(-1, 1) or N(0, 1) (auto: normal for resnet, else uniform)", choices=("auto", "uniform", "normal"), before="uniform")
    critic_norm: str = flag("auto", NETWORKS, "the critic's normalisation (auto: batch in regular; in gp layer for the small pair, else none)", choices=("auto", "none", "batch", "layer"))
    conditional: bool | str = flag("auto", NETWORKS, "show the labels to both networks (auto: where there are labels, for dcgan and resnet)", choices=("auto",))
    condition: str = flag("auto", NETWORKS, "how labels enter: as constant feature maps, or as a batch norm per class and a product of class and features (auto: projection for resnet, else concat)", only_if=("conditional", True), choices=("auto", "concat", "projection"), before="concat")
    precision: str = flag("float32", NETWORKS, "what the layers compute in; weights, losses, the slope's norm and the critic's last layer stay float32", choices=("float32", "bfloat16"))
    distribute: str = flag("none", RUN, "none: one device; mirrored: the GPUs of this host; multiworker: the hosts that TF_CONFIG names, of which each runs this command", kind=TODAY, choices=("none", "mirrored", "multiworker"))

    checkpoint_dir: str = flag("checkpoint", FILES, "folder of the runs: <dataset>_<batch_size>_<height>_<width> in it", kind=TODAY)
    sample_dir: str = flag("samples", FILES, "folder for the pictures", kind=TODAY)
    # fmt: on

    @property
    def run_name(self):
        """Name of the run's folder: <dataset>_<batch_size>_<output_height>_<output_width>."""
        width = self.output_width or self.output_height
        return f"{self.dataset}_{self.batch_size}_{self.output_height}_{width}"

    @property
    def run_dir(self):
        """Folder of the run's checkpoints, log and configuration."""
        return os.path.join(self.checkpoint_dir, self.run_name)

    @property
    def export_dir(self):
        """Folder of the exported generator."""
        return os.path.join(self.run_dir, "export")

    @property
    def output_size(self):
        """Height and width of the images to train on, pixels."""
        return self.output_height, self.output_width or self.output_height

    @property
    def crop_size(self):
        """Height and width of the centre crop, pixels, or None."""
        if not self.crop:
            return None
        return self.input_height, self.input_width or self.input_height

    def updates_before(self, iteration):
        """Count the critic updates that precede generator iteration `iteration` (from 1); resolved configs only.

        Boosted are iterations 1 to 10 and every 200th, as in the first of the two programs that this one succeeds.
        """
        done = iteration - 1
        boosted = min(done, 10) + done // 200 if self.critic_boost else 0
        return self.critic_num * (done - boosted) + self.critic_boost * boosted


def pair(arch, shape):
    """Return the name of the pair of networks for images of `shape` (height, width, channels).

    `dcgan` means the small pair for images of one channel and at most 32x32, else the general one.
    """
    height, width, channels = shape
    if arch == "dcgan":
        return "small" if channels == 1 and max(height, width) <= 32 else "general"
    return arch


FLAGS = {field.name: field for field in dataclasses.fields(Config)}
ACTIONS = ("train", "generate", "evaluate", "export", "gif")


def accepted(field):
    """Return in words which values a flag takes."""
    kinds = typing.get_args(field.type) or (field.type,)
    limits = field.metadata
    words = list(limits["choices"])
    if bool in kinds:
        words += ["True", "False"]
    if type(None) in kinds:
        words.append("None")
    if float in kinds or int in kinds:
        number = "a whole number" if int in kinds else "a number"
        if "low" in limits and "high" in limits:
            number += f" from {limits['low']} to {limits['high']}"
        elif "low" in limits:
            number += f" of at least {limits['low']}"
        elif "above" in limits:
            number += f" above {limits['above']}"
        words.append(number)
    if len(kinds) == 2 and float in kinds and int in kinds:
        words.append("inf")
    return " or ".join(words) if words else "a name"


def describe(field):
    """Return in one line what a flag does and, where its name does not tell, which values it takes."""
    kinds = typing.get_args(field.type) or (field.type,)
    free = kinds == (bool,) or (kinds[0] is str and not field.metadata["choices"])
    return field.metadata["help"] + ("" if free else f"; {accepted(field)}")


def convert(field, text):
    """Turn a flag's text into its value, or refuse it with the values that are accepted."""
    kinds = typing.get_args(field.type) or (field.type,)
    words = field.metadata["choices"]
    try:
        text.encode()  # TensorFlow takes no other names of files
        if text in words:
            return text
        if type(None) in kinds and text == "None":
            return None
        if bool in kinds:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kinds[0] is str:
            if words or not text:
                raise ValueError(text)
            return text
        return _number(field, kinds, text)
    except (KeyError, ValueError):
        raise Refused(f"--{field.name} {printable(text)}: expected {accepted(field)}") from None


def _number(field, kinds, text):
    """Read a number within the flag's bounds; ValueError for any other text."""
    if kinds == (int, float) and text == "inf":
        return math.inf
    if "_" in text or not text.isascii():  # which Python would take for a number
        raise ValueError(text)
    value = int(text) if int in kinds else float(text)
    limits = field.metadata
    fits = (
        limits.get("low", -math.inf) <= value <= limits.get("high", math.inf)
        and value > limits.get("above", -math.inf)
        and (value <= WHOLE_MAX if int in kinds else math.isfinite(value))
    )
    if not fits:
        raise ValueError(text)
    return value


class _Parser(argparse.ArgumentParser):
    """Refuses in one line instead of printing the usage."""

    def error(self, message):
        raise Refused(message)


def build_parser():
    """Make the argparse parser; it keeps only what is typed, as text."""
    parser = _Parser(
        prog="main.py",
        usage="python main.py [--flag value ...]",
        description="Train WGAN (weight clipping) or WGAN-GP (gradient penalty) and make pictures with it.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {
        name: parser.add_argument_group(name)
        for name in (MODES, DATA, RUN, ALGORITHM, NETWORKS, FILES)
    }
    for name, field in FLAGS.items():
        shown = f"{describe(field)} [{field.default}]".replace("%", "%%")
        options = {"nargs": "?", "const": "True"} if field.type is bool else {}
        words = field.metadata["choices"]
        metavar = "{" + ",".join(words) + "}" if len(words) > 1 else name.upper()
        groups[field.metadata["group"]].add_argument(
            f"--{name}", help=shown, metavar=metavar, **options
        )
    return parser


def parse(argv):
    """Read a command line into {flag: value} of what was typed; raise Refused for anything else.

    Values such as -1e-2, which argparse takes for flags, are joined to the flag before them first.
    """
    joined = []
    for word in argv:
        after_flag = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if after_flag and re.match(r"-\.?\d|-inf$", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    typed, unknown = build_parser().parse_known_args(joined)
    if unknown:
        name = unknown[0].split("=")[0]
        if not name.startswith("--"):
            raise Refused(f"'{name}': expected a flag, as in --dataset mnist (see --help)")
        known = {flag.lower(): flag for flag in FLAGS}
        near = difflib.get_close_matches(name.strip("-").lower(), known, 1)
        hint = f"; did you mean --{known[near[0]]}?" if near else " (see --help)"
        raise Refused(f"{name}: no such flag{hint}")
    values = {name: convert(FLAGS[name], text) for name, text in vars(typed).items()}
    check(Config(**values))
    return values


def check(config):
    """Refuse flags that contradict each other, whatever the data."""
    chosen = [name for name in ACTIONS if getattr(config, name)]
    if len(chosen) > 1:
        raise Refused(
            " and ".join(f"--{name}" for name in chosen) + " exclude each other: give one of them"
        )
    if config.visualize and chosen:
        raise Refused(f"--visualize goes with test mode: leave --{chosen[0]} out")
    for name, action, shown in (
        ("label", config.generate, "--generate N"),
        ("evaluate_images", config.evaluate, "--evaluate True"),
        ("feature_weights", config.evaluate, "--evaluate True"),
        ("distribute", config.train, "--train True"),
    ):
        if getattr(config, name) != FLAGS[name].default and not action:
            raise Refused(f"--{name} {getattr(config, name)}: goes with {shown}")
    if config.clip_down >= config.clip_up:
        raise Refused(f"--clip_down {config.clip_down}: must be below --clip_up {config.clip_up}")
    _check_networks(config)
    for name in ("dataset", "input_fname_pattern"):
        _check_plain(name, getattr(config, name))


def _check_networks(config):
    if config.mode == "gp" and config.critic_norm == "batch":
        raise Refused(
            "--critic_norm batch: the gradient penalty is defined per image; use none or layer, or --mode regular"
        )
    if (config.arch, config.condition) in (("resnet", "concat"), ("symmetric", "projection")):
        raise Refused(
            f"--condition {config.condition}: not with --arch {config.arch}; leave it at auto, or use --arch dcgan"
        )


def _check_plain(name, text):
    """Refuse a name that could lead out of the given folders."""
    plain = text.isprintable() and not set(text) & set("/\\") and text not in (".", "..")
    if not plain or len(text) > 100:
        raise Refused(f"--{name} {printable(text)}: expected a plain name, not a path")
