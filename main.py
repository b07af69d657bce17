"""Train a WGAN or a WGAN-GP, and make pictures with it: flags in, exit code out. See README.md."""

import signal
import sys

import config
from errors import Failed, Refused


def main(argv):
    """Run one command line and return its exit code.

    0 done, 1 failed, 2 refused, 130 and 143 interrupted.
    """
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        typed = config.parse(argv)
        return run(typed)
    except Refused as refusal:
        print(f"main.py: {refusal}", file=sys.stderr)
        return 2
    except Failed as failure:
        print(f"main.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("main.py: interrupted", file=sys.stderr)
        return 130


def run(typed):
    """Do what the typed flags ask for; only what is needed is imported."""
    wanted = config.Config(**typed)
    if wanted.dry_run:
        import dry_run

        return dry_run.dry_run(typed)
    if wanted.gif:
        import utils

        path, count = utils.write_training_gif(wanted.sample_dir)
        print(f"{path}: made from {count} grids")
        return 0
    if wanted.train:
        import train

        return train.train(typed)
    import pictures

    pictures.generate(typed) if wanted.generate else pictures.test(typed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
