"""The examples of docs/extending.md, applied to a copy of the program as they are written."""

import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

EXAMPLES = [
    section
    for section in re.split(r"^## ", (ROOT / "docs/extending.md").read_text(), flags=re.M)
    if "```diff" in section
]


@pytest.fixture
def copy(tmp_path):
    """A copy of the files that belong to the program."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    for name in listed.stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def apply(diff, place):
    """Apply the diffs of an example; returns the Python files that they change."""
    changed = []
    for part in re.split(r"^--- ", diff, flags=re.M)[1:]:
        name, body = part.split("\n", 1)
        text = (place / name).read_text()
        for hunk in body.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            old, new = ("".join(x[1:] for x in lines if x[0] in kept) for kept in (" -", " +"))
            assert text.count(old) == 1, f"{name}: {text.count(old)} times\n{old}"
            text = text.replace(old, new)
        (place / name).write_text(text)
        changed += [name] if name.endswith(".py") else []
    return changed


def run(place, *words):
    """Run a module of Python in a copy; returns what it prints."""
    words = [sys.executable, "-m", *words]
    return subprocess.run(words, cwd=place, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split("\n")[0])
def test_an_example_fails_the_tests_that_it_names_and_no_other(example, copy):
    diff = "".join(re.findall(r"^```diff\n(.*?)^```$", example, re.M | re.S))
    changed = apply(diff, copy)
    for check in (["check"], ["format", "--check"]):
        assert "would" not in (said := run(copy, "ruff", *check, *changed)), said
    files = re.search(r"^python -m pytest (.*)$", example, re.M)[1].split()
    screen = run(copy, "pytest", "-n", "0", *files)
    assert re.search(r"\d+ passed", screen), screen
    failed = set(re.findall(r"^(?:FAILED|ERROR) (\S+?::\w+)", screen, re.M))
    assert sorted(failed) == sorted(re.findall(r"^- `(tests/\S+::\w+)`", example, re.M))
