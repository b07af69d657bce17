"""--dry_run: what a command would do, for how long and in how much space. Writes nothing."""

import math
import statistics
import time

import numpy as np

import utils
from config import FLAGS
from datasets import conversion, dataset, published
from pairs import PLANE
from run import checkpoints, folders, settings
from system import device
from system.errors import Refused

TRIALS = 3  # iterations that are timed, in memory, after one that is not
FRAME_BYTES = 300_000  # of one picture of points, about
SAMPLE = 200  # files that are decoded on trial, at most


def load_data(source, train_size):
    """Load a data set as a training would, but download nothing and write no converted images.

    Raises Refused.
    """
    if missing := published.missing_files(source.name, source.folder):
        raise Refused(
            f"--dataset {source.name}: {source.folder} lacks {', '.join(missing)}; a training would"
            " download it"
        )
    return dataset.load(source, train_size, open_or_try)


def open_or_try(origin, source):
    """Return the Converted of an origin; if there is none yet, decode some files in memory."""
    place, wanted = conversion.plan(origin, source)
    if found := conversion.open_finished(place, wanted):
        return found
    try:
        folders.check_folder(source.cache, source.folder)
    except Refused as refusal:
        raise Refused(f"--cache_dir {refusal}") from None
    with conversion.listing_of(origin) as listed:
        return try_some(source, origin, listed)


def try_some(source, origin, listed):
    """Decode some of the images listed, and print what the conversion of all would cost.

    Returns a Converted without digest and fingerprint, in which these few images stand for all.
    """
    count = len(listed.names)
    some = range(0, count, math.ceil(count / SAMPLE))
    start = time.perf_counter()
    results = conversion.read_chunk(origin.path, listed, some, source.size, source.crop)
    seconds = (time.perf_counter() - start) * count / len(some)
    found = zip(some, results, strict=True)
    bad = {listed.names[i]: result for i, result in found if isinstance(result, str)}
    conversion.check_bad(origin.path, bad, len(some))
    good = [result for result in results if not isinstance(result, str)]
    channels = 1 if all(grey for _, grey in good) else 3
    pixels = np.stack([pixels[..., :channels] for pixels, _ in good])
    print(
        f"Conversion: at most {seconds:.0f} s for {count} files,"
        f" {pixels[0].nbytes * count / 1e6:.1f} MB in {source.cache}"
    )
    images = dataset.Subset(pixels, np.arange(count) * len(good) // count)
    return conversion.Converted(
        images, listed.labels, listed.class_names, listed.held_out, digest="", fingerprint=""
    )


def print_configuration(config, facts):
    """Print the resolved flags and the data found."""
    for name, field in FLAGS.items():
        value = getattr(config, name)
        without_effect = value is None and field.metadata["only_if"]
        print(f"{name:>20} {'(no effect)' if without_effect else value}")
    size = f"{'x'.join(map(str, facts.shape[:2]))}, {facts.shape[-1]} channels"
    if config.dataset in PLANE:
        size = "points in a plane"
    print(
        f"Data: {config.dataset}, {config.train_size} training images of {facts.available},"
        f" {facts.held_out} held out, {size},"
        f" {len(facts.class_names) or 'no'} classes"
    )


def print_networks(gan, run):
    """Print the networks of a WGAN, the device, and what would be done with a description.Run."""
    gan.generator.summary()
    gan.critic.summary()
    print(f"Device: {device.in_words(device.environment())}")
    print(f"Would {describe_task(run)}")


def describe_task(run):
    """Return in words what a command would do with a description.Run."""
    config, task = run.config, "make the test pictures"
    if config.train:
        start = f"iteration {run.checkpoints[0][0]}" if run.checkpoints else "scratch"
        task = f"train from {start} to iteration {settings.last_iteration(config)} in {run.folder}"
        return f"{task}; pictures go to {config.sample_dir}"
    source = run.checkpoints[0][1] if run.checkpoints else run.folder / "generator.npz"
    if config.export:
        return f"write {source} as {config.export} into {config.export_dir}"
    if config.generate:
        task = f"make {config.generate} pictures"
    elif config.evaluate:
        task = f"make the scores of {config.evaluate_images} pictures"
    elif config.visualize:
        task += ", the sweeps and explore.html"
    return f"{task} with {source}; pictures go to {config.sample_dir}"


def print_costs(gan, data, start):
    """Time a few iterations of a WGAN in memory, and print the time and disk space to expect.

    `start` is the iteration that the training would start from.
    """
    config = gan.config
    times = []
    for i in range(1, TRIALS + 2):
        began = time.perf_counter()
        float(gan.train_iteration(data, i + 20)["g_loss"])  # beyond the boosted ones
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[1:])
    end = settings.last_iteration(config)
    updates = config.updates_before(end + 1) - config.updates_before(start + 1)
    # A boosted iteration takes longer: time goes with the critic updates.
    hours = seconds * updates / config.critic_num / 3600
    alone = "" if config.distribute == "none" else " on one device"
    print(f"Time: {seconds:.2f} s per iteration{alone}, about {hours:.1f} h to the end")
    trained = [*gan.generator.variables, *gan.average.variables, *gan.critic.variables]
    for optimizer in (gan.generator_optimizer, gan.critic_optimizer):
        trained += optimizer.variables
    state_bytes = sum(variable.value.numpy().nbytes for variable in trained)
    grids = math.ceil(end / config.sample_every) - start // config.sample_every + (start == 0)
    _, labels, count = utils.grid_layout(gan.classes, config.batch_size)
    pixels = (len(labels) if gan.classes else count) * data.images[0].nbytes
    if config.dataset in PLANE:
        pixels = FRAME_BYTES
    kept = checkpoints.KEPT + 1
    total = kept * state_bytes + 2 * grids * pixels  # TensorBoard's events hold the grids, too
    free = folders.free_bytes(config.run_dir)
    print(
        f"Disk: {total / 1e6:.0f} MB at most ({kept} checkpoints of"
        f" {state_bytes / 1e6:.0f} MB, {grids} grids), {free / 1e6:.0f} MB free"
    )
