"""The flag table.

Reads no files and does not import TensorFlow, so that `--help` answers at once.
"""

import dataclasses
import math
import os
from dataclasses import dataclass

from pairs import ARCHS, PAIRS, PLANE, PLANE_DEFAULTS, about_arch, each_pair
from system import flags
from system.errors import Refused
from system.flags import COMMAND, FREE, WHOLE_MAX, flag
from system.screen import printable

RUN, DATA, ALGORITHM, NETWORKS, FILES, MODES = (
    "length of a run, batches, intervals",
    "data",
    "algorithm",
    "networks",
    "folders",
    "what to do (the default is test mode: pictures of the trained generator)",
)


@dataclass(frozen=True)
class Config:
    """The values of all flags. `settings.resolve` replaces each `auto`.

    In a resolved Config the flags without effect are None.
    """

    # Names of the flags that the command line gave.
    typed: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)

    # fmt: off
    train: bool = flag(False, MODES, "train from scratch, or resume from the newest readable checkpoint", lifetime=COMMAND)
    generate: int = flag(0, MODES, "write this many single pictures into <sample_dir>/generated", lifetime=COMMAND, low=0)
    evaluate: bool = flag(False, MODES, "score the generator against real images: print a table, write scores.json into the run's folder", lifetime=COMMAND)
    evaluate_images: int = flag(10000, MODES, "with --evaluate: number of pictures to score, at least the number of features (128 with a classifier, 2048 with InceptionV3); Frechet distance, precision and recall use the first 10000", lifetime=COMMAND, low=128)
    feature_weights: str | None = flag(None, MODES, "with --evaluate: score with InceptionV3, whose weights without its top are in this file (None: a classifier of the labels; without labels InceptionV3, whose weights are downloaded)", lifetime=COMMAND)
    export: str | None = flag(None, MODES, "write the averaged generator for other programs into export/ in the run's folder, see docs/export.md", lifetime=COMMAND, choices=("savedmodel", "onnx", "tflite"))
    gif: bool = flag(False, MODES, "build training.gif again from the train_*.png in sample_dir", lifetime=COMMAND)
    visualize: bool = flag(False, MODES, "in test mode, also sweep every latent dimension from -1 to 1 (normal latents: -2 to 2), and write explore.html", lifetime=COMMAND)
    label: int | None = flag(None, MODES, "with --generate: the class of every picture, counted from 0", lifetime=COMMAND, low=0)
    dry_run: bool = flag(False, MODES, "print what would be done, and the disk space and time of a training; change nothing", lifetime=COMMAND)

    dataset: str = flag("mnist", DATA, "name of the data set: mnist, fashion_mnist, cifar10, a folder or zip archive of images in data_dir, or, for points in a plane, 8gaussians, 25gaussians, swissroll")
    data_dir: str = flag("data", DATA, "folder that holds the data sets", lifetime=COMMAND)
    cache_dir: str | None = flag(None, DATA, "folder for converted images (None: .cache in data_dir)", lifetime=COMMAND)
    input_fname_pattern: str = flag("*.jpg", DATA, "glob pattern of the image files in a folder or zip archive", only_if=("image_files", True))
    train_size: int | float = flag(math.inf, DATA, "largest number of training images to use", low=1)
    crop: bool = flag(False, DATA, "crop each image to its centre input_height x input_width before resizing it", only_if=("images", True))
    input_height: int = flag(28, DATA, "height of the centre crop, pixels", only_if=("crop", True), low=1)
    input_width: int | None = flag(None, DATA, "width of the centre crop, pixels (None: input_height)", only_if=("crop", True), low=1)
    output_height: int = flag(28, DATA, "height of the training images and of the pictures, pixels", only_if=("images", True), low=4, high=1024)
    output_width: int | None = flag(None, DATA, "their width, pixels (None: output_height)", only_if=("images", True), low=4, high=1024)
    mirror: bool = flag(False, DATA, "flip each training image left to right with probability one half; not for digits or letters", only_if=("images", True), before=False)

    epoch: int = flag(25, RUN, "epochs to train; an epoch is N // batch_size generator iterations, for N training images", lifetime=FREE, low=1)
    max_iterations: int | None = flag(None, RUN, "stop at this generator iteration of the run", lifetime=FREE, low=1)
    batch_size: int = flag(64, RUN, "images per update", low=1)
    sample_every: int = flag(200, RUN, "iterations between two grids of pictures", lifetime=FREE, low=1)
    save_every: int = flag(400, RUN, "iterations between two checkpoints", lifetime=FREE, low=1)
    log_every: int = flag(50, RUN, "iterations between two rows of the log", lifetime=FREE, low=1)
    seed: int = flag(0, RUN, "seed of all random numbers of a run; in other modes, of the pictures", low=0, high=WHOLE_MAX)

    mode: str = flag("gp", ALGORITHM, "how the critic is kept Lipschitz: by weight clipping (regular) or gradient penalty (gp)", choices=("regular", "gp"))
    critic_num: int = flag(5, ALGORITHM, "critic updates per generator update", low=1)
    critic_boost: int | str = flag("auto", ALGORITHM, "critic updates in the first 10 iterations and every 200th; 0 = critic_num (auto: 25 in regular, 0 in gp)", low=0, choices=("auto",))
    clip_up: float = flag(0.01, ALGORITHM, "upper bound of the critic's weights, in regular", only_if=("mode", "regular"))
    clip_down: float = flag(-0.01, ALGORITHM, "lower bound of the critic's weights, in regular", only_if=("mode", "regular"))
    LAMBDA: float = flag(10.0, ALGORITHM, "weight of the gradient penalty, in gp", only_if=("mode", "gp"), low=0)
    optimizer: str = flag("auto", ALGORITHM, "auto: adam in gp, rmsprop in regular", choices=("auto", "adam", "rmsprop", "sgd"))
    learning_rate: float = flag(0.0002, ALGORITHM, "learning rate of both optimizers", above=0)
    beta1: float = flag(0.5, ALGORITHM, "Adam's decay of the gradient's mean, per update", only_if=("optimizer", "adam"), low=0, high=0.9999)
    beta2: float = flag(0.9, ALGORITHM, "Adam's decay of the squared gradient's mean, per update", only_if=("optimizer", "adam"), low=0, high=0.999999)
    decay_iterations: int | None = flag(None, ALGORITHM, "decay the learning rate of both optimizers linearly, to 0 after this iteration (None: no decay)", low=1, before=None)
    generator_batch: int = flag(1, ALGORITHM, "the generator's batch as a multiple of batch_size", low=1, high=64, before=1)
    noise: float = flag(0.0, ALGORITHM, "add U(-noise, noise) to the real images, which are in [-1, 1]", low=0, high=1)
    ema: float = flag(0.999, ALGORITHM, "decay per iteration of the averaged generator, which makes the pictures; smaller in the first iterations; 0 = off", low=0, high=0.999999)

    arch: str = flag("dcgan", NETWORKS, "; ".join(f"{arch}: {about_arch(arch)}" for arch in ARCHS), choices=ARCHS)
    z_dim: int | None = flag(None, NETWORKS, f"numbers per latent (None: {each_pair(lambda pair: pair.z_dim)})", low=1, high=10000)
    latents: str = flag("auto", NETWORKS, f"distribution of each number of a latent: U(-1, 1) or N(0, 1) (auto: {each_pair(lambda pair: pair.latents)})", choices=("auto", "uniform", "normal"), before="uniform")
    critic_norm: str = flag("auto", NETWORKS, f"the critic's normalisation (auto: in gp {each_pair(lambda pair: pair.critic_norm['gp'])}; in regular {each_pair(lambda pair: pair.critic_norm['regular'])})", choices=("auto", "none", "batch", "layer"))
    conditional: bool | str = flag("auto", NETWORKS, f"show the labels to both networks (auto: if the data have labels, for {', '.join(pair.name for pair in PAIRS if pair.conditional)})", choices=("auto",))
    condition: str = flag("auto", NETWORKS, f"how labels enter: as constant feature maps (concat), or as a batch norm per class and a product of class and features (projection) (auto: {each_pair(lambda pair: (*pair.conditions, 'none')[0])})", only_if=("conditional", True), choices=("auto", "concat", "projection"), before="concat")
    precision: str = flag("float32", NETWORKS, "precision of the layers' computations; weights, losses, the slope's norm and the critic's last layer stay float32; tf32 is for a GPU: float32 products with 10 bits, see docs/gpu.md", choices=("float32", "bfloat16", "tf32"))
    deterministic: bool = flag(True, NETWORKS, "on a GPU, use only operations that give the same bits each time; False may be faster", lifetime=FREE, before=True)
    distribute: str = flag("none", RUN, "none: one device; mirrored: the GPUs of this host; multiworker: the hosts in TF_CONFIG, each of which runs this command", lifetime=COMMAND, choices=("none", "mirrored", "multiworker"))

    checkpoint_dir: str = flag("checkpoint", FILES, "folder of the runs; a run is in <dataset>_<batch_size>_<height>_<width> there", lifetime=COMMAND)
    sample_dir: str = flag("samples", FILES, "folder for the pictures", lifetime=COMMAND)
    # fmt: on

    @property
    def given(self):
        """The flags that the command line gave: {name: value}."""
        return {name: getattr(self, name) for name in self.typed}

    @property
    def run_name(self):
        """Name of the run's folder: <dataset>_<batch_size>_<output_height>_<output_width>.

        For points in a plane it ends with the mode.
        """
        if self.dataset in PLANE:
            return f"{self.dataset}_{self.batch_size}_{self.mode}"
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
        """Height and width of the images to train on, pixels; () for points."""
        if self.dataset in PLANE:
            return ()
        return self.output_height, self.output_width or self.output_height

    @property
    def crop_size(self):
        """Height and width of the centre crop, pixels, or None."""
        if not self.crop:
            return None
        return self.input_height, self.input_width or self.input_height

    def updates_before(self, iteration):
        """Count the critic updates before an iteration, counted from 1. The Config must be resolved.

        Iterations 1 to 10 and every 200th are boosted, as in the first TensorFlow 1 program.
        """
        done = iteration - 1
        boosted = min(done, 10) + done // 200 if self.critic_boost else 0
        return self.critic_num * (done - boosted) + self.critic_boost * boosted

    def learning_rates(self, iteration):
        """Return the learning rates of the critic and of the generator in an iteration."""
        left = 1.0
        if self.decay_iterations:
            left = max(0.0, 1 - (iteration - 1) / self.decay_iterations)
        return left * self.learning_rate, left * self.learning_rate


FLAGS = {field.name: field for field in dataclasses.fields(Config) if "group" in field.metadata}
ACTIONS = ("train", "generate", "evaluate", "export", "gif")
ABOUT = "Train WGAN (weight clipping) or WGAN-GP (gradient penalty) and make pictures with it."


def parse(argv):
    """Read a command line into a Config that knows what was typed. Raises Refused."""
    values = flags.parse(argv, FLAGS, ABOUT)
    mode = values.get("mode", FLAGS["mode"].default)
    own = PLANE_DEFAULTS[mode] if values.get("dataset") in PLANE else {}
    config = Config(**own | values, typed=tuple(values))
    check(config)
    return config


def check(config):
    """Refuse values that a flag does not accept, and flags that contradict each other.

    `settings.resolve` checks what depends on the data.
    """
    for name, field in FLAGS.items():
        value = getattr(config, name)
        if value is not None or not field.metadata["only_if"]:
            flags.convert(field, str(value))
    _check_actions(config)
    if config.clip_up is not None and config.clip_down >= config.clip_up:
        raise Refused(f"--clip_down {config.clip_down}: must be below --clip_up {config.clip_up}")
    if config.mode == "gp" and config.critic_norm == "batch":
        raise Refused(
            "--critic_norm batch: the gradient penalty is defined per image; use none or layer, or --mode regular"
        )
    if config.dataset in PLANE:
        _check_plane(config)
    for name in ("dataset", "input_fname_pattern"):
        _check_plain(name, getattr(config, name) or "")


def _check_actions(config):
    chosen = [name for name in ACTIONS if getattr(config, name)]
    if len(chosen) > 1:
        raise Refused(
            " and ".join(f"--{name}" for name in chosen) + " exclude each other: give one of them"
        )
    if config.visualize and chosen:
        raise Refused(f"--visualize works only in test mode; leave --{chosen[0]} out")
    for name, action, shown in (
        ("label", config.generate, "--generate N"),
        ("evaluate_images", config.evaluate, "--evaluate True"),
        ("feature_weights", config.evaluate, "--evaluate True"),
        ("distribute", config.train, "--train True"),
    ):
        if getattr(config, name) != FLAGS[name].default and not action:
            raise Refused(f"--{name} {getattr(config, name)}: works only with {shown}")


def _check_plane(config):
    """Refuse what was typed for images though the data set has points."""
    for name in config.typed:
        needs, *_ = FLAGS[name].metadata["only_if"] or ("",)
        if needs in ("images", "image_files", "crop") or name in ("visualize", "feature_weights"):
            raise Refused(
                f"--{name}: for images, not for the points of '{config.dataset}'; leave it out"
            )


def _check_plain(name, text):
    """Refuse a name that could point outside the given folders."""
    plain = text.isprintable() and not set(text) & set("/\\") and text not in (".", "..")
    if not plain or len(text) > 100:
        raise Refused(f"--{name} {printable(text)}: expected a plain name, not a path")
