"""What SIGINT, SIGTERM and SIGHUP do: before a training, during one, and while it waits for others.

SIGHUP says that the terminal was closed. Signals that were ignored when the program started, as by
nohup, stay ignored.
"""

import contextlib
import os
import signal
import sys

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # Ctrl-C, kill, a closed terminal


def listen(handler):
    """Give these signals to `handler`, as signal.signal does; returns {signal: handler before}."""
    heard = [n for n in ENDING if signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


@contextlib.contextmanager
def handled(handler):
    """Do the same for a while."""
    before = listen(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def end_at_once(screen):
    """Make a handler that ends the process with a line on `screen`, a file descriptor.

    Not by an exception, which would be caught in the middle of some library's import, or where
    TensorFlow's C++ has called Python. What a run has on disk outlives that, as it does kill -9.
    """
    line = b"main.py: interrupted\n"
    if os.isatty(screen):
        line = b"\n" + line  # below a progress bar

    def end(number, frame):
        with contextlib.suppress(OSError):  # nobody reads `screen` any more
            os.write(screen, line)
        os._exit(128 + number)

    return end


@contextlib.contextmanager
def caught():
    """Collect signals in a list instead of dying of them; a second one ends the process.

    But not a second SIGHUP: shell and kernel each send one when a terminal is closed.
    """
    from tqdm import tqdm

    received = []

    def receive(number, frame):
        if received and number == signal.SIGHUP:
            return
        if received:
            end_at_once(2)(number, frame)
        received.append(number)
        with contextlib.suppress(RuntimeError):  # it came in the middle of a write to the screen
            tqdm.write("Stopping after this iteration; once more stops at once.", file=sys.stderr)

    with handled(receive):
        yield received


def killable():
    """Let the signals end the process by themselves: a handler would wait for a long call's end."""
    return handled(signal.SIG_DFL)
