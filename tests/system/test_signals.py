"""Signals: a terminal that is closed, nohup, and a signal in the middle of a write."""

import contextlib
import io
import os
import pty
import signal
import sys

import pytest
from conftest import PATIENCE, ROOT, SMALL, log_rows, run_to_end, wait_until

from run import checkpoints
from system import screen, signals

# The program in a session of its own, whose terminal is its stdin: closing it sends SIGHUP.
ON_A_TERMINAL = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.close(os.open(os.ttyname(0), os.O_RDWR))
import main
sys.exit(main.main(sys.argv[1:]))
"""


def test_a_closed_terminal_saves_the_run(start, folder):
    words = f"--train {SMALL} --log_every 1 --epoch 100000 --save_every 100000"
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    line = [sys.executable, "-c", ON_A_TERMINAL, *words.split()]
    process = start(line, cwd=folder.parent.parent, **streams)
    os.close(theirs)

    def has_begun():
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 16)
        return len(log_rows(folder)) > 5

    wait_until(has_begun, process)
    os.close(ours)
    assert process.wait(PATIENCE) == 129
    saved = checkpoints.list_checkpoints(folder)[0][0]
    assert saved > 40 and log_rows(folder)[-1]["iteration"] == saved


def heard(script):
    """Run lines of Python that know os, signal and signals; returns the ended process."""
    first = f"import os, signal, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    return run_to_end([sys.executable, "-c", f"{first}from system import signals\n{script}"])


def test_a_terminal_closed_before_there_is_anything_to_save_is_one_line():
    ended = heard("signals.listen(signals.end_at_once(2))\nos.kill(os.getpid(), signal.SIGHUP)")
    assert (ended.returncode, ended.stderr) == (129, "main.py: interrupted\n")


# A sitecustomize.py, which Python runs before main.py: a signal comes as a module is imported.
AT_AN_IMPORT = """
import os, signal, sys

def hear(event, words):
    if event == "import" and words[0] == "{module}":
        os.kill(os.getpid(), {number})

signal.signal({ignored}, signal.SIG_IGN)
sys.addaudithook(hear)
"""


@pytest.fixture
def interrupted(program, monkeypatch, tmp_path):
    """Return a function that runs `main.py --help` and interrupts it as it imports a module."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def run(module, number, ignored=signal.SIGUSR1):
        text = AT_AN_IMPORT.format(module=module, number=int(number), ignored=int(ignored))
        (tmp_path / "sitecustomize.py").write_text(text)
        ended = program("--help")
        return ended.returncode, ended.stderr, bool(ended.stdout)

    return run


@pytest.mark.parametrize("module", ["system", "system.signals", "dataclasses", "config", "difflib"])
def test_ctrl_c_is_one_line_from_the_first_line_on(interrupted, module):
    assert interrupted(module, signal.SIGINT) == (130, "main.py: interrupted\n", False)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_other_signals_during_the_imports_are_one_line_too(interrupted, number, code):
    assert interrupted("config", number) == (code, "main.py: interrupted\n", False)


@pytest.mark.parametrize("number", signals.ENDING)
def test_signals_that_were_ignored_at_the_start_stay_ignored(interrupted, number):
    assert interrupted("config", number, ignored=number) == (0, "", True)


def test_under_nohup_a_closed_terminal_is_not_heard():
    ended = heard(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "signals.listen(signals.end_at_once(2))\nos.kill(os.getpid(), signal.SIGHUP)\n"
        "with signals.caught() as received:\n os.kill(os.getpid(), signal.SIGHUP)\nprint(received)",
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "[]\n", "")


@pytest.mark.parametrize("number, code", [("SIGHUP", 0), ("SIGTERM", 143)])
def test_the_two_hangups_of_a_terminal_are_one_interruption(number, code):
    ended = heard(
        "with signals.caught() as received:\n os.kill(os.getpid(), signal.SIGHUP)\n"
        f" os.kill(os.getpid(), signal.{number})\nprint(received)"
    )
    assert (ended.returncode, ended.stdout) == (code, "" if code else "[1]\n")


def test_a_signal_in_the_middle_of_a_write_to_the_screen_is_collected(monkeypatch):
    class Slow(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            if not received:
                signal.raise_signal(signal.SIGTERM)
            return len(data)

    stream = screen.Screen(io.TextIOWrapper(io.BufferedWriter(Slow())))
    monkeypatch.setattr(sys, "stderr", stream)
    with signals.caught() as received:
        print("text", file=sys.stderr, flush=True)
    assert received == [signal.SIGTERM]
