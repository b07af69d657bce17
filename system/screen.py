"""What is written to the screen. A closed pipe or a lost terminal is not a failure."""

import contextlib
import os
import shutil
import sys
import tempfile

from system.errors import Failed, Refused


@contextlib.contextmanager
def kept_open():
    """Make both streams survive a closed pipe; give a file descriptor for a last message.

    The descriptor is stderr's, even while `hushed` points descriptor 2 elsewhere.
    """
    words = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else os.dup(2)
    with (
        contextlib.redirect_stdout(Screen(sys.stdout)),
        contextlib.redirect_stderr(Screen(sys.stderr)),
    ):
        yield words


@contextlib.contextmanager
def hushed():
    """Hide what libraries write to descriptor 2, unless an exception other than ours follows.

    C++ writes there, past sys.stderr. Refused and Failed say themselves what is wrong.
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
    """A stream that drops text when its reader is gone, so that no closed pipe ends a training."""

    def __init__(self, stream):
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.stream.reconfigure(errors="backslashreplace")

    def write(self, text):
        """Write and flush text; once that fails, this and all later text goes to /dev/null."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def complain(error):
    """Print an error as one line on stderr, whatever characters are in it."""
    print("main.py:", printable(str(error), None), file=sys.stderr)


def printable(text, length=200):
    """Return text cut to a length, with new lines and all that is not printable escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:length])
