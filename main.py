"""Train a WGAN or a WGAN-GP, and make pictures with it: flags in, exit code out. See README.md."""

import sys

try:
    from system import signals

    if __name__ == "__main__":  # before the other imports, which take a tenth of a second
        signals.listen(signals.end_at_once(2))
except KeyboardInterrupt:  # before it listens
    print("main.py: interrupted", file=sys.stderr)
    sys.exit(130)

import dataclasses
from pathlib import Path

import config
from pairs import PLANE
from system import device, errors, screen
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
        except errors.named_failures() as error:
            screen.complain(errors.explain_failure(error))
            return 1


def run(flags):
    """Do what a Config of flags asks for; only what it needs is imported."""
    if flags.gif:
        return make_gif(flags)
    device.check_choices(flags)
    return start_training(flags) if flags.train else use_generator(flags)


def make_gif(flags):
    """Build training.gif again from the grids in a folder."""
    import utils
    from datasets import dataset
    from run import folders

    folder = folders.check_folder(flags.sample_dir, dataset.source_of(flags).folder)
    if flags.dry_run:
        count = len(utils.find_grids(folder))
        print(f"would build {Path(folder) / 'training.gif'} from the {count} train_*.png there")
        return 0
    path, count = utils.write_training_gif(folder)
    print(f"{path}: made from {count} grids")
    return 0


# Training.


def start_training(flags):
    """Train the run that the flags describe, from scratch or on from its newest checkpoint."""
    from datasets import dataset
    from distributed import hosts
    from run import description, dry_run, folders

    source, cluster = dataset.source_of(flags), hosts.find(flags.distribute)
    for folder in (flags.sample_dir, flags.run_dir):
        folders.check_folder(folder, source.folder)
        if cluster.is_chief:
            folders.check_free(folder)
    load = dry_run.load_data if flags.dry_run else dataset.load
    data = load(source, flags.train_size)
    run = description.to_train(flags, data.facts)
    data = dataclasses.replace(data, facts=run.facts)
    if flags.distribute != "none":
        device.import_tensorflow()
        from distributed import replicas

        count = replicas.check_batch(flags.batch_size, flags.distribute, cluster)
        print(f"Replicas: {count}, of {len(cluster.hosts)} host(s)")
    if flags.dry_run:
        return plan_training(run, data)
    import train

    return train.train(run, data, cluster)


def plan_training(run, data):
    """Print what a training would do, and what it would cost."""
    from run import dry_run, settings

    start = run.checkpoints[0][0] if run.checkpoints else 0
    if start >= settings.last_iteration(run.config):
        print(f"{run.folder} is at iteration {start}: nothing left to train")
        return 0
    dry_run.print_configuration(run.config, run.facts)
    from model import WGAN

    gan = WGAN(run.config, run.facts)
    dry_run.print_networks(gan, run)
    dry_run.print_costs(gan, data, start)
    return 0


# A trained generator.


def use_generator(flags):
    """Score, export or draw with the trained generator that the flags name."""
    from datasets import dataset
    from run import description, dry_run, folders

    run = description.find(flags)
    pictures = Path(flags.sample_dir) / ("generated" if flags.generate else "")
    folder = run.config.export_dir if flags.export else pictures
    folders.check_folder(folder, dataset.source_of(run.config).folder)
    if flags.export:
        import export

        export.check(flags.export, run.config.export_dir)
    if flags.dry_run:
        dry_run.print_configuration(run.config, run.facts)
        from model import WGAN

        dry_run.print_networks(WGAN(run.config, run.facts), run)
    elif flags.export:  # in float32, whatever the run computes in
        config = dataclasses.replace(run.config, precision="float32")
        gan = load_generator(run._replace(config=config), averaged_only=True)
        export.export(gan, flags.export, flags.seed)
    elif run.config.dataset in PLANE:
        use_points(run, pictures)
    elif flags.evaluate:
        score_generator(run)
    else:
        draw_pictures(run, pictures)
    return 0


def load_generator(run, averaged_only=False):
    """Load the newest weights of a run as a WGAN, and say which they are."""
    from model import WGAN

    gan = WGAN.load(run, averaged_only)
    kind = "" if run.checkpoints else "the shipped generator "
    print(f"Weights: {kind}{gan.source}")
    if not run.config.export:
        device.say_compiling()
    return gan


def draw_pictures(run, folder):
    """Write single pictures, or the test pictures and what --visualize adds to them."""
    import sample

    config, gan = run.config, load_generator(run, averaged_only=True)
    if config.generate:
        sample.generate(gan, folder, config.generate, config.seed, config.label)
    else:
        sample.test(gan, folder, config.seed)
        if config.visualize:
            sample.visualize(gan, folder, config.seed)


def use_points(run, folder):
    """Score or draw points in a plane."""
    from datasets import dataset
    from scores import plane

    flags, gan = run.config, load_generator(run)
    data = dataset.load(dataset.source_of(flags), flags.train_size)
    if flags.evaluate:
        plane.evaluate(gan, data, flags.evaluate_images, flags.seed)
    elif flags.generate:
        plane.generate(gan, data, folder, flags.generate, flags.seed)
    else:
        plane.test(gan, data, folder)


def score_generator(run):
    """Score the pictures of a run against the images that it was trained with."""
    from datasets import dataset
    from run import description, folders

    config, source = run.config, dataset.source_of(run.config)
    folders.check_folder(config.run_dir, source.folder)
    data = dataset.load(source, config.train_size)
    if changed := description.changed_data(run.facts, data.facts):
        raise Refused(f"{run.folder}: {'; '.join(changed)}; evaluate with the data of the run")
    device.import_tensorflow()
    from scores import evaluate, feature_networks

    dimensions = feature_networks.dimensions(data, config.feature_weights)
    evaluate.check_counts(data, config.evaluate_images, dimensions)
    gan = load_generator(run)
    network = feature_networks.feature_network(data, source, config.feature_weights)
    evaluate.evaluate(gan, data, network, config.evaluate_images, config.seed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
