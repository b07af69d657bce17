"""What config.json from outside may not do: each of its values is checked as a typed flag is."""

import json
import os
from pathlib import Path

import pytest
from conftest import FIND, RUN, SMALL, assert_refused, copy_shipped, make_config, make_facts

from config import FLAGS
from run import description
from system.errors import Refused

MODES = ("--train --max_iterations 60", "", "--generate 2")  # training, test mode, --generate
TEXTS = ("pixels", "fingerprint")  # of which any will do
ENVIRONMENT = {"device": "x", "threads": 2, "tensorflow": "2.21.0", "replicas": 1, "strategy": "x"}


def write_run(folder, facts=None, **values):
    """Write the config.json of a run that does not exist; returns its path and its content."""
    facts = facts or make_facts(classes=2)
    path = folder / "config.json"
    description.write_config(path, make_config(facts, **values), facts, ENVIRONMENT)
    return path, json.loads(path.read_text())


WRONG = (None, "x", -1, -0.5, [], [8], {}, {"x": 1}, float("nan"), float("inf"), 10**400, 10**30)


@pytest.mark.parametrize("part", ["settings", "data"])
def test_no_value_of_another_kind_is_read_from_a_configuration(tmp_path, part):
    path, content = write_run(tmp_path)
    names = list(content[part])
    for name in names:
        for value in WRONG:
            if (name in TEXTS and value == "x") or (name == "max_iterations" and value is None):
                continue
            if content[part][name] == value or (name == "dataset" and value == "x"):
                continue
            path.write_text(json.dumps(content | {part: content[part] | {name: value}}))
            with pytest.raises(Refused, match=r"config.json: damaged \(") as refusal:
                print(name, value, description.read_config(path))
            assert name in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("part", ["settings", "data", "environment"])
def test_each_part_of_a_configuration_is_a_table(tmp_path, part):
    path, content = write_run(tmp_path)
    for value in WRONG:
        if not isinstance(value, dict) or part != "environment":
            path.write_text(json.dumps(content | {part: value}))
            with pytest.raises(Refused, match=r"config.json: damaged \(\w+"):
                print(value, description.read_config(path))
    path.write_text(json.dumps({name: content[name] for name in content.keys() - {part}}))
    with pytest.raises(Refused, match=rf"config.json: damaged \(its {part} is not a table"):
        description.read_config(path)


@pytest.mark.parametrize("part", ["settings", "data"])
def test_a_configuration_has_all_names_and_no_other(tmp_path, part):
    path, content = write_run(tmp_path)
    younger = {name for name, field in FLAGS.items() if "before" in field.metadata}
    for name in content[part].keys() - younger:
        if content[part][name] is not None:
            fewer = {n: v for n, v in content[part].items() if n != name}
            path.write_text(json.dumps(content | {part: fewer}))
            with pytest.raises(Refused, match=rf"damaged \(its .*{name} is None"):
                description.read_config(path)
    path.write_text(json.dumps(content | {part: content[part] | {"flux": 1}}))
    with pytest.raises(Refused, match=f"its {part} has 'flux', which a later version may know"):
        description.read_config(path)


@pytest.mark.parametrize(
    "part, values",
    [
        ("settings", {"z_dim": None}),
        ("settings", {"optimizer": "auto"}),
        ("settings", {"LAMBDA": None}),  # it has an effect in gp
        ("settings", {"clip_up": 0.01}),  # and this has none
        ("settings", {"train_size": 65}),  # of 64
        ("settings", {"output_width": None}),
        ("settings", {"output_height": 9, "output_width": 9}),  # of images of 8x8
        ("settings", {"critic_norm": "batch"}),
        ("data", {"shape": [8, 8, 2]}),
        ("data", {"shape": [8, 8]}),
        ("data", {"class_names": ["0"]}),
        ("data", {"class_names": ["0", "0"]}),
        ("data", {"class_names": [], "label_counts": []}),  # of a conditional run
        ("data", {"label_counts": [0, 0]}),
        ("data", {"available": 0}),
    ],
)
def test_what_is_stored_fits_together(tmp_path, part, values):
    path, content = write_run(tmp_path, conditional=True)
    description.read_config(path)
    path.write_text(json.dumps(content | {part: content[part] | values}))
    with pytest.raises(Refused, match=r"config.json: damaged"):
        description.read_config(path)


@pytest.mark.parametrize("text", ["[" * 100000, "9" * 5000, "\x00", '"\\ud800"', "null"])
def test_no_text_makes_a_configuration_crash(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(Refused, match=r"config.json: damaged"):
        description.read_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("settings", "dataset", "../../x"),
        ("settings", "dataset", "other"),
        ("settings", "batch_size", 16),
        ("settings", "precision", "16"),
        ("settings", "flux", 1),
        ("data", "class_names", 3),
        ("data", "shape", [-8, 8, 3]),
        ("data", "available", "x"),
    ],
)
def test_a_stored_value_that_no_flag_takes_is_refused_in_every_mode(
    here, folder, part, name, value
):
    content = json.loads((folder / "config.json").read_text())
    content[part][name] = value
    (folder / "config.json").write_text(json.dumps(content))
    for mode in MODES:
        assert_refused(here, f"{mode} {SMALL}", "checkpoint/photos_8_8_8")
    # Without --arch and --data_dir nothing but the folder's name tells what the run is.
    assert_refused(here, FIND, "photos_8_8_8")


def test_the_stored_run_is_the_one_that_its_folder_is_named_after(here, folder):
    folder.rename(folder.parent / "mnist_64_28_28")
    for mode in ("", "--generate 2", "--dry_run"):
        assert_refused(here, mode, "mnist_64_28_28: holds the run photos_8_8_8")


def test_where_a_run_was_is_shown_without_what_upsets_a_terminal(here, folder, still):
    content = json.loads((folder / "config.json").read_text())
    content["environment"] |= {"device": "a\x1b[2Jb", "threads": "\n\x1b[2J"}
    (folder / "config.json").write_text(json.dumps(content))
    code, screen, _ = here(f"--train {SMALL} --max_iterations 60")
    assert code == 0
    assert "The run was on device a\\x1b[2Jb, \\n\\x1b[2J threads: it goes on" in screen


@pytest.mark.parametrize("value", WRONG)
def test_whatever_is_told_of_where_a_run_was_it_goes_on(here, folder, still, value):
    content = json.loads((folder / "config.json").read_text())
    content["environment"] = dict.fromkeys(content["environment"], value)
    del content["environment"]["loss"]  # of which another one is refused
    (folder / "config.json").write_text(json.dumps(content))
    code, screen, errors = here(f"--train {SMALL} --max_iterations 60")
    assert (code, errors) == (0, "") and "it goes on, with other last bits" in screen


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "name, words, code",
    [
        (f"{RUN}/config.json", f"--train {SMALL} --max_iterations 60", 2),
        (f"{RUN}/config.json", FIND, 2),
        (f"{RUN}/.lock", f"--train {SMALL} --max_iterations 60", 2),
        (f"{RUN}/log.jsonl", f"--train {SMALL} --max_iterations 60", 1),
        ("samples/.run", f"--train {SMALL} --max_iterations 60", 1),
        ("checkpoint/mnist_64_28_28/generator.json", "", 2),
        ("checkpoint/mnist_64_28_28/generator.npz", "", 2),
    ],
)
def test_a_named_pipe_is_refused_and_not_waited_for(here, folder, still, name, words, code):
    copy_shipped("mnist_64_28_28")
    Path(name).unlink()
    os.mkfifo(name)
    found, _, errors = here(words)
    assert (found, errors.count("\n")) == (code, 1)
    assert name in errors and "not a regular file" in errors
