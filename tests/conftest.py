"""What several tests share: a quiet TensorFlow, small data sets, and the program itself."""

import functools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

import device

tf = device.import_tensorflow()

import config as flags  # noqa: E402
import dataset  # noqa: E402
import runs  # noqa: E402
import settings  # noqa: E402

ROOT = Path(__file__).parent.parent
# A run of small images in ./data/photos, of some ms per iteration.
SMALL = (
    "--data_dir data --dataset photos --output_height 8 --batch_size 8 --arch symmetric"
    " --sample_every 20 --save_every 20 --log_every 10 "
)
RUN = "checkpoint/photos_8_8_8"  # its folder
TIMES = ("seconds", "images_per_second")  # columns of the log that differ from run to run


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
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def log_rows(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def assert_same_run(one, other, one_samples, other_samples):
    """Assert that two runs left the same bits: checkpoints, log and pictures."""
    assert [s for s, _ in runs.list_checkpoints(one)] == [
        s for s, _ in runs.list_checkpoints(other)
    ]
    for (_, a), (_, b) in zip(
        runs.list_checkpoints(one), runs.list_checkpoints(other), strict=True
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


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with the data and the run that `SMALL` describes, at state 40 after 20."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder)
    words = [sys.executable, str(ROOT / "main.py"), "--train", *SMALL.split()]
    subprocess.run([*words, "--max_iterations", "40"], cwd=folder, check=True)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """The folder of that run's checkpoints in a copy of its own."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / RUN


@pytest.fixture
def program(tmp_path):
    """Return a function that runs `python main.py ...` in a temporary folder."""

    def run(*words):
        return subprocess.run(
            [sys.executable, str(ROOT / "main.py"), *map(str, words)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in this process, in a temporary folder.

    It gives (exit code, stdout, stderr), and spares the seconds of another import of TensorFlow.
    """
    import main

    monkeypatch.chdir(tmp_path)
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}

    def run(words):
        code = main.main(words.split())
        return code, *capsys.readouterr()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
