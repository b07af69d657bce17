"""The streams of the screen, which no closed pipe and no lost terminal turns into a failure."""

import contextlib
import os
import shutil
import sys
import tempfile

from system.errors import Failed, Refused


@contextlib.contextmanager
def kept_open():
    """Let both streams take what nobody reads any more; gives a descriptor for the last words.

    That one is of stderr, even while `hushed` points descriptor 2 elsewhere.
    """
    words = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else os.dup(2)
    with (
        contextlib.redirect_stdout(Screen(sys.stdout)),
        contextlib.redirect_stderr(Screen(sys.stderr)),
    ):
        yield words


@contextlib.contextmanager
def hushed():
    """Keep off the screen what libraries write to descriptor 2, unless an error follows.

    That is where C++ writes, out of reach of sys.stderr. Refused and Failed say it all themselves.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            yield
        except (Refused, Failed):
            raise
        except Exception:
            os.dup2(kept, 2)
            aside.seek(0)
            shutil.copyfileobj(aside, sys.stderr.buffer)
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


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
    """Print on one line of stderr what is wrong, whatever names are in it."""
    print("main.py:", printable(str(error), None), file=sys.stderr)


def printable(text, length=200):
    """Return text with new lines and all that would upset a terminal escaped, cut to a length."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:length])
