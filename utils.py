"""Grids, PNG files, gifs and the plot of a log. Does not use TensorFlow."""

import math
import re
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

import draws
from system.errors import Refused

GIF_FRAMES = 60
GIF_WIDTH = 400  # pixels
GIF_FRAME_TIME, GIF_LAST_TIME = 200, 2000  # milliseconds
GRID_PIXELS_MAX = 2**29  # in a grid's file; in memory they take 2 GB
GAP = 2  # pixels between the images of a grid


def grid(images, columns):
    """Lay uint8 images [n, H, W, C] out in rows with black gaps: uint8 [height, width, C]."""
    count, height, width, channels = images.shape
    rows, height, width = math.ceil(count / columns), height + GAP, width + GAP
    tiles = np.zeros((rows * columns, height, width, channels), np.uint8)
    tiles[:count, GAP:, GAP:] = images
    tiles = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    sheet = tiles.reshape(rows * height, columns * width, channels)
    return np.pad(sheet, [(0, GAP), (0, GAP), (0, 0)])


class Grids:
    """The pictures of a run of images: grids of training images and of generated ones."""

    def __init__(self, config, data):
        self.config, self.data = config, data
        classes = len(data.facts.class_names) if config.conditional else 0
        self.columns, self.labels, count = grid_layout(classes, config.batch_size)
        self.z = draws.fixed_latents(config.seed, count, config.z_dim, config.latents)
        if classes:
            self.z = np.tile(self.z, (len(self.labels) // self.columns, 1))

    def real(self):
        """Return a grid of training images as the critic sees them: uint8 [height, width, C]."""
        data, flipped = self.data, draws.mirrored(self.config.seed, 0, len(self.z))
        if self.labels is None:
            images = data.images[data.train[: len(flipped)]]
        else:
            classes = data.labels[data.train]
            blank = np.zeros((self.columns, *data.facts.shape), np.uint8)
            rows = []
            for label in np.unique(self.labels):
                row = data.images[data.train[classes == label][: self.columns]]
                rows.append(np.concatenate([row, blank[len(row) :]]))
            images = np.concatenate(rows)
        if self.config.mirror:
            images[flipped] = images[flipped, :, ::-1]
        return grid(images, self.columns)

    def generated(self, gan, _):
        """Return a grid of pictures by the averaged generator of a WGAN."""
        return grid(gan.sample(self.z, self.labels), self.columns)

    def measure(self, _):
        """Return the numbers that the log has for images only: none."""
        return {}


def grid_layout(classes, batch_size):
    """Return a grid's number of columns, its labels int32 [n] or None, and its number of latents.

    With labels: a row per class (the first 10) and one latent per column. Without: batch_size
    latents.
    """
    if not classes:
        return math.ceil(math.sqrt(batch_size)), None, batch_size
    columns = max(8, batch_size // 10)
    return columns, np.repeat(np.arange(min(10, classes), dtype=np.int32), columns), columns


def save_png(path, image):
    """Write one uint8 image [H, W, C], of 1 or 3 channels, as a PNG file."""
    to_pillow(image).save(path)


def grid_name(iteration, steps_per_epoch):
    """Return the name of an iteration's grid: train_{epoch:02d}_{idx:04d}.png."""
    epoch, index = divmod(iteration, steps_per_epoch)
    return f"train_{epoch:02d}_{index:04d}.png"


def list_grids(folder):
    """List a folder's training grids as ((epoch, idx), path), in the order of the training."""
    found = []
    for path in Path(folder).glob("train_*.png"):
        if match := re.fullmatch(r"train_(\d{2,})_(\d{4,})\.png", path.name):
            found.append(((int(match[1]), int(match[2])), path))
    return sorted(found)


def find_grids(folder):
    """List a folder's training grids as `list_grids` does. Raises Refused if there are none."""
    if grids := list_grids(folder):
        return grids
    raise Refused(
        f"{folder}: no train_*.png there for a gif; name the right folder with --sample_dir"
    )


def choose_frames(items):
    """Return at most 60 items of a list, evenly spaced, including the first and the last."""
    count = min(len(items), GIF_FRAMES)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def write_gif(path, frames):
    """Write uint8 frames [H, W, C] of one size as a looping gif, at most 400 pixels wide."""
    first, *others = (_shrink(to_pillow(frame)) for frame in frames)
    times = [GIF_FRAME_TIME] * len(others) + [GIF_LAST_TIME]
    times = times if others else GIF_LAST_TIME  # Pillow takes no list for one frame
    first.save(path, save_all=True, append_images=others, duration=times, loop=0)


def _shrink(image):
    """Resize a Pillow image that is too wide for a gif."""
    if image.width <= GIF_WIDTH:
        return image
    size = (GIF_WIDTH, max(1, round(image.height * GIF_WIDTH / image.width)))
    return image.resize(size, Image.Resampling.LANCZOS)


def to_pillow(image):
    """Return one uint8 image [H, W, C], of 1 or 3 channels, as a Pillow image."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def write_training_gif(folder):
    """Make training.gif from a folder's train_*.png; return its path and the number of grids."""
    grids = find_grids(folder)
    frames = []
    for _, grid_path in choose_frames(grids):
        try:
            if not grid_path.is_file():  # reading a pipe might never end
                raise OSError("not a file")
            with PngImageFile(grid_path) as image:
                if image.width * image.height > GRID_PIXELS_MAX:
                    raise ValueError(f"{image.width}x{image.height} pixels are too many")
                frames.append(np.atleast_3d(np.asarray(_shrink(image))))
        except (OSError, SyntaxError, ValueError) as error:
            raise Refused(f"{grid_path}: cannot be read ({error}); remove it") from None
    if len({frame.shape for frame in frames}) > 1:
        raise Refused(f"{folder}: its train_*.png differ in size; keep only those of one run")
    path = Path(folder) / "training.gif"
    write_gif(path, frames)
    return path, len(grids)


def plot_log(path, rows):
    """Plot rows of log.jsonl: the distance on training and held-out images, and the losses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7))
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.07, top=0.95, hspace=0.06)
    iterations = [row["iteration"] for row in rows]
    marker = "." if len(rows) < 10 else None  # a line of one point is invisible

    def draw(axis, name, label, **style):
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            axis.plot(iterations, values, label=label, linewidth=1, marker=marker, **style)

    draw(top, "w_distance", "w_distance: training data")
    draw(top, "w_distance_val", "w_distance_val: held-out data")
    draw(top, "earth_movers_distance", "earth_movers_distance: exact, held-out points")
    top.set_ylabel("mean D(real) - mean D(fake)")
    top.set_title("falls as pictures improve; a widening gap shows that the critic overfits")
    draw(bottom, "d_loss", "d_loss: critic, penalty included")
    draw(bottom, "g_loss", "g_loss: generator", alpha=0.7)
    draw(bottom, "penalty", "penalty")
    bottom.set_ylabel("loss")
    bottom.set_xlabel("generator iteration")
    for axis in (top, bottom):
        if not rows:
            axis.text(0.5, 0.5, "no rows yet: see --log_every", ha="center", va="center")
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=9)
    figure.savefig(path, dpi=100)
