"""Test mode and --generate: pictures of a trained run's averaged generator; the layout of grids."""

import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

import device
import draws
import runs
import utils
from errors import Refused

ROWS, COLUMNS = 10, 10  # of the interpolations and of the sweeps


def load(config, facts, source):
    """Build the model and give it the weights of `source`, as runs.find names it."""
    device.import_tensorflow()
    from model import WGAN
    from weights import DAMAGE

    gan = WGAN(config, facts)
    try:
        gan.read(source)
    except DAMAGE as error:
        raise Refused(
            f"{source}: damaged ({type(error).__name__}); --train True finds the newest good one"
        ) from None
    if source.endswith(".npz"):
        print(f"Weights: the shipped generator {source}")
    else:
        print(f"Weights: {source}, state {int(gan.iteration)}")
    return gan


def test(typed):
    """Write test.png, test_classes.png, test_interpolation.png and, on --visualize, the sweeps."""
    config, facts, source = runs.find(typed)
    folder = runs.check_folder(config.sample_dir, config)
    gan = load(config, facts, source)
    folder.mkdir(parents=True, exist_ok=True)
    z, labels = draws.picture_draws(
        config.seed, 0, config.batch_size, config.z_dim, gan.label_counts
    )
    utils.save_png(
        folder / "test.png", utils.grid(gan.sample(z, labels), int(np.ceil(np.sqrt(len(z)))))
    )
    if gan.classes:
        columns, labels, count = grid_layout(config, facts)
        z, _ = draws.picture_draws(config.seed, 0, count, config.z_dim)
        images = gan.sample(np.tile(z, (len(labels) // columns, 1)), labels)
        utils.save_png(folder / "test_classes.png", utils.grid(images, columns))
    labels = (
        np.repeat(np.arange(ROWS, dtype=np.int32) % gan.classes, COLUMNS) if gan.classes else None
    )
    start, end = draws.row_latents(config.seed, ROWS, config.z_dim)
    steps = np.linspace(0, 1, COLUMNS, dtype=np.float32)[:, np.newaxis]
    z = np.concatenate([a + steps * (b - a) for a, b in zip(start, end, strict=True)])
    utils.save_png(folder / "test_interpolation.png", utils.grid(gan.sample(z, labels), COLUMNS))
    if config.visualize:
        sweep(gan, start, labels, folder)
    print(f"Pictures are in {folder}")


def sweep(gan, z, labels, folder):
    """Write test_arange_{k}.png: a row per latent of z [ROWS, z_dim], dimension k along it."""
    for path in folder.glob("test_arange_*.png"):
        path.unlink()
    frames = []
    for k in tqdm(range(z.shape[1]), desc="sweeps", disable=None):
        along = np.repeat(z, COLUMNS, axis=0)
        along[:, k] = np.tile(np.linspace(-1, 1, COLUMNS, dtype=np.float32), ROWS)
        frames.append(utils.grid(gan.sample(along, labels), COLUMNS))
        utils.save_png(folder / f"test_arange_{k:03d}.png", frames[-1])
    utils.write_gif(folder / "test_arange.gif", utils.choose_frames(frames))


def generate(typed):
    """Write --generate N single pictures, with labels into class folders."""
    config, facts, source = runs.find(typed)
    folder = runs.check_folder(Path(config.sample_dir) / "generated", config)
    gan = load(config, facts, source)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted([*folder.glob("*.png"), *folder.glob("class_*/*.png")]):
        if re.fullmatch(r"\d{6,}\.png", path.name) and path.is_file():
            path.unlink()
    for k in range(gan.classes):
        (folder / f"class_{k}").mkdir(exist_ok=True)
    with tqdm(total=config.generate, unit="pictures", disable=None) as bar:
        for images, labels, first in generated(gan, config, config.generate):
            for i, image in enumerate(images, first):
                place = folder if labels is None else folder / f"class_{labels[i - first]}"
                utils.save_png(place / f"{i:06d}.png", image)
            bar.update(len(images))
    print(f"{config.generate} pictures are in {folder}")


def generated(gan, config, total, raw=False):
    """Yield the first pictures: (images uint8 [n, H, W, C], labels [n] or None, first number).

    Picture i depends on (seed, i) alone. They are the averaged generator's, or the `raw` one's.
    """
    size = 1000
    for first in range(0, total, size):
        count = min(size, total - first)
        z, labels = draws.picture_draws(
            config.seed, first, count, config.z_dim, gan.label_counts, config.label
        )
        yield gan.sample(z, labels, raw), labels, first


# Grids.


def grid_layout(config, facts):
    """Lay a grid of pictures out: (columns, labels int32 [n] or None, number of latents).

    With labels: a row per class (the first 10) and one latent per column. Without: batch_size
    latents.
    """
    if not config.conditional:
        return int(np.ceil(np.sqrt(config.batch_size))), None, config.batch_size
    columns = max(8, config.batch_size // 10)
    rows = min(10, len(facts.class_names))
    return columns, np.repeat(np.arange(rows, dtype=np.int32), columns), columns


def real_grid(config, data, columns, labels):
    """Make a grid of training images in the layout of the generated ones."""
    if labels is None:
        return utils.grid(data.images[data.train[: config.batch_size]], columns)
    classes = data.labels[data.train]
    chosen = [data.images[data.train[classes == label][:columns]] for label in np.unique(labels)]
    blank = np.zeros((columns, *data.facts.shape), np.uint8)
    return utils.grid(
        np.concatenate([np.concatenate([row, blank[len(row) :]]) for row in chosen]), columns
    )
