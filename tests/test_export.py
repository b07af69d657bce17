"""--export: each kind of file makes the same pictures by its own runtime, or is not there."""

import errno
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import (
    FIND,
    PATIENCE,
    ROOT,
    RUN,
    assert_refused,
    copy_shipped,
    make_data,
    make_gan,
    run_to_end,
    wait_until,
)

import draws
import export
from model import WGAN
from run import folders

KINDS = tuple(export.NAMES)


def made_by(kind, path, z, label=None):
    """Make pictures by the file's own runtime."""
    inputs = {"z": z} if label is None else {"z": z, "label": label}
    return export.read(kind, path)(inputs)


def assert_same_pictures(gan, kind, folder):
    z, labels = gan.picture_inputs(7, 5)
    expected = gan.sample(z, labels)
    assert expected.std() > 10  # not one grey picture
    images = made_by(kind, folder / export.NAMES[kind], z, labels)
    assert images.dtype == np.uint8 and images.shape == expected.shape
    assert np.abs(images.astype(int) - expected).max() <= 1


def seen_in(place):
    """List the names in an export/ without that of the lock."""
    return sorted({path.name for path in place.iterdir()} - {".lock"})


def contents(place):
    """Return what is in a folder, without following links: {name: bytes, or None if no file}."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        if path.is_file() and not path.is_symlink()
        else None
        for path in place.rglob("*")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [False, True])
def test_each_kind_makes_the_runs_pictures(here, request, tmp_path, kind, labels):
    request.getfixturevalue("labelled" if labels else "folder")
    place = tmp_path / RUN / "export"
    place.mkdir()
    name, users = export.NAMES[kind], f"{export.NAMES[kind]}.new"
    if kind == "savedmodel":
        (place / name).mkdir()
    (place / name / ("saved_model.pb" if kind == "savedmodel" else "")).write_text("an older one")
    (place / ".unfinished" / name).mkdir(parents=True)  # by a command that was killed
    (place / users).write_text("the user's")
    code, screen, errors = here(f"{FIND} --export {kind}")
    assert (code, errors) == (0, "")
    assert seen_in(place) == [name, users]
    gan = WGAN.load(tmp_path / RUN)
    assert_same_pictures(gan, kind, place)
    assert "z float32 [n, 10]" in screen and "uint8 [n, 8, 8, 3]" in screen
    assert ("label int32 [n], 0 to 2" in screen) == labels
    lines = "\n".join(re.findall(r"^    (.*)$", screen, re.M))  # how to call it
    z, label = gan.picture_inputs(3)
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
    assert (code, errors.count("\n")) == (1, 1) and "its images would differ" in errors
    assert seen_in(folder / "export") == [path.name]  # the older one
    assert np.array_equal(made_by(kind, path, z), before)


def test_two_grey_levels_are_too_many_and_one_is_not(here, folder, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda *_: 2)
    assert here(f"{FIND} --export savedmodel")[0] == 1
    assert seen_in(folder / "export") == []
    monkeypatch.setattr(export, "compare", lambda *_: 1)
    assert here(f"{FIND} --export savedmodel")[0] == 0


def test_the_comparison_finds_a_single_pixel_in_any_picture(gan):
    z, labels = draws.picture_draws(0, 0, 64, 10, "uniform")
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_one_line_and_an_older_export_stays(here, folder, kind):
    assert here(f"{FIND} --export {kind}")[0] == 0
    place = folder / "export"
    before = {path: path.stat().st_ino for path in place.rglob("*")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        code, _, errors = here(f"{FIND} --export {kind}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, errors.count("\n")) == (1, 1), errors
    assert f"{RUN}/export" in errors and "cannot be written" in errors and "too large" in errors
    assert before == {path: path.stat().st_ino for path in place.rglob("*")}


def test_tflite_needs_no_room_where_temporary_files_are(here, folder, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", fail)
    assert here(f"{FIND} --export tflite")[0] == 0


# A package of each kind of file, and the modules by which Python knows it.
PACKAGES = [
    ("onnx", "onnx", ["onnx"]),
    ("onnx", "tf2onnx", ["tf2onnx", "tf2onnx.convert"]),
    ("tflite", "ai_edge_litert", ["ai_edge_litert", "ai_edge_litert.interpreter"]),
]


@pytest.mark.parametrize("kind, package, modules", PACKAGES)
def test_a_missing_package_is_one_line_also_in_a_dry_run(
    here, folder, monkeypatch, kind, package, modules
):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    for dry in ("", "--dry_run"):
        assert_refused(here, f"{FIND} --export {kind} {dry}", package, "-r requirements-export.txt")
    assert not (folder / "export").exists()


@pytest.mark.parametrize("kind, package, modules", PACKAGES)
@pytest.mark.parametrize("error", ["ImportError", "OSError", "AttributeError", "Exception"])
def test_a_broken_package_is_one_line(
    here, folder, tmp_path, monkeypatch, kind, package, modules, error
):
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "broken" / package).mkdir(parents=True)
    lines = f"import os\nos.write(2, b'a lot')\nraise {error}('libx.so:\\nnone')\n"
    (tmp_path / "broken" / package / "__init__.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    parts = package, f"{error}: libx.so:", "pip install --force-reinstall -r"
    assert_refused(here, f"{FIND} --export {kind}", *parts)
    assert not (folder / "export").exists()


def test_every_package_is_in_the_requirements():
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements-export.txt").read_text(), re.M)
    for modules in export.MODULES.values():
        assert {name.split(".")[0].replace("_", "-") for name in modules} <= set(pinned)


# What is not this program's.

FOREIGN = [
    ("savedmodel", "savedmodel/mine.txt", "file"),
    ("savedmodel", "savedmodel/assets.extra", "folder"),
    ("savedmodel", "savedmodel/assets/mine.txt", "file"),
    ("savedmodel", "savedmodel/variables/variables.index", "link"),
    ("savedmodel", "savedmodel/saved_model.pb", "folder"),
    ("savedmodel", "savedmodel", "file"),
    ("savedmodel", "savedmodel", "link"),
    ("onnx", "generator.onnx", "folder"),
    ("onnx", "generator.onnx", "link"),
    ("onnx", "generator.onnx", "pipe"),
    ("onnx", ".unfinished", "file"),
    ("onnx", ".unfinished", "link"),
    ("tflite", "generator.tflite", "folder"),
]


def put(path, what):
    """Put a file, a folder, a pipe or a link that leads nowhere at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if what == "link":
        path.symlink_to("nowhere")
    elif what == "file":
        path.write_text("mine")
    else:
        os.mkfifo(path) if what == "pipe" else path.mkdir()


@pytest.mark.parametrize("kind, name, what", FOREIGN)
def test_what_this_program_did_not_write_is_refused_by_its_name(here, folder, kind, name, what):
    put(folder / "export" / name, what)
    before = contents(folder)
    for dry in ("", "--dry_run"):
        assert_refused(here, f"{FIND} --export {kind} {dry}", f"{RUN}/export/{name}: in the way")
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_links_to_what_is_there_are_refused_as_well(here, folder, tmp_path, kind):
    place = folder / "export" / export.NAMES[kind]
    assert here(f"{FIND} --export {kind}")[0] == 0
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert_refused(here, f"{FIND} --export {kind}", f"{RUN}/export/{place.name}: in the way")
    assert place.is_symlink() and (tmp_path / "elsewhere").exists()


def test_an_export_folder_that_is_a_link_to_nowhere_is_refused(here, folder):
    (folder / "export").symlink_to("nowhere")
    assert_refused(here, f"{FIND} --export onnx", f"{RUN}/export: cannot be written")


@pytest.mark.parametrize(
    "kind, name", [("savedmodel", "savedmodel/mine.txt"), ("onnx", "generator.onnx/mine.txt")]
)
def test_what_is_put_in_the_way_meanwhile_stays(here, folder, monkeypatch, kind, name):
    place, compare = folder / "export", export.compare
    if kind == "savedmodel":
        assert here(f"{FIND} --export {kind}")[0] == 0

    def compared(*arguments):
        put(place / name, "file")
        return compare(*arguments)

    monkeypatch.setattr(export, "compare", compared)
    code, _, errors = here(f"{FIND} --export {kind}")
    assert (code, errors.count("\n")) == (1, 1) and f"{RUN}/export/{name[:14]}" in errors
    assert (place / name).read_text() == "mine" and seen_in(place) == [export.NAMES[kind]]


# Two at once, and kills.


def test_a_second_export_into_a_folder_is_refused_before_any_work(here, folder):
    with folders.claim(folder / "export"):
        for dry in ("", "--dry_run"):
            where = f"{RUN}/export: in use by another command, process {os.getpid()}; wait"
            assert_refused(here, f"{FIND} --export onnx {dry}", where)


# Replaces a text by later ones in processes of its own, of which the n-th is killed before the n-th
# call that Python makes to the file system. Afterwards something else is exported, in vain.
KILLED = """
import contextlib, itertools, os, signal, sys
from pathlib import Path

import export

kind, place = sys.argv[1], Path(sys.argv[2])
path = place / export.NAMES[kind]
CALLS = "open", "fcntl.flock", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir"
files = [""]
if kind == "savedmodel":
    files = [name[11:] for name in export.WRITTEN if name.startswith("savedmodel/") and "." in name]


def replace(version):
    with export.replacing(path, kind) as new:
        for name in files:
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_text(version)


def found():
    return {(path / name).read_text() for name in files}


def die_at(number):
    calls = iter(range(number))

    def count(event, arguments):
        if event in CALLS and next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


replace("0")
old = {"0"}
for number in itertools.count():
    child = os.fork()
    if not child:
        die_at(number)
        replace(str(number + 1))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if kind != "savedmodel":
        assert found() in (old, {str(number + 1)}), found()
    with contextlib.suppress(ZeroDivisionError), export.replacing(place / "other", "onnx"):
        1 / 0
    assert found() in (old, {str(number + 1)}), found()
    assert set(os.listdir(place)) == {".lock", path.name}
    old = found()
    if status == 0:
        break
assert old == {str(number + 1)}
print(number)
"""


@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
def test_a_kill_before_any_call_leaves_the_old_export_or_the_new_one(tmp_path, kind):
    done = run_to_end([sys.executable, "-c", KILLED, kind, tmp_path], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= (20 if kind == "savedmodel" else 6)  # kills


def start_export(start, place, kind):
    """Start the program in the folder of a run; returns the process."""
    words = [sys.executable, ROOT / "main.py", *FIND.split(), "--export", kind]
    return start(words, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_leaves_the_old_export_or_the_new_one(here, start, folder, tmp_path, kind):
    assert here(f"{FIND} --export {kind}")[0] == 0
    place, gan = folder / "export", WGAN.load(folder)
    for _ in range(5):
        process = start_export(start, tmp_path, kind)
        wait_until((place / ".unfinished").exists, process)
        time.sleep(random.uniform(0, 1))
        process.kill()
        process.wait()
        with export.replacing(place / "nothing", "onnx"):
            assert_same_pictures(gan, kind, place)
            (place / ".unfinished/nothing").touch()
        (place / "nothing").unlink()
        assert seen_in(place) == [export.NAMES[kind]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["savedmodel", "onnx"])
@pytest.mark.parametrize("apart", [0.3, 1])
def test_of_two_exports_at_once_one_succeeds(start, folder, tmp_path, kind, apart):
    put(folder / "export/generator.onnx", "file")
    processes = []
    for _ in range(2):
        processes.append(start_export(start, tmp_path, kind))
        time.sleep(apart)
    ends = [(p.communicate(timeout=PATIENCE)[1], p.returncode) for p in processes]
    assert ("", 0) in ends and {code for _, code in ends} <= {0, 2}
    for errors, code in ends:
        assert ("in use by another command" in errors and errors.count("\n") == 1) == (code == 2)
    assert set(seen_in(folder / "export")) == {"generator.onnx", export.NAMES[kind]}
    assert_same_pictures(WGAN.load(folder), kind, folder / "export")


# Labels.


@pytest.mark.parametrize("kind", KINDS)
def test_a_label_out_of_range_is_an_error_of_the_runtime(labelled, here, kind):
    assert here(f"{FIND} --export {kind}")[0] == 0
    call = export.read(kind, labelled / RUN / "export" / export.NAMES[kind])
    z = np.zeros((2, 10), np.float32)
    for label in (3, 10, 2**31 - 1, -1, -3, -4, -(2**31)):
        with pytest.raises(Exception, match=r"out of (data )?bounds|is not in \[0, 3\)"):
            call({"z": z, "label": np.array([1, label], np.int32)})
    assert call({"z": z, "label": np.array([0, 2], np.int32)}).shape == (2, 8, 8, 3)


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
    z, _ = draws.picture_draws(5, 0, 64, 10, "uniform")
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
