"""Train a WGAN or a WGAN-GP, and make pictures with it: flags in, exit code out. See README.md."""

import os
import signal
import sys

import config
from errors import Failed, Refused


def main(argv):
    """Run one command line and return its exit code.

    0 done, 1 failed, 2 refused, 130 and 143 interrupted.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    sys.stdout.reconfigure(line_buffering=True)
    try:
        return run(config.parse(argv))
    except Refused as refusal:
        complain(refusal)
        return 2
    except Failed as failure:
        complain(failure)
        return 1
    except BrokenPipeError:
        # Whoever read the screen is gone; nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        complain(f"{error.filename or 'writing'}: {error.strerror}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted")
        return 130


def complain(error):
    """Say on one line of stderr what is wrong."""
    print("main.py:", " ".join(str(error).split("\n")), file=sys.stderr)


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
