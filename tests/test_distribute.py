"""Several replicas train the same run: two devices of one host, and two hosts on this one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT, SMALL, assert_same_run, log_rows, make_data, make_gan, write_images
from numpy.testing import assert_array_equal

import distribute
import runs
from benchmark_replicas import free_port

# A process needs its devices before its first computation, hence one per test.
TWO_DEVICES = """
import sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
import device
tf = device.import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""
COMPARE = """
import json
import numpy as np
import distribute, hosts, model
from conftest import make_config, make_data, values_of
wanted = make_config(distribute="mirrored")
replicas = distribute.connect(wanted, hosts.find(wanted))
assert replicas.total == 2
for values in {cases!r}:
    data = make_data((8, 8, 1), classes=2, images=200)
    config = make_config(data.facts, optimizer="sgd", learning_rate=1e-4, **values)
    gans = [model.WGAN(config, data.facts, chosen) for chosen in (None, replicas)]
    for i in range(1, 21):
        numbers = [gan.train_iteration(data, i) for gan in gans]
    numbers = [
        [float(x) for x in measured.values()] + [float(gan.validate(data))]
        for measured, gan in zip(numbers, gans)
    ]
    np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-6, err_msg=str(values))
    for name in ("critic", "generator", "average"):
        for a, b in zip(*(values_of(getattr(gan, name)) for gan in gans)):
            np.testing.assert_allclose(a, b, atol=2e-5, err_msg=str(values))
    first = np.zeros((3, config.z_dim), np.float32)
    labels = np.zeros(3, np.int32) if config.conditional else None
    a, b = (gan.sample(first, labels).astype(int) for gan in gans)
    assert abs(a - b).max() <= 1
print("agreed")
"""
CASES = [
    {"noise": 0.1, "critic_norm": "layer"},
    {"mode": "regular", "critic_norm": "none", "ema": 0.0},
    {"arch": "dcgan", "conditional": True},
    {"arch": "dcgan", "mode": "regular", "critic_boost": 7},  # batch norm in both networks
]
HOSTS = f"--train --distribute multiworker {SMALL}"
# The program, which also tells what its networks are in the end.
HOST = """
import hashlib, sys
sys.path.insert(0, {root!r})
import main, train
whole = train.Training.loop
def loop(self):
    stopped = whole(self)
    total = hashlib.sha256()
    for variable in (*self.gan.generator.variables, *self.gan.critic.variables):
        total.update(variable.numpy().tobytes())
    print("weights", total.hexdigest())
    return stopped
train.Training.loop = loop
sys.exit(main.main(sys.argv[1:]))
"""


def run_on_two_devices(text, *words, cwd=None):
    text = TWO_DEVICES.format(root=str(ROOT)) + text
    return subprocess.run(
        [sys.executable, "-c", text, *words], cwd=cwd, capture_output=True, text=True, timeout=300
    )


@pytest.mark.program
def test_one_and_two_replicas_agree_over_twenty_iterations():
    done = run_on_two_devices(COMPARE.format(cases=CASES))
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.program
def test_in_bfloat16_two_replicas_train():
    text = COMPARE.replace("rtol=1e-3, atol=1e-6", "rtol=0.1, atol=0.1").replace("2e-5", "2e-3")
    text = text.replace("<= 1", "<= 9")
    cases = [{"precision": "bfloat16", "arch": arch} for arch in ("symmetric", "dcgan")]
    done = run_on_two_devices(text.format(cases=cases))
    assert done.stdout == "agreed\n", done.stderr


@pytest.mark.program
def test_runs_on_the_same_replicas_repeat_and_pass_to_one_device_and_back(image_folder, tmp_path):
    image_folder("photos")
    program = "import main\nfor words in sys.argv[1:]: assert main.main(words.split()) == 0"

    def run(name, *starts):
        places = f"--checkpoint_dir {name} --sample_dir {name}/samples"
        words = [f"--train {SMALL} {places} {start}" for start in starts]
        done = run_on_two_devices(program, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mirrored = "--distribute mirrored --max_iterations"
    run("one", f"{mirrored} 40")
    run("two", f"{mirrored} 20")
    screen = run("two", f"{mirrored} 40")
    assert "2 replicas" in screen and "Going on from state 20" in screen
    folders = [tmp_path / name / "photos_8_8_8" for name in ("one", "two")]
    assert_same_run(*folders, *(tmp_path / name / "samples" for name in ("one", "two")))
    screen = run("two", "--max_iterations 50", f"{mirrored} 60")
    assert "The run was on 2 replicas, strategy tf.distribute: it goes on" in screen
    assert "The run was on 1 replica, strategy none: it goes on" in screen
    assert [row["iteration"] for row in log_rows(folders[1])] == [10, 20, 30, 40, 50, 60]


def test_a_batch_that_cannot_be_cut_is_refused(image_folder, tmp_path):
    image_folder("photos")
    program = "import main\nsys.exit(main.main(sys.argv[1:]))"
    words = f"--train {SMALL} --batch_size 9 --distribute mirrored"
    done = run_on_two_devices(program, *words.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(r"--batch_size 9: cannot be cut into 2 equal parts", done.stderr)
    assert not (tmp_path / "checkpoint").exists() and not (tmp_path / "samples").exists()


# Two hosts.


def start_hosts(tmp_path, *words, only=None):
    """Start a process for each of the lists of words, the hosts of one cluster, or `only` some."""
    addresses = [f"127.0.0.1:{free_port()}" for _ in words]
    hosts = []
    for i, flags in enumerate(words):
        if only is not None and i not in only:
            continue
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
        hosts.append(
            subprocess.Popen(
                [sys.executable, "-c", HOST.format(root=str(ROOT)), *flags.split()],
                cwd=tmp_path,
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return hosts


def ends(hosts):
    """Wait for the hosts; returns (exit code, stdout, stderr) of each."""
    texts = [host.communicate(timeout=200) for host in hosts]
    return [(host.returncode, *text) for host, text in zip(hosts, texts, strict=True)]


def train_on_two_hosts(tmp_path, name, words):
    words = f"{HOSTS} {words} --checkpoint_dir {name} --sample_dir {name}/samples"
    return ends(start_hosts(tmp_path, words, words))


def weights(screen):
    return re.search(r"weights (\w+)", screen)[1]


def wait_for(path):
    for _ in range(1000):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"no {path}")


RUN_OF_TWO = "--conditional True --noise 0.1 --max_iterations 200"


@pytest.fixture(scope="module")
def run_of_two(tmp_path_factory):
    """A whole training by two hosts: its data, its run in `whole`, and how the hosts ended."""
    folder = tmp_path_factory.mktemp("two")
    write_images(folder, classes=2)
    return folder, train_on_two_hosts(folder, "whole", RUN_OF_TWO)


@pytest.mark.program
def test_two_hosts_agree_and_the_first_one_writes(run_of_two):
    (code, screen, _), (other, followed, _) = run_of_two[1]
    assert (code, other) == (0, 0)
    assert "2 replicas" in screen and "written by the first host" in followed
    assert weights(screen) == weights(followed)


@pytest.mark.program
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_host_stops_the_other_and_both_go_on_exactly(run_of_two, tmp_path, killed):
    whole, ((_, screen, _), _) = run_of_two
    shutil.copytree(whole / "data", tmp_path / "data")
    places = "--checkpoint_dir broken --sample_dir broken/samples"
    long = f"{HOSTS} {RUN_OF_TWO} {places}".replace("iterations 200", "iterations 100000")
    hosts = start_hosts(tmp_path, long, long)
    wait_for(tmp_path / "broken/photos_8_8_8/ckpt-20.index")
    hosts[killed].kill()
    left = ends(hosts)[1 - killed]
    assert left[0] == 1 and "Traceback" not in left[2]
    assert "another host is lost" in left[2].splitlines()[-1]
    folder = tmp_path / "broken/photos_8_8_8"
    assert 20 <= runs.list_checkpoints(folder)[0][0] < 200
    again = train_on_two_hosts(tmp_path, "broken", RUN_OF_TWO)
    assert [end[0] for end in again] == [0, 0]
    assert weights(again[0][1]) == weights(again[1][1]) == weights(screen)
    whole = whole / "whole"
    assert_same_run(whole / "photos_8_8_8", folder, whole / "samples", tmp_path / "broken/samples")


@pytest.mark.program
@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_host_stops_both_after_saving(image_folder, tmp_path, asked):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 100000"
    hosts = start_hosts(tmp_path, words, words)
    folder = tmp_path / "checkpoint/photos_8_8_8"
    wait_for(folder / "ckpt-20.index")
    hosts[asked].send_signal(signal.SIGTERM)
    (code, screen, _), (other, _, _) = ends(hosts)
    assert (code, other) == (143, 143)
    state = int(re.search(r"Interrupted: state (\d+) is saved", screen)[1])
    assert runs.list_checkpoints(folder)[0][0] == state


@pytest.mark.program
def test_a_signal_before_the_first_iteration_stops_both_after_saving(image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 100000"
    hosts = start_hosts(tmp_path, words, words)
    while "Device: " not in hosts[1].stdout.readline():
        assert hosts[1].poll() is None
    hosts[1].send_signal(signal.SIGTERM)
    (code, screen, _), (other, _, _) = ends(hosts)
    assert (code, other) == (143, 143)
    assert re.search(r"Interrupted: state \d+ is saved", screen)


@pytest.mark.program
def test_hosts_that_would_train_different_runs_refuse(image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 10"
    for code, _, errors in ends(start_hosts(tmp_path, words, f"{words} --seed 1 --log_every 5")):
        assert code == 2 and errors.count("\n") == 1
        assert re.search(r"the hosts differ: log_every is 10 on .* and 5 on .*; seed is 0", errors)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.program
def test_what_the_first_host_refuses_all_refuse(image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 10"
    with runs.claim(tmp_path / "samples"):
        found = ends(start_hosts(tmp_path, words, words))
    for code, _, errors in found:
        assert code == 2 and "in use by another training" in errors
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.program
@pytest.mark.parametrize(
    ("index", "number"), [(0, signal.SIGINT), (0, signal.SIGTERM), (1, signal.SIGTERM)]
)
def test_a_host_that_waits_hears_signals(image_folder, tmp_path, index, number):
    image_folder("photos")
    (host,) = start_hosts(tmp_path, *[f"{HOSTS} --max_iterations 10"] * 2, only=[index])
    while "waiting for 127.0.0.1" not in host.stdout.readline():
        assert host.poll() is None
    host.send_signal(number)
    ((code, _, errors),) = ends([host])
    assert (code, errors) == (128 + number, "main.py: interrupted\n")
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.program
def test_hosts_that_see_other_checkpoints_refuse(image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 20"
    assert [end[0] for end in ends(start_hosts(tmp_path, words, words))] == [0, 0]
    words = f"{HOSTS} --max_iterations 40"
    found = ends(start_hosts(tmp_path, words, f"{words} --checkpoint_dir elsewhere"))
    for code, _, errors in found:
        assert code == 2 and re.search("the newest checkpoint is 20 on .* and None on", errors)


@pytest.mark.program
def test_a_host_that_cannot_read_the_first_ones_checkpoint_says_so(image_folder, tmp_path):
    image_folder("photos")
    words = f"{HOSTS} --max_iterations 20"
    assert [end[0] for end in ends(start_hosts(tmp_path, words, words))] == [0, 0]
    shutil.copytree(tmp_path / "checkpoint", tmp_path / "elsewhere")
    next((tmp_path / "elsewhere/photos_8_8_8").glob("ckpt-20.data*")).write_bytes(b"")
    words = f"{HOSTS} --max_iterations 40"
    found = ends(start_hosts(tmp_path, words, f"{words} --checkpoint_dir elsewhere"))
    assert [end[0] for end in found] == [1, 1]
    assert "must be a folder that all hosts see" in found[1][2]


@pytest.mark.program
def test_a_dry_run_reads_the_hosts_and_cuts_the_batch(image_folder, here, monkeypatch):
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


def test_each_host_reads_its_part_of_the_one_devices_batch(monkeypatch):
    data = make_data(classes=2, images=100)
    gan = make_gan(data, conditional=True, noise=0.1)
    whole = gan.critic_inputs(data, 3)
    assert_array_equal(whole[0], data.critic_batch(0, 8, 3)[0])
    parts = []
    for worker in range(4):
        gan.replicas = distribute.Replicas(gan.strategy, worker=worker, workers=4)
        parts.append(gan.critic_inputs(data, 3))
        assert len(parts[-1][0]) == 2
    for pieces, all_of_it in zip(zip(*parts, strict=True), whole, strict=True):
        assert_array_equal(np.concatenate(pieces), all_of_it)


def test_a_batch_that_cannot_be_dealt_goes_to_each_replica_whole(monkeypatch):
    replicas = distribute.Replicas(None, local=1, worker=1, workers=2)
    monkeypatch.setattr(distribute.Replicas, "alone", False)
    monkeypatch.setattr(distribute.Replicas, "_scatter", lambda self, parts: parts)
    even, odd = np.arange(6), np.arange(7)
    (part,), none = replicas.deal(even, None)
    assert part.tolist() == [3, 4, 5] and none is None
    (whole,) = replicas.deal(odd)[0]
    assert whole.tolist() == odd.tolist()
