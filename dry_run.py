"""--dry_run: say what a command would do, for how long and in how much space; change nothing."""

import math
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cache
import dataset
import device
import hosts
import official
import pictures
import runs
import settings
import train
import utils
from config import FLAGS, Config
from errors import Refused

TRIALS = 3  # iterations that are timed, in memory, after one that is not
SAMPLE = 2000  # files of a folder that are converted on trial, at least two batches


def dry_run(typed):
    """Print what the command without --dry_run would do; returns the exit code."""
    wanted = Config(**typed)
    if wanted.gif:
        if not utils.list_grids(wanted.sample_dir):
            raise Refused(f"{wanted.sample_dir}: no train_*.png there to make a gif of")
        print(f"would build {Path(wanted.sample_dir) / 'training.gif'} from the train_*.png there")
        return 0
    cluster = hosts.find(wanted)
    data = load_data(wanted) if wanted.train else None
    config, facts, state, task = plan_training(wanted, data.facts) if data else plan_pictures(typed)
    if data and state >= settings.last_state(config):
        print(f"{config.run_dir} is at iteration {state}: nothing left to train")
        return 0
    print_configuration(config, facts)
    device.import_tensorflow()
    from model import WGAN

    if config.distribute != "none":
        import distribute

        count = distribute.check_batch(config, cluster)
        print(f"Replicas: {count}, of {len(cluster.hosts)} host(s)")
    here = device.environment()
    gan = WGAN(config, facts)
    gan.generator.summary()
    gan.critic.summary()
    print(f"Device: {here['device']}, {here['threads']} threads")
    print(f"Would {task}; pictures go to {config.sample_dir}")
    if data:
        print_costs(gan, data, state)
    return 0


def plan_training(wanted, facts):
    """Return (config, facts, state to go on from, what would be done)."""
    config, state = settings.resolve(wanted, facts), 0
    if checkpoints := runs.list_checkpoints(config.run_dir):
        runs.check_same(config, facts, Path(config.run_dir))
        state = checkpoints[0][0]
    start = f"state {state}" if checkpoints else "scratch"
    task = f"train from {start} to state {settings.last_state(config)} in {config.run_dir}"
    return config, facts, state, task


def plan_pictures(typed):
    """Return the same for the modes that train nothing."""
    config, facts, source = runs.find(typed)
    what = f"{config.generate} pictures" if config.generate else "the test pictures"
    if config.evaluate:
        what = f"the scores of {config.evaluate_images} pictures"
    sweeps = " and the sweeps" if config.visualize else ""
    return config, facts, 0, f"make {what}{sweeps} with {source}"


def load_data(wanted):
    """Load the data set; a folder that is not converted yet for these settings is so on trial."""
    folder = dataset.folder_of(wanted)
    if official.is_missing(wanted.dataset, folder):
        raise Refused(
            f"--dataset {wanted.dataset}: nothing in {folder} yet; a training would download it"
        )
    if official.find(wanted.dataset, folder) or not folder.is_dir():
        return dataset.load(wanted)
    place, plan, listed = cache.plan(folder, wanted)
    if cache.read_manifest(place, plan):
        return dataset.load(wanted)
    with tempfile.TemporaryDirectory() as elsewhere:
        if runs.list_checkpoints(wanted.run_dir):  # all is needed to tell whether it is the same
            return dataset.load(replace(wanted, cache_dir=elsewhere))
        return try_folder(folder, wanted, listed, place, Path(elsewhere))


def try_folder(folder, wanted, listed, place, elsewhere):
    """Convert some files of a folder and print what the conversion of all to `place` would take.

    Returns a Data of these few images, with the facts of all.
    """
    names = [name for name, _, _ in listed]
    some = names[:: math.ceil(len(names) / max(SAMPLE, 2 * wanted.batch_size))]
    for name in some:
        link = elsewhere / wanted.dataset / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((folder / name).resolve())
    start = time.perf_counter()
    data = dataset.load(replace(wanted, data_dir=str(elsewhere), cache_dir=str(elsewhere / "made")))
    seconds = (time.perf_counter() - start) * len(names) / len(some)
    size = data.images[0].nbytes * len(names) / 1e6
    print(
        f"Conversion: about {seconds:.0f} s for {len(names)} files, {size:.1f} MB in {place.parent}"
    )
    if len(some) == len(names):
        return data
    held_out = dataset.held_out_count(len(names))
    facts = replace(data.facts, available=len(names) - held_out, held_out=held_out)
    if data.labels is not None:
        counts = Counter(name.split("/")[0] for name in names)
        classes = tuple(sorted(counts))
        facts = replace(facts, class_names=classes, label_counts=tuple(map(counts.get, classes)))
    return replace(data, facts=facts)


def print_configuration(config, facts):
    """Print the resolved flags and the data found."""
    for name in FLAGS:
        value = getattr(config, name)
        without_effect = value is None and FLAGS[name].default is not None
        print(f"{name:>20} {'(no effect)' if without_effect else value}")
    height, width, channels = facts.shape
    print(
        f"Data: {config.dataset}, {config.train_size} training images of {facts.available},"
        f" {facts.held_out} held out, {height}x{width}, {channels} channels,"
        f" {len(facts.class_names) or 'no'} classes"
    )


def print_costs(gan, data, state):
    """Measure a few iterations in memory, and print time and disk to expect."""
    config = gan.config
    times = []
    for i in range(1, TRIALS + 2):
        start = time.perf_counter()
        float(gan.train_iteration(data, i + 20)["g_loss"])  # beyond the boosted ones
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    end = settings.last_state(config)
    updates = config.updates_before(end + 1) - config.updates_before(state + 1)
    # A boosted iteration takes longer: time goes with the critic updates.
    total = seconds * updates / config.critic_num
    alone = "" if config.distribute == "none" else " on one device"
    print(f"Time: {seconds:.2f} s per iteration{alone}, about {total / 3600:.1f} h to the end")
    trained = [*gan.generator.variables, *gan.average.variables, *gan.critic.variables]
    state_bytes = sum(variable.value.numpy().nbytes for variable in trained)
    for optimizer in (gan.generator_optimizer, gan.critic_optimizer):
        state_bytes += sum(variable.value.numpy().nbytes for variable in optimizer.variables)
    grids = (end - state) // config.sample_every + 1
    _, labels, count = pictures.grid_layout(config, data.facts)
    pixels = (len(labels) if labels is not None else count) * data.images[0].nbytes
    size = (train.KEPT + 1) * state_bytes + grids * pixels
    free = runs.free_bytes(config.run_dir)
    print(
        f"Disk: {size / 1e6:.0f} MB at most ({train.KEPT + 1} checkpoints of"
        f" {state_bytes / 1e6:.0f} MB, {grids} grids), {free / 1e6:.0f} MB free"
    )
