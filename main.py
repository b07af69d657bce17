"""Train a WGAN or a WGAN-GP, and make pictures with it: flags in, exit code out. See README.md."""

import contextlib
import os
import sys

import config
import device
import signals
from errors import Failed, Refused


def main(argv):
    """Run one command line and return its exit code.

    0 done, 1 failed, 2 refused, 130 and 143 interrupted.
    """
    # Where complaints go even while TensorFlow is imported, see device.py.
    screen = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else os.dup(2)
    signals.listen(signals.end_at_once(screen))
    with (
        contextlib.redirect_stdout(Screen(sys.stdout)),
        contextlib.redirect_stderr(Screen(sys.stderr)),
    ):
        try:
            return run(config.parse(argv))
        except Refused as refusal:
            complain(refusal)
            return 2
        except Failed as failure:
            complain(failure)
            return 1
        except OSError as error:
            complain(f"{error.filename or 'writing'}: {error.strerror}")
            return 1
        except device.out_of_memory():
            complain("out of memory: end other programs, or ask for fewer or smaller images")
            return 1


class Screen:
    """A stream that takes what nobody reads any more, so that no closed pipe ends a training."""

    def __init__(self, stream):
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        """Write and flush text, or nothing where that fails."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


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
    if wanted.evaluate:
        import evaluate

        evaluate.evaluate(typed)
        return 0
    import pictures

    if wanted.generate:
        pictures.generate(typed)
    else:
        pictures.test(typed)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
