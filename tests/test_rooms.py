"""The house: ten files at the top, seven packages, imports that point one way, short functions."""

import ast
import re

import pytest
from conftest import ROOT

# From the bottom up. A module imports from its own floor, if that is a package, and from below.
FLOORS = [
    ("system",),
    ("config", "draws", "kernels"),
    ("utils", "datasets", "ops"),
    ("run",),
    ("distributed",),
    ("networks",),
    ("model",),
    ("sample", "train", "export"),
    ("scores",),
    ("main",),
    ("benchmarks",),
]
RANK = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = [*ROOT.glob("*.py"), *(path for room in RANK for path in (ROOT / room).glob("*.py"))]


def room_of(path):
    return path.parent.name if path.parent != ROOT else path.stem


def imported_rooms(path):
    """List the rooms that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
    return {name.split(".")[0] for name in found} & RANK.keys()


def test_ten_files_at_the_top_and_six_packages():
    top = {path.stem for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert len(top) <= 10 and len(packages) <= 7
    assert top | packages == RANK.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = room_of(path)
    for room in imported_rooms(path) - {own}:
        assert RANK[room] < RANK[own], f"{own} imports {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_holds(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    assert len(path.read_text().splitlines()) <= 330
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 55, node.name


def test_only_main_knows_the_command_line_and_only_two_read_it():
    for path in FILES:
        if path.name not in ("main.py", "__main__.py", "results.py"):
            assert not re.search(r"sys\.argv|sys\.exit", path.read_text()), path


def test_nothing_in_the_program_relies_on_its_own_text():
    for path in FILES:
        assert "__file__" not in path.read_text(), path
