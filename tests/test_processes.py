"""What the tests promise of themselves: no process outlives its test, and all hear signals."""

import os
import select
import signal
import subprocess
import sys

import pytest
from conftest import PATIENCE, SIGNALS, run_to_end, starting

PARENT = """
import subprocess, sys, time
child = "import time; print('here', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(600)
"""


def test_no_process_outlives_a_test_that_fails_nor_do_its_children():
    with pytest.raises(AssertionError), starting() as start:
        parent = start([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
        assert parent.stdout.readline() == b"here\n"  # says the child, which writes there, too
        screen = os.dup(parent.stdout.fileno())
        raise AssertionError
    assert parent.returncode == -signal.SIGKILL and parent.stdout.closed
    assert select.select([screen], [], [], PATIENCE)[0]
    assert os.read(screen, 1) == b""  # the end, as nobody is left to write
    os.close(screen)


def test_processes_hear_signals_however_the_tests_were_started():
    text = f"import signal; print([signal.getsignal(n) for n in {[*map(int, SIGNALS)]}])"
    done = run_to_end([sys.executable, "-c", text])
    assert "SIG_IGN" not in done.stdout and done.stdout.count("SIG_DFL") == 2  # Python has SIGINT's
