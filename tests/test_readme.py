"""README and docs say what the program does: flags, commands, files; their links lead somewhere."""

import os
import re
import shlex

import numpy as np
import pytest
from conftest import ROOT, copy_shipped
from PIL import Image

import config as flags
import export
from benchmarks import results
from system.flags import build_parser, table

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
}
README, RESULTS = PAGES["README.md"], PAGES["docs/results.md"]
COMMANDS = sorted(
    set(re.findall(r"python main\.py ([^`\n]*)", "\n".join(PAGES.values()))) - {"--help"}
)
SLOW = {name: [pytest.mark.slow] for name in ("docs/export.md", "docs/python.md")}
CODE = [
    pytest.param(code, id=f"{name}-{k}", marks=SLOW.get(name, []))
    for name, text in PAGES.items()
    for k, code in enumerate(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))
]


def rows(text, first=r"[^|]*"):
    """Return the cells of the rows of all tables whose first cell matches."""
    found = re.findall(rf"^\| ({first}) \|(.*)\|$", text, re.M)
    return [(head, *(cell.strip() for cell in rest.split("|"))) for head, rest in found]


def anchors(text):
    """Return what a link can name in a page: its headings, as GitHub writes them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short():
    assert len(README.encode()) <= 14336


def test_the_flag_table_equals_the_parsers():
    page = re.findall(r"^\| `\w+` \| .*$", PAGES["docs/flags.md"], re.M)
    assert page == table(flags.FLAGS).splitlines(), "docs/extending.md says how to make the table"


def test_the_readme_has_twelve_flags_with_their_defaults():
    chosen = re.findall(r"^\| `(\w+)` \| `(\w[\w.]*)` \| ", README, re.M)
    assert len(chosen) == 12
    assert {(name, str(flags.FLAGS[name].default)) for name, _ in chosen} == set(chosen)


def test_help_shows_every_flag_with_its_default():
    text = re.sub(r"\s+", " ", build_parser(flags.FLAGS, flags.ABOUT).format_help())
    for field in flags.FLAGS.values():
        assert f"--{field.name} " in text or f"--{field.name}]" in text
        assert f"[{field.default}]" in text


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_parses(words):
    flags.parse(shlex.split(words))


def test_other_commands_start_what_there_is():
    text = "\n".join(PAGES.values())
    for module in set(re.findall(r"python -m (benchmarks[\w.]*)", text)):
        place = ROOT / module.replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
    for script in set(re.findall(r"python (\S+\.py)", text)):
        assert (ROOT / script).is_file(), script


def test_the_first_programs_four_commands_are_there():
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


def test_the_tables_of_results_are_of_the_scripts_runs():
    found = re.findall(r"^\| (\w[^|]*) \| (?:`(.*?)`)? ?\| ([\d,]+) \| averaged", RESULTS, re.M)
    known = [
        (name, extra, f"{state:,}")
        for name, (extra, states, _) in results.RUNS.items()
        for state in states
    ]
    assert sorted(found) == sorted(known)
    assert f"\n| faces | `{results.FACES[0]}` | {results.FACES_LAST:,} | " in RESULTS


def test_the_readmes_results_are_those_of_the_page():
    page = {row[0]: row for row in rows(RESULTS) if row[3:4] == ("averaged",) and row[2] == "3,000"}
    shown = rows(README, "gp|regular")
    assert [mode for mode, *_ in shown] == ["gp", "regular"]
    for mode, command, *scores in shown:
        typed = flags.parse(shlex.split(command.strip("`"))[2:]).given
        extra = flags.parse(shlex.split(results.RUNS[mode][0])).given
        assert typed == {"dataset": "mnist", "train": True, "max_iterations": 3000} | extra
        frechet, _, _, *others = page[mode][4:]  # README leaves two distances out
        assert scores == [frechet, *others]


def test_the_picture_of_the_quick_start_is_what_its_command_makes(here):
    copy_shipped("mnist_64_28_28")
    words, path, shown = re.search(
        r"`python main\.py (.*--label.*)` .* `(samples/.*\.png)`: !\[.*\]\((.*\.png)\)", README
    ).groups()
    assert here(words)[0] == 0
    made, kept = (np.asarray(Image.open(x)).astype(int) for x in (path, ROOT / shown))
    assert np.abs(made - kept).max() <= 1  # another processor may round the other way


def test_every_room_has_its_line():
    named = [row[0].strip("`") for row in rows(README, r"`(?:\w+\.py|\w+/)`")]
    assert len(named) == len(set(named)) and all((ROOT / name).exists() for name in named)
    packages = {path.parent.name + "/" for path in ROOT.glob("[!.]*/*.py")}
    assert {path.name for path in ROOT.glob("*.py")} | packages <= set(named)


def test_every_page_of_the_docs_can_be_reached_from_the_readme():
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", README))
    assert linked == {name for name in PAGES if name.startswith("docs/")}


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_and_every_link_of_a_page_leads_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[name]):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        assert target.is_file() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_pictures_shown_from_samples_have_names_that_no_run_writes():
    shown = re.findall(r"\bsamples/(\w+\.png)\)", "\n".join(PAGES.values()))
    assert shown and all(name.startswith("shown_") for name in shown)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("*/*.py")):
        assert path.parent.name == "tests" or "shown_" not in path.read_text(), path


@pytest.mark.parametrize("name", PAGES)
def test_functions_and_files_that_a_page_names_exist(name):
    homes = {"ops": "ops.py", "draws": "draws.py", "WGAN": "model.py", "Config": "config.py"}
    homes["Data"] = "datasets/dataset.py"
    for home, function in re.findall(rf"`({'|'.join(homes)})\.(?!py`)(\w+)`", PAGES[name]):
        indent = "    " if home[0].isupper() else ""
        assert f"\n{indent}def {function}(" in (ROOT / homes[home]).read_text(), function
    for script in re.findall(r"`([a-z_]+/[\w/]+\.py)`", PAGES[name]):
        assert (ROOT / script).is_file(), script


def test_the_new_names_of_modules_in_the_changelog_exist():
    table = rows(PAGES["CHANGELOG.md"], r"`[^|]*`")
    for module in {name for _, new in table for name in re.findall(r"`([a-z_.]+)`", new)}:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pytest.mark.parametrize("code", CODE)
def test_python_code_runs(here, code):
    copy_shipped("mnist_64_28_28")
    os.symlink(ROOT / "data", "data")
    for kind, name in export.NAMES.items():
        if f"export/{name}" in code:
            assert here(f"--dataset mnist --export {kind}")[0] == 0
    exec(code, {})
