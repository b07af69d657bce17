"""--dry_run: what a command would do, for how long and in how much space. Writes nothing."""

import math
import statistics
import time
from collections import Counter

import numpy as np

import draws
import utils
from config import FLAGS
from datasets import conversion, dataset, origins, published
from pairs import PLANE
from run import checkpoints, folders, settings
from system import device
from system.errors import Refused

TRIALS = 3  # iterations that are timed, in memory, after one that is not
FRAME_BYTES = 300_000  # of one picture of points, about
SAMPLE = 200  # files that are decoded on trial, at most


def load_data(source, train_size):
    """Load a data set; of images not converted yet, decode some in memory alone.

    Then the Data are of these few images, with facts of all files but no fingerprint. Raises
    Refused.
    """
    if source.name in PLANE:
        return dataset.load(source, train_size)
    if published.is_missing(source.name, source.folder):
        raise Refused(
            f"--dataset {source.name}: nothing in {source.folder} yet; a training would download it"
        )
    if published.find(source.name, source.folder):
        return dataset.load(source, train_size)
    origin = origins.find(source.folder, source.pattern)
    if origin is None:
        return dataset.load(source, train_size)
    place, wanted = conversion.plan(origin, source)
    if conversion.read_manifest(place, wanted):
        return dataset.load(source, train_size)
    try:
        folders.check_folder(source.cache, source.folder)
    except Refused as refusal:
        raise Refused(f"--cache_dir {refusal}") from None
    with conversion.listing_of(origin) as listed:
        return try_some(source, origin, listed, train_size)


def try_some(source, origin, listed, train_size):
    """Decode some of the images listed and print what the conversion of all would take."""
    count = len(listed.names)
    some = range(0, count, math.ceil(count / SAMPLE))
    start = time.perf_counter()
    found = conversion.read_chunk(origin.path, listed, some, source.size, source.crop)
    seconds = (time.perf_counter() - start) * count / len(some)
    results = dict(zip(some, found, strict=True))
    bad = {listed.names[i]: result for i, result in results.items() if isinstance(result, str)}
    conversion.check_bad(origin.path, bad, len(some))
    good = [i for i in some if not isinstance(results[i], str)]
    channels = 1 if all(results[i][1] for i in good) else 3
    images = np.stack([results[i][0][..., :channels] for i in good])
    print(
        f"Conversion: at most {seconds:.0f} s for {count} files,"
        f" {images[0].nbytes * count / 1e6:.1f} MB in {source.cache}"
    )
    held_out = listed.held_out or dataset.held_out_count(count)
    counts = Counter(() if listed.labels is None else listed.labels.tolist())
    facts = dataset.Facts(
        shape=images.shape[1:],
        available=count - held_out,
        held_out=held_out,
        class_names=tuple(listed.class_names),
        label_counts=tuple(counts[k] for k in range(len(listed.class_names))),
        image_files=origin.pattern is not None,
        pixels="",
        fingerprint="",
    )
    labels = None if listed.labels is None else listed.labels[good]
    order = draws.fixed_permutation(len(images))
    held_out = order[: min(held_out, len(images) // 2)]
    return dataset.Data(images, labels, order[len(held_out) :], held_out, facts)


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
