"""What several tests share: a quiet TensorFlow, small data sets, and the program itself."""

import contextlib
import ctypes
import functools
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import config as flags
from datasets import dataset
from run import checkpoints, settings
from system import device

ROOT = Path(__file__).parent.parent
# A run of small images in ./data/photos, of some ms per iteration.
SMALL = (
    "--data_dir data --dataset photos --output_height 8 --batch_size 8 --arch symmetric"
    " --sample_every 20 --save_every 20 --log_every 10 "
)
RUN = "checkpoint/photos_8_8_8"  # its folder
FIND = "--dataset photos --batch_size 8 --output_height 8"  # the flags by which it is found again
TIMES = ("seconds", "images_per_second")  # columns of the log that differ from run to run
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 500  # seconds, after which a process is thought to hang; below pytest's timeout


def pytest_configure(config):
    """Hide the GPUs, so that all tests but those of `-m gpu` run on the CPU, in every process."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"


def pytest_xdist_auto_num_workers(config):
    """Run the tests of `-m gpu` one after the other, in the order in which they are written."""
    return 0 if config.option.markexpr == "gpu" else None


def pytest_collectstart():
    """Import TensorFlow quietly, before a module of tests does; not where workers run them."""
    device.import_tensorflow()


@pytest.fixture(scope="session", autouse=True)
def signals_heard():
    """Let every process that a test starts hear signals, and this one go on not to mind them.

    A shell has its background jobs ignore SIGINT, and `nohup` SIGHUP; children inherit that. They
    do not inherit a handler.
    """
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)


@pytest.fixture(scope="session")
def functions():
    """The tf.function of TensorFlow, and one that leaves XLA out."""
    function = device.import_tensorflow().function
    return function, lambda *words, jit_compile=None, **options: function(*words, **options)


@pytest.fixture(autouse=True)
def without_xla(functions, monkeypatch):
    """Compile no update with XLA; the processes that a test starts do.

    XLA takes longer to compile the updates of a small model than a test takes to train it, and
    TensorFlow keeps the 13 MB of each model's machine code for ever.
    """
    monkeypatch.setattr(device.import_tensorflow(), "function", functions[1])


@pytest.fixture
def with_xla(functions, without_xla, monkeypatch):
    """Compile updates with XLA, as the program does: for tests of the steps and of their bits."""
    monkeypatch.setattr(device.import_tensorflow(), "function", functions[0])


@pytest.fixture(autouse=True)
def graphs_freed():
    """Free the graphs that a test traced, once nothing of the test uses them.

    TensorFlow registers the derivatives of each custom gradient for ever, and with them the graph.
    """
    yield
    from tensorflow.python.framework.ops import gradient_registry

    registered = gradient_registry._registry
    names = [name for name in registered if name.startswith("CustomGradient-")]
    for name in names:
        del registered[name]
    if names:
        gc.collect()


@pytest.fixture(autouse=True)
def arithmetic_kept():
    """Undo what a model has told TensorFlow in a test that pretends that there is a GPU."""
    yield
    from tensorflow.python.framework import config

    if config.is_op_determinism_enabled():
        config.disable_op_determinism()
    config.enable_tensor_float_32_execution(True)  # TensorFlow's default; a CPU has none


@pytest.fixture(scope="module", autouse=True)
def memory_returned():
    """Return what a file of tests has freed to the system, which glibc alone does seldom."""
    yield
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


@pytest.fixture
def float64():
    """Build and compute in float64 during a test."""
    import keras

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


# Processes.


@contextlib.contextmanager
def starting():
    """Give a function like subprocess.Popen; what it starts is killed in the end, with children."""
    started = []

    def start(words, **options):
        started.append(subprocess.Popen([*map(str, words)], start_new_session=True, **options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the latter on macOS
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in filter(None, (process.stdin, process.stdout, process.stderr)):
                with contextlib.suppress(BrokenPipeError):  # what was still to be sent
                    pipe.close()


def run_to_end(words, **options):
    """Run a command to its end like subprocess.run, with its text; its whole group ends with it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with starting() as start:
        process = start(words, **pipes | options)
        texts = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(words, process.returncode, *texts)


def wait_until(happened, process):
    """Wait until `happened()` is true; a process that ends before, or takes too long, fails."""
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


@pytest.fixture
def start():
    """Return a function that starts processes of which none outlives the test."""
    with starting() as function:
        yield function


# Small data sets, models and runs.


def make_facts(shape=(8, 8, 1), classes=0, images=64):
    """Facts of a data set that does not exist, with as many images of each class."""
    return dataset.Facts(
        shape=shape,
        available=images,
        held_out=16,
        class_names=tuple(str(k) for k in range(classes)),
        label_counts=tuple([images // classes] * classes) if classes else (),
        image_files=False,
        pixels="",
        fingerprint="",
    )


def make_data(shape=(8, 8, 1), classes=0, images=64):
    """A data set of random images in memory, 16 of them held out."""
    rng = np.random.default_rng(0)
    return dataset.Data(
        images=rng.integers(0, 256, (images + 16, *shape), dtype=np.uint8),
        labels=(np.arange(images + 16) % classes).astype(np.int32) if classes else None,
        train=np.arange(images),
        held_out=np.arange(images, images + 16),
        facts=make_facts(shape, classes, images),
    )


def copy_shipped(name, place="checkpoint"):
    """Copy a shipped generator into a folder of runs, but nothing that was trained beside it.

    Returns the folder of its own.
    """
    folder = Path(place) / name
    folder.mkdir(parents=True)
    for part in ("generator.npz", "generator.json"):
        shutil.copy(ROOT / "checkpoint" / name / part, folder)
    return folder


def make_config(facts=None, **values):
    """A resolved configuration for small images."""
    defaults = {"batch_size": 8, "output_height": 8, "arch": "symmetric"}
    return settings.resolve(flags.Config(**defaults | values), facts or make_facts())


def make_gan(data, **values):
    """A small model for a data set in memory."""
    import model

    height, width, _ = data.facts.shape
    sizes = {"output_height": height, "output_width": width}
    return model.WGAN(make_config(data.facts, **sizes | values), data.facts)


def values_of(network):
    """Copy all variables of a network, moving statistics included."""
    return [variable.numpy() for variable in network.variables]


def checkpoint_values(prefix):
    reader = device.import_tensorflow().train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def free_port():
    """Return a port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def log_rows(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same_run(one, other, one_samples, other_samples):
    """Assert that two runs left the same bits: checkpoints, log and pictures."""
    assert [s for s, _ in checkpoints.list_checkpoints(one)] == [
        s for s, _ in checkpoints.list_checkpoints(other)
    ]
    for (_, a), (_, b) in zip(
        checkpoints.list_checkpoints(one), checkpoints.list_checkpoints(other), strict=True
    ):
        values, others = checkpoint_values(a), checkpoint_values(b)
        assert values.keys() == others.keys() and len(values) > 10
        for name, value in values.items():
            assert_array_equal(value, others[name], err_msg=name)
    assert log_rows(one) == log_rows(other)
    pictures = sorted(path.name for path in one_samples.iterdir() if path.is_file())
    assert pictures == sorted(path.name for path in other_samples.iterdir() if path.is_file())
    for name in pictures:
        if name != ".lock":
            assert (one_samples / name).read_bytes() == (other_samples / name).read_bytes(), name


def write_images(place, name="photos", count=60, size=(12, 12), classes=0, ending="jpg"):
    """Write a data set of random images, in class folders if asked; returns the `data` folder."""
    rng = np.random.default_rng(1)
    for i in range(count):
        folder = place / "data" / name / (f"class{i % classes}" if classes else "")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.{ending}")
    return place / "data"


@pytest.fixture
def image_folder(tmp_path):
    """Return `write_images` for the test's own folder."""
    return functools.partial(write_images, tmp_path)


def train_in(folder, words):
    """Run a training in this process, in a folder."""
    import main

    with contextlib.chdir(folder), handlers_kept():
        assert main.main(["--train", *words.split()]) == 0


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the data and the run that `SMALL` describes, at state 40 after 20."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder)
    train_in(folder, f"{SMALL} --max_iterations 40")
    return folder


@pytest.fixture(scope="session")
def gan(trained):
    """A model of that run, for tests that restore what they need; it is traced once."""
    import model

    return model.WGAN.load(trained / RUN)


@pytest.fixture
def folder(trained, tmp_path):
    """The folder of that run's checkpoints in a copy of its own."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / RUN


@pytest.fixture(scope="session")
def labelled_run(tmp_path_factory):
    """A folder with 400 images of 3 classes and a conditional run on them at state 2."""
    folder = tmp_path_factory.mktemp("labelled")
    write_images(folder, count=400, classes=3)
    train_in(folder, f"{SMALL} --conditional True --max_iterations 2")
    return folder


@pytest.fixture
def labelled(labelled_run, tmp_path):
    """The test's own folder, a copy of that one."""
    shutil.copytree(labelled_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def program(tmp_path):
    """Return a function that runs `python main.py ...` in a temporary folder."""
    return lambda *words: run_to_end([sys.executable, ROOT / "main.py", *words], cwd=tmp_path)


@contextlib.contextmanager
def handlers_kept():
    """Give signals the handlers back that they had before."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in this process, in a temporary folder.

    It gives (exit code, stdout, stderr), and spares the seconds of another import of TensorFlow.
    """
    import main

    monkeypatch.chdir(tmp_path)

    def run(words):
        code = main.main(words.split())
        return code, *capsys.readouterr()

    with handlers_kept():
        yield run


def assert_refused(here, words, *parts):
    """Assert that a command is refused in one line that holds these parts."""
    code, _, errors = here(words)
    assert (code, errors.count("\n")) == (2, 1), errors
    for part in parts:
        assert part in errors


@pytest.fixture
def still(monkeypatch):
    """Make iterations of trainings in this process that compute nothing.

    For tests of all that surrounds them: to trace the two steps takes seconds.
    """
    import model

    tf = device.import_tensorflow()
    numbers = {"d_loss": 1.0, "w_distance": 0.5, "penalty": 1.5, "slope": 0.25, "g_loss": 0.125}

    def train_iteration(self, data, iteration):
        return {name: tf.constant(value) for name, value in numbers.items()}

    monkeypatch.setattr(model.WGAN, "train_iteration", train_iteration)
    monkeypatch.setattr(model.WGAN, "validate", lambda self, data: tf.constant(0.75))
