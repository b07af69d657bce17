"""Pictures by a trained generator: test mode, --generate and --visualize."""

import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

import draws
import utils
from run import explore

ROWS, COLUMNS = 10, 10  # of the interpolations and of the sweeps
BLOCK = 1000  # pictures in memory at a time


def test(gan, folder, seed):
    """Write test.png, test_classes.png and test_interpolation.png."""
    folder.mkdir(parents=True, exist_ok=True)
    batch_size, z_dim, latents = gan.config.batch_size, gan.config.z_dim, gan.config.latents
    columns = int(np.ceil(np.sqrt(batch_size)))
    utils.save_png(folder / "test.png", utils.grid(gan.draw(batch_size, seed), columns))
    if gan.classes:
        columns, labels, count = utils.grid_layout(gan.classes, batch_size)
        z, _ = gan.picture_inputs(count, seed)
        images = gan.sample(np.tile(z, (len(labels) // columns, 1)), labels)
        utils.save_png(folder / "test_classes.png", utils.grid(images, columns))
    rows = zip(*draws.row_latents(seed, ROWS, z_dim, latents), strict=True)
    z = np.concatenate([mix(start, end, COLUMNS, latents) for start, end in rows])
    images = gan.sample(z, row_labels(gan.classes))
    utils.save_png(folder / "test_interpolation.png", utils.grid(images, COLUMNS))
    print(f"Pictures are in {folder}")


def row_labels(classes):
    """Return the labels of ROWS x COLUMNS pictures, a class per row: int32, or None."""
    return np.repeat(np.arange(ROWS, dtype=np.int32) % classes, COLUMNS) if classes else None


def mix(start, end, count, distribution):
    """Interpolate between two latents [z_dim]: float32 [count, z_dim].

    Uniform latents are interpolated along a straight line, normal latents along a great circle:
    nearly all normal latents have the same length, and the generator was not trained with shorter
    ones.
    """
    shares = np.linspace(0, 1, count, dtype=np.float32)[:, np.newaxis]
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    angle = np.arccos(np.clip(start @ end / lengths, -1, 1))
    if distribution == "uniform" or np.sin(angle) < 1e-3:  # parallel latents define no circle
        return start + shares * (end - start)
    return (np.sin((1 - shares) * angle) * start + np.sin(shares * angle) * end) / np.sin(angle)


def visualize(gan, folder, seed):
    """Write the sweeps, and explore.html with the names of the run and of its weights."""
    z_dim, latents = gan.config.z_dim, gan.config.latents
    start, _ = draws.row_latents(seed, ROWS, z_dim, latents)
    sweep(gan, start, row_labels(gan.classes), folder)
    run, file = Path(gan.source).parts[-2:]
    weights = "the shipped generator"
    if file.startswith("ckpt-"):
        weights = f"iteration {int(gan.iteration):,}"
    about = {"run": run, "state": weights, "seed": seed}
    corners = draws.corner_latents(seed, explore.SETS, z_dim, latents)
    names = gan.facts.class_names[: explore.CLASSES] if gan.classes else ()
    explore.write(folder / "explore.html", about, names, lambda steps: squares(gan, corners, steps))
    print(f"To explore them, open {folder / 'explore.html'} in a browser")


def squares(gan, corners, steps):
    """Yield the pictures of explore.html: a square for each class (the first ten) and corner set.

    A square is uint8 [steps * steps, H, W, C], row by row. Its latents are interpolated between
    those of its upper left, upper right, lower left and lower right corners.
    """
    labels = range(min(explore.CLASSES, gan.classes)) if gan.classes else [None]
    places = [(label, four) for label in labels for four in corners]
    for label, (a, b, c, d) in tqdm(places, desc="squares", disable=None):
        latents = gan.config.latents
        rows = zip(mix(a, c, steps, latents), mix(b, d, steps, latents), strict=True)
        z = np.concatenate([mix(left, right, steps, latents) for left, right in rows])
        yield gan.sample(z, None if label is None else np.full(len(z), label, np.int32))


def sweep(gan, z, labels, folder):
    """Write test_arange_{k}.png for each dimension k, with a row per latent of z [ROWS, z_dim].

    Along a row dimension k rises from -1 to 1, in normal latents from -2 to 2.
    """
    for path in folder.glob("test_arange_*.png"):
        path.unlink()
    frames, most = [], 2 if gan.config.latents == "normal" else 1
    for k in tqdm(range(z.shape[1]), desc="sweeps", disable=None):
        along = np.repeat(z, COLUMNS, axis=0)
        along[:, k] = np.tile(np.linspace(-most, most, COLUMNS, dtype=np.float32), ROWS)
        frames.append(utils.grid(gan.sample(along, labels), COLUMNS))
        utils.save_png(folder / f"test_arange_{k:03d}.png", frames[-1])
    utils.write_gif(folder / "test_arange.gif", utils.choose_frames(frames))


def generate(gan, folder, count, seed, label=None):
    """Write `count` single pictures into a folder; with labels, into a sub-folder per class."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted([*folder.glob("*.png"), *folder.glob("class_*/*.png")]):
        if re.fullmatch(r"\d{6,}\.png", path.name) and path.is_file():
            path.unlink()
    for k in range(gan.classes) if label is None else [label]:
        (folder / f"class_{k}").mkdir(exist_ok=True)
    with tqdm(total=count, unit="pictures", disable=None) as bar:
        for first in range(0, count, BLOCK):
            z, labels = gan.picture_inputs(min(BLOCK, count - first), seed, first, label)
            for i, image in enumerate(gan.sample(z, labels), first):
                place = folder if labels is None else folder / f"class_{labels[i - first]}"
                utils.save_png(place / f"{i:06d}.png", image)
            bar.update(len(z))
    print(f"{count} {'picture is' if count == 1 else 'pictures are'} in {folder}")
