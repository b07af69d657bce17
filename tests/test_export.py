"""--export: each kind of file makes the same pictures by its own runtime, or is not there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import FIND, ROOT, RUN, assert_refused, copy_shipped, make_data, make_gan

import draws
import export
from model import WGAN

KINDS = tuple(export.NAMES)


def made_by(kind, path, z, label=None):
    """Make pictures by the file's own runtime."""
    inputs = {"z": z} if label is None else {"z": z, "label": label}
    return export.read(kind, path)(inputs)


def assert_same_pictures(gan, kind, folder):
    z, labels = draws.picture_draws(5, 0, 7, gan.config.z_dim, gan.label_counts)
    expected = gan.sample(z, labels)
    assert expected.std() > 10  # not one grey picture
    images = made_by(kind, folder / export.NAMES[kind], z, labels)
    assert images.dtype == np.uint8 and images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [False, True])
def test_each_kind_makes_the_runs_pictures(here, request, tmp_path, kind, labels):
    request.getfixturevalue("labelled" if labels else "folder")
    place = tmp_path / RUN / "export"
    place.mkdir()
    old, left = place / export.NAMES[kind], place / f"{export.NAMES[kind]}.new"
    old.write_text("an older one")
    left.mkdir()  # by a command that was killed
    code, screen, errors = here(f"{FIND} --export {kind}")
    assert (code, errors) == (0, "")
    assert [path.name for path in place.iterdir()] == [export.NAMES[kind]]
    gan = WGAN.load(tmp_path / RUN)
    assert_same_pictures(gan, kind, place)
    assert "z float32 [n, 10]" in screen and "uint8 [n, 8, 8, 3]" in screen
    assert ("label int32 [n], 0 to 2" in screen) == labels
    lines = "\n".join(re.findall(r"^    (.*)$", screen, re.M))  # how to call it
    z, label = draws.picture_draws(0, 0, 3, 10, gan.label_counts)
    found = {"z": z, "label": label}
    exec(lines, found)
    assert np.abs(found["images"].astype(int) - gan.sample(z, label)).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_makes_other_pictures_is_deleted(here, folder, monkeypatch, kind):
    assert here(f"{FIND} --export {kind}")[0] == 0
    path = folder / "export" / export.NAMES[kind]
    z = np.zeros((2, 10), np.float32)
    before = made_by(kind, path, z)
    build = export.build_function

    def build_wrong(gan):
        for variable in gan.average.variables:
            variable.assign(variable * 0.5)
        function = build(gan)
        for variable in gan.average.variables:
            variable.assign(variable * 2)
        return function

    monkeypatch.setattr(export, "build_function", build_wrong)
    code, _, errors = here(f"{FIND} --export {kind}")
    assert (code, errors.count("\n")) == (1, 1) and "its pictures would differ" in errors
    assert [path] == list((folder / "export").iterdir())  # the older one
    assert np.array_equal(made_by(kind, path, z), before)


def test_two_grey_levels_are_too_many_and_one_is_not(here, folder, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: 2)
    assert here(f"{FIND} --export savedmodel")[0] == 1
    assert not list((folder / "export").iterdir())
    monkeypatch.setattr(export, "compare", lambda *_: 1)
    assert here(f"{FIND} --export savedmodel")[0] == 0


def test_the_comparison_finds_a_single_pixel_in_any_picture(gan):
    z, labels = draws.picture_draws(0, 0, 64, 10)
    expected = gan.sample(z, labels)
    batches = []

    def function(inputs):
        first = sum(batches)
        batches.append(len(inputs["z"]))
        images = expected[first : first + batches[-1]].copy()
        if 63 in range(first, first + batches[-1]):
            images[-1, -1, -1, -1] ^= 2
        return images

    assert export.compare(gan, function, 0) == 2
    assert len(set(batches)) == 2 and sum(batches) == 64


def test_a_full_disk_is_one_line(here, folder, monkeypatch):
    def fail(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    code, _, errors = here(f"{FIND} --export savedmodel")
    assert (code, errors.count("\n")) == (1, 1)
    assert "cannot be written" in errors and "No space left" in errors


@pytest.mark.parametrize("kind, package", [("onnx", "tf2onnx"), ("tflite", "ai_edge_litert")])
def test_a_missing_package_is_one_line_also_in_a_dry_run(here, folder, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    for dry in ("", "--dry_run"):
        words = f"{FIND} --export {kind} {dry}"
        assert_refused(here, words, package.replace("_", "-"), "requirements-export.txt")
    assert not (folder / "export").exists()


def test_every_package_is_in_the_requirements():
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements-export.txt").read_text(), re.M)
    for packages in export.PACKAGES.values():
        assert {name.replace("_", "-") for name in packages} <= set(pinned)


def test_weights_that_no_such_file_can_hold_are_refused(here, folder, monkeypatch):
    monkeypatch.setattr(export, "MOST_BYTES", 1000)
    assert_refused(here, f"{FIND} --export onnx", "--export onnx", "the weights are 0.0 GB")


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(here, folder):
    code, screen, _ = here(f"{FIND} --export onnx --dry_run")
    assert code == 0 and f"Would write {RUN}/ckpt-40 as onnx into {RUN}/export\n" in screen
    assert not (folder / "export").exists()


def test_a_run_in_bfloat16_is_exported_in_float32(here, folder):
    described = json.loads((folder / "config.json").read_text())
    described["settings"]["precision"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(described))
    z, _ = draws.picture_draws(5, 0, 64, 10)
    rough = WGAN.load(folder).sample(z)
    assert here(f"{FIND} --export tflite")[0] == 0
    described["settings"]["precision"] = "float32"
    (folder / "config.json").write_text(json.dumps(described))
    expected = WGAN.load(folder).sample(z)
    assert np.abs(rough.astype(int) - expected).max() > 1
    made = made_by("tflite", folder / "export/generator.tflite", z)
    assert np.abs(made.astype(int) - expected).max() <= 1


@pytest.mark.slow
def test_the_shipped_generator_is_exported_without_a_word_of_the_libraries(program, tmp_path):
    folder = copy_shipped("mnist_64_28_28", tmp_path / "checkpoint")
    done = program("--dataset", "mnist", "--export", "tflite")
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "export/generator.tflite"
    assert path.stat().st_size > 25e6  # the weights are in it
    assert_same_pictures(WGAN.load(path.parent.parent), "tflite", path.parent)


def test_an_exported_file_needs_nothing_of_this_program(here, folder, tmp_path):
    assert here(f"{FIND} --export savedmodel")[0] == 0
    code = (
        "import numpy as np, tensorflow as tf\n"
        f"call = tf.saved_model.load('{RUN}/export/savedmodel').signatures['serving_default']\n"
        "print(call(z=np.zeros((2, 10), np.float32))['images'].shape)"
    )
    words = [sys.executable, "-I", "-c", code]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 8, 8, 3)\n"
    assert "custom gradients" not in done.stderr  # which TensorFlow would warn of


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_at_home_in_folders_of_odd_names(gan, tmp_path, kind):
    place = tmp_path / "a[1]*?{b}%s 'é\\"
    place.mkdir()
    export.write(export.build_function(gan), kind, place / export.NAMES[kind])
    assert_same_pictures(gan, kind, place)


@pytest.mark.slow  # several times 20 MB of weights
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arch, shape, classes",
    [
        ("dcgan", (28, 28, 1), 10),
        ("dcgan", (27, 31, 1), 0),
        ("dcgan", (5, 7, 1), 3),
        ("dcgan", (48, 48, 3), 0),
        ("dcgan", (48, 48, 3), 10),
        ("dcgan", (33, 47, 3), 3),
        ("dcgan", (4, 4, 3), 0),
        ("symmetric", (28, 28, 1), 0),
        ("symmetric", (48, 48, 3), 0),
        ("symmetric", (61, 57, 3), 2),
        ("symmetric", (13, 9, 1), 0),
        ("resnet", (32, 32, 3), 10),
        ("resnet", (13, 9, 1), 0),
    ],
)
def test_all_pairs_and_sizes_are_exported(tmp_path, monkeypatch, arch, shape, classes, kind):
    monkeypatch.chdir(tmp_path)
    gan = make_gan(make_data(shape, classes), arch=arch, conditional=classes > 0)
    rng = np.random.default_rng(0)
    for variable in gan.average.variables:  # untrained, all pictures are grey
        if "norm" in variable.path or "bias" in variable.path:
            variable.assign(variable + 0.1 * np.abs(rng.standard_normal(variable.shape)))
        elif arch == "dcgan":
            variable.assign(3 * variable)
    Path(gan.config.run_dir).mkdir(parents=True)
    export.export(gan, kind, 0)
    assert_same_pictures(gan, kind, Path(gan.config.export_dir))
