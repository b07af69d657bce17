"""Train a WGAN or a WGAN-GP, and make pictures with it: flags in, exit code out. See README.md."""

import dataclasses
import sys
from pathlib import Path

import config
from system import device, screen, signals
from system.errors import Failed, Refused


def main(argv):
    """Run one command line and return its exit code.

    0 done, 1 failed, 2 refused, 129, 130 and 143 interrupted.
    """
    with screen.kept_open() as words:
        signals.listen(signals.end_at_once(words))
        try:
            return run(config.parse(argv))
        except Refused as refusal:
            screen.complain(refusal)
            return 2
        except Failed as failure:
            screen.complain(failure)
            return 1
        except OSError as error:
            screen.complain(f"{error.filename or 'writing'}: {error.strerror or error}")
            return 1
        except device.out_of_memory():
            screen.complain("out of memory: end other programs, or ask for fewer or smaller images")
            return 1


def run(given):
    """Decide what the given flags ask for, and do it; only what is needed is imported."""
    flags = config.Config(**given)
    if flags.gif:
        return make_gif(flags)
    return train(flags) if flags.train else use_generator(given)


def make_gif(flags):
    """Build training.gif again from the grids in a folder."""
    import utils
    from run import folders

    folder = folders.check_folder(flags.sample_dir, data_source(flags).folder)
    if flags.dry_run:
        count = len(utils.find_grids(folder))
        print(f"would build {Path(folder) / 'training.gif'} from the {count} train_*.png there")
        return 0
    path, count = utils.write_training_gif(folder)
    print(f"{path}: made from {count} grids")
    return 0


def train(flags):
    """Train the run that the flags describe, from scratch or on from its newest checkpoint."""
    from datasets import dataset
    from distributed import hosts
    from run import checkpoints, dry_run, folders, settings

    source, cluster = data_source(flags), hosts.find(flags.distribute)
    for folder in (flags.sample_dir, flags.run_dir):
        folders.check_folder(folder, source.folder)
        if cluster.is_chief:
            folders.check_free(folder)
    saved = checkpoints.list_checkpoints(flags.run_dir)
    load = dry_run.load_data if flags.dry_run else dataset.load
    data = load(source, flags.train_size)
    resolved = settings.resolve(flags, data.facts)
    settings.check_decay(resolved)
    known = None
    if saved:
        resolved, facts, known = settings.check_same(resolved, data.facts, resolved.run_dir)
        data = dataclasses.replace(data, facts=facts)
    if resolved.distribute != "none":
        device.import_tensorflow()
        from distributed import replicas

        count = replicas.check_batch(resolved.batch_size, resolved.distribute, cluster)
        if flags.dry_run:
            print(f"Replicas: {count}, of {len(cluster.hosts)} host(s)")
    if flags.dry_run:
        return plan(resolved, data.facts, *dry_run.training_task(resolved, saved), data)
    import train

    return train.train(resolved, data, cluster, saved, known)


def use_generator(given):
    """Do what needs a trained run, found by the given flags: score, export, or make pictures."""
    import sample
    from run import dry_run, folders, settings

    resolved, facts, path = settings.find(given)
    source = data_source(resolved)
    pictures = Path(resolved.sample_dir) / ("generated" if resolved.generate else "")
    folders.check_folder(resolved.export_dir if resolved.export else pictures, source.folder)
    if resolved.export:
        import export

        export.check_packages(resolved.export)
    if resolved.dry_run:
        return plan(resolved, facts, dry_run.pictures_task(resolved, path))
    if resolved.export:  # in float32, whatever the run computes in
        gan, _ = sample.load(dataclasses.replace(resolved, precision="float32"), facts)
        export.export(gan, resolved.export, resolved.seed)
        return 0
    if resolved.evaluate:
        return evaluate(resolved, facts, source)
    gan, weights = sample.load(resolved, facts)
    if resolved.generate:
        sample.generate(gan, pictures, resolved.generate, resolved.seed, resolved.label)
    else:
        sample.test(gan, pictures, resolved.seed)
        if resolved.visualize:
            sample.visualize(gan, pictures, resolved.seed, facts.class_names, weights)
    return 0


def evaluate(resolved, facts, source):
    """Score the pictures of a run against the images that it was trained with."""
    import sample
    from datasets import dataset
    from run import folders, settings

    folders.check_folder(resolved.run_dir, source.folder)
    data = dataset.load(source, resolved.train_size)
    settings.check_same_data(facts, data.facts, resolved.run_dir)
    device.import_tensorflow()
    from scores import evaluate, feature_networks

    dimensions = feature_networks.dimensions(data, resolved.feature_weights)
    evaluate.check_counts(data, resolved.evaluate_images, dimensions)
    gan, weights = sample.load(resolved, facts)
    network = feature_networks.feature_network(data, source, resolved.feature_weights)
    evaluate.evaluate(gan, weights, data, network, resolved.evaluate_images, resolved.seed)
    return 0


def plan(resolved, facts, task, state=0, data=None):
    """Print what the command without --dry_run would do; with data, what a training would cost."""
    from run import dry_run, settings

    if data and state >= settings.last_state(resolved):
        print(f"{resolved.run_dir} is at iteration {state}: nothing left to train")
        return 0
    dry_run.print_configuration(resolved, facts)
    device.import_tensorflow()
    from model import WGAN

    gan = WGAN(resolved, facts)
    dry_run.print_networks(gan, task)
    if data:
        dry_run.print_costs(gan, data, state)
    return 0


def data_source(flags):
    """Return which data set the flags name, and how to read it."""
    from datasets.dataset import Source

    folder = Path(flags.data_dir) / flags.dataset
    cache = Path(flags.cache_dir or Path(flags.data_dir) / ".cache")
    pattern = flags.input_fname_pattern or config.Config.input_fname_pattern
    return Source(flags.dataset, folder, cache, pattern, flags.output_size, flags.crop_size)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
