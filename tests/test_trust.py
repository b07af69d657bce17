"""What a file from outside may not do."""

import os
import re

import numpy as np
import pytest
from conftest import FIND, ROOT, SMALL, copy_shipped
from PIL import Image


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_shipped_generator_with_a_pickle_in_it_is_refused_and_not_run(here, tmp_path):
    folder = copy_shipped("mnist_64_28_28")
    with np.load(folder / "generator.npz") as archive:
        arrays = dict(archive)
    arrays[next(iter(arrays))] = np.array([Trap(tmp_path / "sprung")], object)
    np.savez(folder / "generator.npz", **arrays)
    code, _, errors = here("")
    assert code == 2 and "generator.npz: damaged" in errors and not (tmp_path / "sprung").exists()
    with np.load(folder / "generator.npz", allow_pickle=True) as archive:
        dict(archive)
    assert (tmp_path / "sprung").exists()  # the trap works


@pytest.mark.parametrize(
    "setting",
    ["\"noise\": \"__import__('os').mkdir('sprung')\"", '"dataset": "../x"'],
)
def test_a_configuration_from_outside_is_only_read(here, folder, setting):
    name = setting.split(":")[0]
    text = (folder / "config.json").read_text()
    text = (
        re.sub(f"{name}: [^,]*", setting, text)
        if name in text
        else text.replace('"settings": {', f'"settings": {{{setting},')
    )
    (folder / "config.json").write_text(text)
    code, _, errors = here(f"--train {SMALL} --max_iterations 50")
    assert code == 2 and errors.count("\n") == 1
    assert not (folder.parent.parent / "sprung").exists()


def test_class_folders_of_any_name_lead_to_no_other_folder(here, tmp_path, still):
    rng = np.random.default_rng(0)
    for name in ("$(touch x)", "a;b", "ü é", "..c"):
        place = tmp_path / "data/photos" / name
        place.mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(place / f"{i}.jpg")
    code, _, errors = here(f"--train {SMALL} --conditional True --max_iterations 3")
    assert (code, errors) == (0, "")
    assert here(f"{FIND} --generate 30")[0] == 0
    made = {path.name for path in (tmp_path / "samples/generated").iterdir()}
    assert made == {"class_0", "class_1", "class_2"}  # a name that begins with a dot is hidden
    assert {path.name for path in tmp_path.iterdir()} == {"data", "checkpoint", "samples"}


def test_nothing_in_the_program_can_run_what_a_file_brings():
    dangerous = re.compile(
        r"\b(eval|exec|__import__)\(|pickle\.loads?\(|load_model|allow_pickle=True|"
        r"marshal|shelve|yaml|unsafe|Lambda\("
    )
    paths = [p for p in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py")) if p.parent.name != "tests"]
    assert {"main.py", "weights.py", "published.py"} <= {path.name for path in paths}
    for path in paths:
        assert not dangerous.search(path.read_text()), path


def test_odd_names_are_one_line_or_no_matter(here, folder, still):
    place = folder.parent.parent
    (place / "loop").symlink_to("loop")
    with open(os.fsencode(place / "data/photos") + b"/b\xff.jpg", "wb") as file:
        file.write(b"rubbish")
    for words, said in (
        ("--sample_dir loop", "loop"),
        ("--checkpoint_dir c\udcff", "\\udcff: expected a name"),
    ):
        code, _, errors = here(f"--train {SMALL} {words}")
        assert code == 2 and said in errors and errors.count("\n") == 1
    code, screen, errors = here(f"--train {SMALL} --checkpoint_dir c --max_iterations 1")
    assert code == 0 and "1 of 61 files are left out" in screen
