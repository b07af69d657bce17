"""Two hosts, here two processes, train one run: alike, until one of them is stopped or lost."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import (
    PATIENCE,
    ROOT,
    SMALL,
    assert_same_run,
    free_port,
    starting,
    wait_until,
    write_images,
)

from run import checkpoints, folders

HOSTS = f"--train --distribute multiworker {SMALL}"
# The program, which also tells what its networks are in the end.
HOST = """
import hashlib, sys
sys.path.insert(0, {root!r})
import main, train
whole = train.Training.loop
def loop(self, stop):
    whole(self, stop)
    total = hashlib.sha256()
    for variable in (*self.gan.generator.variables, *self.gan.critic.variables):
        total.update(variable.numpy().tobytes())
    print("weights", total.hexdigest())
train.Training.loop = loop
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture
def start_hosts(start, tmp_path):
    """Return `hosts_of` for processes of this test, in its folder."""
    return functools.partial(hosts_of, start, tmp_path)


def hosts_of(start, folder, *words, only=None):
    """Start a process for each of the lists of words, the hosts of one cluster, or `only` some."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in words]
    hosts = []
    for i, flags in enumerate(words):
        if only is not None and i not in only:
            continue
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
        environment = os.environ | {"TF_CONFIG": json.dumps(task)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        line = [sys.executable, "-c", HOST.format(root=str(ROOT)), *flags.split()]
        hosts.append(start(line, cwd=folder, env=environment, **pipes))
    return hosts


def ends(hosts):
    """Wait for the hosts; returns (exit code, stdout, stderr) of each."""
    texts = [host.communicate(timeout=PATIENCE) for host in hosts]
    return [(host.returncode, *text) for host, text in zip(hosts, texts, strict=True)]


def train_on_two_hosts(start_hosts, name, words):
    words = f"{HOSTS} {words} --checkpoint_dir {name} --sample_dir {name}/samples"
    return ends(start_hosts(words, words))


def weights(screen):
    return re.search(r"weights (\w+)", screen)[1]


def test_hosts_that_would_train_different_runs_refuse(start_hosts, image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 10"
    found = ends(start_hosts(words, f"{words} --seed 1 --log_every 5"))
    for (code, _, errors), values in zip(found, [(10, 0), (5, 1)], strict=True):
        here = "log_every is {}, seed is {}".format(*values)
        told = f"main.py: the hosts differ: here {here}; give all of them the same values\n"
        assert (code, errors) == (2, told)
    assert {path.name for path in (tmp_path / "checkpoint/photos_8_8_8").iterdir()} == {".lock"}


RUN_OF_TWO = "--conditional True --noise 0.1 --epoch 100000 --max_iterations 200"


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """A whole training by two hosts: its data, its run in `whole`, and how the hosts ended."""
    folder = tmp_path_factory.mktemp("two")
    write_images(folder, classes=2)
    with starting() as start:
        start_hosts = functools.partial(hosts_of, start, folder)
        return folder, train_on_two_hosts(start_hosts, "whole", RUN_OF_TWO)


@pytest.mark.slow
def test_two_hosts_agree_and_the_first_one_writes(run_of_two):
    (code, screen, _), (other, followed, _) = run_of_two[1]
    assert (code, other) == (0, 0)
    assert "2 replicas" in screen and "written by the first host" in followed
    assert weights(screen) == weights(followed)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_host_stops_the_other_and_both_go_on_exactly(
    start_hosts, run_of_two, tmp_path, killed
):
    whole, ((_, screen, _), _) = run_of_two
    shutil.copytree(whole / "data", tmp_path / "data")
    places = "--checkpoint_dir broken --sample_dir broken/samples"
    long = f"{HOSTS} {RUN_OF_TWO} {places}".replace("iterations 200", "iterations 100000")
    hosts = start_hosts(long, long)
    folder = tmp_path / "broken/photos_8_8_8"
    wait_until((folder / "ckpt-20.index").exists, hosts[0])
    hosts[killed].kill()
    left = ends(hosts)[1 - killed]
    assert left[0] == 1 and "Traceback" not in left[2]
    assert "another host is lost" in left[2].splitlines()[-1]
    assert 20 <= checkpoints.list_checkpoints(folder)[0][0] < 200
    again = train_on_two_hosts(start_hosts, "broken", RUN_OF_TWO)
    assert [end[0] for end in again] == [0, 0]
    assert weights(again[0][1]) == weights(again[1][1]) == weights(screen)
    whole = whole / "whole"
    assert_same_run(whole / "photos_8_8_8", folder, whole / "samples", tmp_path / "broken/samples")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_host_stops_both_after_saving(start_hosts, image_folder, tmp_path, asked):
    image_folder("photos")
    words = f"{HOSTS} --epoch 100000"
    hosts = start_hosts(words, words)
    folder = tmp_path / "checkpoint/photos_8_8_8"
    wait_until((folder / "ckpt-20.index").exists, hosts[0])
    hosts[asked].send_signal(signal.SIGTERM)
    (code, screen, _), (other, _, _) = ends(hosts)
    assert (code, other) == (143, 143)
    state = int(re.search(r"Interrupted: iteration (\d+) is saved", screen)[1])
    assert checkpoints.list_checkpoints(folder)[0][0] == state


def read_until(host, words):
    """Read a host's screen up to a line with these words."""
    for line in host.stdout:
        if words in line:
            return
    raise AssertionError(f"it ended without {words!r}: {host.stderr.read()}")


@pytest.mark.slow
def test_a_signal_before_the_first_iteration_stops_both_after_saving(start_hosts, image_folder):
    image_folder("photos")
    words = f"{HOSTS} --epoch 100000"
    hosts = start_hosts(words, words)
    read_until(hosts[1], "Device: ")
    hosts[1].send_signal(signal.SIGTERM)
    (code, screen, _), (other, _, _) = ends(hosts)
    assert (code, other) == (143, 143)
    assert re.search(r"Interrupted: iteration \d+ is saved", screen)


@pytest.mark.slow
def test_the_first_host_refuses_a_locked_folder_without_the_others(
    start_hosts, image_folder, tmp_path
):
    image_folder("photos")
    with folders.claim(tmp_path / "samples"):
        ((code, screen, errors),) = ends(start_hosts(HOSTS, HOSTS, only=[0]))
    assert (code, screen) == (2, "") and "in use by another command" in errors
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "number"), [(0, signal.SIGINT), (0, signal.SIGTERM), (1, signal.SIGTERM)]
)
def test_a_signal_ends_a_host_that_waits(start_hosts, image_folder, index, number):
    image_folder("photos")
    (host,) = start_hosts(*[f"{HOSTS} --max_iterations 10"] * 2, only=[index])
    read_until(host, "waiting for 127.0.0.1")
    time.sleep(2)  # it waits in TensorFlow by then
    host.send_signal(number)
    ((code, _, errors),) = ends([host])
    assert (code, errors) == (-number, "")


@pytest.mark.slow
def test_hosts_that_see_other_checkpoints_refuse(start_hosts, run_of_two, tmp_path):
    shutil.copytree(run_of_two[0], tmp_path, dirs_exist_ok=True)
    words = f"{HOSTS} {RUN_OF_TWO} --max_iterations 220 --checkpoint_dir whole"
    found = ends(start_hosts(words, f"{words} --checkpoint_dir elsewhere"))
    for (code, _, errors), state in zip(found, (200, None), strict=True):
        assert code == 2 and f"here the newest checkpoint is {state}; give" in errors


@pytest.mark.slow
def test_a_host_that_cannot_read_the_first_ones_checkpoint_says_so(
    start_hosts, run_of_two, tmp_path
):
    shutil.copytree(run_of_two[0], tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "elsewhere")
    next((tmp_path / "elsewhere/photos_8_8_8").glob("ckpt-200.data*")).write_bytes(b"")
    words = f"{HOSTS} {RUN_OF_TWO} --max_iterations 220 --checkpoint_dir whole"
    found = ends(start_hosts(words, f"{words} --checkpoint_dir elsewhere"))
    assert [end[0] for end in found] == [1, 1]
    assert "must be a folder that all hosts see" in found[1][2]


def test_a_dry_run_reads_the_hosts_and_cuts_the_batch(image_folder, here, still, monkeypatch):
    image_folder("photos")
    words = HOSTS.replace("--train", "--train --dry_run")
    monkeypatch.delenv("TF_CONFIG", raising=False)
    code, _, errors = here(words)
    assert code == 2 and "TF_CONFIG is not set" in errors
    names = [f"127.0.0.1:{i}" for i in (1, 2, 3)]
    task = {"cluster": {"worker": names[:2]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    code, screen, _ = here(words)
    assert code == 0 and "Replicas: 2, of 2 host(s)" in screen and "on one device" in screen
    task["cluster"]["worker"] = names
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    code, _, errors = here(words)
    assert code == 2 and "--batch_size 8: cannot be cut into 3 equal parts" in errors
