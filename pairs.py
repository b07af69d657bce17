"""One record per pair of networks, and what is different for points in a plane.

Imports nothing heavy: `--help` reads it.
"""

from dataclasses import dataclass

from system.errors import Refused


@dataclass(frozen=True)
class Pair:
    """A generator and a critic: which --arch chooses them, and what `auto` means for them."""

    name: str  # of its builders in networks.py
    arch: str  # the value of --arch; of the records that share it, the first that fits is taken
    about: str  # in the help of --arch
    channels: tuple[int, ...]  # of the images that it fits; 2 are the coordinates of a point
    most: int  # pixels a side of these images
    z_dim: int  # numbers per latent
    latents: str  # uniform or normal
    critic_norm: dict[str, str]  # by mode
    conditions: tuple[str, ...]  # how labels can enter, the default first; () if they cannot
    conditional: bool  # whether labels enter by default, where there are any


# Why the small pair has layer norm under the penalty is on docs/results.md.
PAIRS = (
    Pair(
        name="small",
        arch="dcgan",
        about="the small pair for images of one channel and at most 32x32",
        channels=(1,),
        most=32,
        z_dim=100,
        latents="uniform",
        critic_norm={"gp": "layer", "regular": "batch"},
        conditions=("concat", "projection"),
        conditional=True,
    ),
    Pair(
        name="general",
        arch="dcgan",
        about="else the general pair",
        channels=(1, 3),
        most=1024,
        z_dim=100,
        latents="uniform",
        critic_norm={"gp": "none", "regular": "batch"},
        conditions=("concat", "projection"),
        conditional=True,
    ),
    Pair(
        name="symmetric",
        arch="symmetric",
        about="small 3x3 networks",
        channels=(1, 3),
        most=1024,
        z_dim=10,
        latents="uniform",
        critic_norm={"gp": "none", "regular": "batch"},
        conditions=("concat",),
        conditional=False,
    ),
    Pair(
        name="resnet",
        arch="resnet",
        about="the residual networks of the WGAN-GP paper",
        channels=(1, 3),
        most=1024,
        z_dim=128,
        latents="normal",
        critic_norm={"gp": "none", "regular": "batch"},
        conditions=("projection",),
        conditional=True,
    ),
    Pair(
        name="points",
        arch="points",
        about="for points in a plane, whose only choice it is",
        channels=(2,),
        most=0,
        z_dim=2,
        latents="normal",
        critic_norm={"gp": "none", "regular": "none"},
        conditions=(),
        conditional=False,
    ),
)
ARCHS = tuple(dict.fromkeys(pair.arch for pair in PAIRS))


def find_pair(arch, shape):
    """Return the Pair that --arch means for images of `shape` (h, w, c), or for points of (2,)."""
    *sides, channels = shape
    for pair in PAIRS:
        if pair.arch == arch and channels in pair.channels and max(sides, default=0) <= pair.most:
            return pair
    data = f"images of {'x'.join(map(str, shape))}" if sides else "points"
    raise Refused(f"--arch {arch}: not for {data}; leave it out")


def about_arch(arch):
    """Return in words what a value of --arch means."""
    return ", ".join(pair.about for pair in PAIRS if pair.arch == arch)


def each_pair(value):
    """List a value of all pairs for the help: '100 for small, general; 10 for symmetric'."""
    names = {}
    for pair in PAIRS:
        names.setdefault(str(value(pair)), []).append(pair.name)
    if len(names) == 1:
        return next(iter(names))
    return "; ".join(f"{text} for {', '.join(having)}" for text, having in names.items())


# The data sets of points in a plane, and their own defaults in each mode, as in docs/plane.md.
PLANE = "8gaussians", "25gaussians", "swissroll"
PLANE_DEFAULTS = {
    mode: {
        "arch": "points",
        "batch_size": 256,
        "learning_rate": learning_rate,
        "max_iterations": 4000,
        "decay_iterations": 4000,
        "LAMBDA": 0.1,
    }
    for mode, learning_rate in (("gp", 0.006), ("regular", 0.0005))
}
