"""What SIGINT, SIGTERM and SIGHUP do before a training, during it, and while it waits for hosts.

SIGHUP comes when the terminal is closed. Signals that were ignored when the program started, as by
nohup, stay ignored.
"""

import contextlib
import os
import signal
import sys

ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # Ctrl-C, kill, a closed terminal


def listen(handler):
    """Let `handler` handle these signals, but for ignored ones; return {signal: handler before}."""
    heard = [n for n in ENDING if signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


@contextlib.contextmanager
def handled(handler):
    """Let `handler` handle these signals inside this context."""
    before = listen(handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def end_at_once(screen):
    """Make a handler that ends the process with a line on `screen`, a file descriptor.

    It raises no exception: a library might catch it while it is imported, or TensorFlow's C++ where
    it calls Python. What a run has on disk survives that, as it survives kill -9.
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
    """Collect signals in a list; the first does not end the process, a second one does.

    A second SIGHUP is ignored: shell and kernel each send one when a terminal is closed.
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
