"""The streams of the screen, which no closed pipe and no lost terminal turns into a failure."""

import contextlib
import os
import sys


@contextlib.contextmanager
def kept_open():
    """Let both streams take what nobody reads any more; gives a descriptor for the last words.

    That one is of stderr, even while `device.import_tensorflow` points descriptor 2 elsewhere.
    """
    words = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else os.dup(2)
    with (
        contextlib.redirect_stdout(Screen(sys.stdout)),
        contextlib.redirect_stderr(Screen(sys.stderr)),
    ):
        yield words


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
    """Print on one line of stderr what is wrong."""
    print("main.py:", " ".join(str(error).split("\n")), file=sys.stderr)


def printable(text):
    """Return text without what would upset a terminal, cut to a line's length."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:200])
