"""Pictures on the host: grids, PNG files, gifs and the plot of a log. Knows no TensorFlow."""

import math
import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from system.errors import Refused

GIF_FRAMES = 60
GIF_WIDTH = 400  # pixels
GIF_FRAME_TIME, GIF_LAST_TIME = 200, 2000  # milliseconds
GRID_PIXELS_MAX = 2**29  # of a file taken for a grid; 2 GB once it is read


def grid(images, columns):
    """Lay uint8 images [n, H, W, C] out in rows, a black gap between: uint8 [height, width, C]."""
    count, height, width, channels = images.shape
    rows = math.ceil(count / columns)
    gap = 2
    sheet = np.zeros(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), np.uint8
    )
    for i, image in enumerate(images):
        top, left = (
            gap + size * at
            for size, at in zip((height + gap, width + gap), divmod(i, columns), strict=True)
        )
        sheet[top : top + height, left : left + width] = image
    return sheet


def grid_layout(classes, batch_size):
    """Lay a grid of pictures out: (columns, labels int32 [n] or None, number of latents).

    With labels: a row per class (the first 10) and one latent per column. Without: batch_size
    latents.
    """
    if not classes:
        return math.ceil(math.sqrt(batch_size)), None, batch_size
    columns = max(8, batch_size // 10)
    return columns, np.repeat(np.arange(min(10, classes), dtype=np.int32), columns), columns


def real_grid(data, columns, labels, flipped):
    """Make a grid of a Data's training images in the layout of the generated ones.

    `flipped`, bool [n], says of each place whether its image is shown mirrored.
    """
    if labels is None:
        images = data.images[data.train[: len(flipped)]]
    else:
        classes = data.labels[data.train]
        blank = np.zeros((columns, *data.facts.shape), np.uint8)
        rows = []
        for label in np.unique(labels):
            row = data.images[data.train[classes == label][:columns]]
            rows.append(np.concatenate([row, blank[len(row) :]]))
        images = np.concatenate(rows)
    images[flipped] = images[flipped, :, ::-1]
    return grid(images, columns)


def save_png(path, image):
    """Write one uint8 image [H, W, C], of 1 or 3 channels, as it is."""
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
    """List the grids as `list_grids`, or refuse where there are none."""
    grids = list_grids(folder)
    if not grids:
        raise Refused(
            f"{folder}: no train_*.png there to make a gif of; name the folder with --sample_dir"
        )
    return grids


def choose_frames(items):
    """Return at most 60 of a list, evenly, the first and the last among them."""
    count = min(len(items), GIF_FRAMES)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


def write_gif(path, frames):
    """Write uint8 frames [H, W, C] of one size as a looping gif, at most 400 pixels wide."""
    frames = [_shrink(to_pillow(frame)) for frame in frames]
    times = [GIF_FRAME_TIME] * (len(frames) - 1) + [GIF_LAST_TIME]
    content = imageio.imwrite(
        "<bytes>",  # of a path it would take `~` or `.zip/` for something else
        [np.asarray(frame) for frame in frames],
        extension=".gif",
        duration=times if len(times) > 1 else times[0],  # for one frame Pillow takes no list
        loop=0,
    )
    Path(path).write_bytes(content)


def _shrink(image):
    """Resize a Pillow image that is too wide for a gif."""
    if image.width <= GIF_WIDTH:
        return image
    size = (GIF_WIDTH, max(1, round(image.height * GIF_WIDTH / image.width)))
    return image.resize(size, Image.Resampling.LANCZOS)


def to_pillow(image):
    """Return one uint8 image [H, W, C], of 1 or 3 channels, as Pillow's."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def write_training_gif(folder):
    """Build training.gif from a folder's train_*.png; returns its path and how many there are.

    They are read as PNG alone. Grids may be larger than the images of a data set.
    """
    grids = find_grids(folder)
    frames = []
    for _, grid_path in choose_frames(grids):
        try:
            if not grid_path.is_file():  # one that is a pipe would be waited for without end
                raise OSError("not a file")
            with PngImageFile(grid_path) as image:
                if image.width * image.height > GRID_PIXELS_MAX:
                    raise ValueError(f"{image.width}x{image.height} pixels are too many")
                frames.append(np.atleast_3d(np.asarray(_shrink(image))))
        except (OSError, SyntaxError, ValueError) as error:
            raise Refused(f"{grid_path}: cannot be read ({error}); remove it") from None
    if len({frame.shape for frame in frames}) > 1:
        raise Refused(f"{folder}: the train_*.png there differ in size; keep those of one run")
    path = Path(folder) / "training.gif"
    write_gif(path, frames)
    return path, len(grids)


def plot_log(path, rows):
    """Plot what log.jsonl tells: the distance on training and held-out images, and the losses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 7), sharex=True)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.07, top=0.95, hspace=0.06)
    steps = [row["iteration"] for row in rows]

    marker = "." if len(rows) < 10 else None  # a line of one point would not be seen

    def draw(axis, name, label, **style):
        values = [row.get(name) for row in rows]
        if any(value is not None for value in values):
            style |= {"label": label, "linewidth": 1, "marker": marker}
            axis.plot(steps, values, **style)

    draw(top, "w_distance", "w_distance: training images")
    draw(top, "w_distance_val", "w_distance_val: held-out images")
    top.set_ylabel("mean D(real) - mean D(fake)")
    top.set_title(
        "falls as the pictures improve; a gap that widens is the critic's overfitting",
        fontsize=10,
    )
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
    plt.close(figure)
