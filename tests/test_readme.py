"""The README says what the program does: its flags, its commands, its files."""

import re
import shlex

import pytest
from conftest import ROOT

import config as flags
import results

TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"python main\.py ([^`\n]*)", TEXT)


def test_the_flag_table_equals_the_parsers():
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*) \|$", TEXT, re.MULTILINE)
    expected = [(f.name, str(f.default), flags.describe(f)) for f in flags.FLAGS.values()]
    assert rows == expected


def test_help_shows_every_flag_with_its_default():
    text = re.sub(r"\s+", " ", flags.build_parser().format_help())
    for field in flags.FLAGS.values():
        assert f"--{field.name} " in text or f"--{field.name}]" in text
        assert f"[{field.default}]" in text


def test_the_tables_of_results_are_of_the_scripts_runs():
    rows = re.findall(r"^\| (\w[^|]*) \| (?:`(.*?)`)? ?\| ([\d,]+) \| averaged", TEXT, re.MULTILINE)
    known = [
        (name, extra, f"{state:,}")
        for name, (extra, states, _) in results.RUNS.items()
        for state in states
    ]
    assert set(rows) == set(known)
    assert f"\n| faces | `{results.FACES[0]}` | {results.LAST:,} | " in TEXT


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_in_the_readme_parses(words):
    flags.parse(shlex.split(words))


def test_the_readme_has_the_first_programs_four_commands():
    known = [
        "--epoch 50 --batch_size 64 --input_height 28 --output_height 28 --dataset mnist"
        " --train True --sample_dir samples_mnist",
        "--batch_size 64 --input_height 28 --output_height 28 --dataset mnist"
        " --sample_dir samples_mnist",
        "--epoch 200 --batch_size 64 --input_height 96 --output_height 48 --dataset faces"
        " --train True --sample_dir samples_faces",
        "--batch_size 64 --input_height 96 --output_height 48 --dataset faces"
        " --sample_dir samples_faces",
    ]
    assert set(known) <= set(COMMANDS)


def test_every_file_has_its_line():
    named = set(re.findall(r"^\| `(\w+\.py)` \|", TEXT, re.MULTILINE))
    assert named == {path.name for path in ROOT.glob("*.py")}


def test_every_picture_of_the_readme_is_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)
