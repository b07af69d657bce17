"""The rules of the house: rooms, imports that point one way, short files and functions.

For the keepers of the program; a change of one's own may break them. Prints what breaks a rule.
"""

import ast
import re
import sys
from pathlib import Path

# From the bottom up. A module imports from its own floor, if that is a package, and from below.
FLOORS = [
    ("system",),
    ("pairs", "draws", "kernels"),
    ("config",),
    ("utils", "datasets", "ops"),
    ("run",),
    ("distributed", "networks", "scores"),
    ("model",),
    ("sample", "train", "export"),
    ("main",),
    ("benchmarks",),
]
RANK = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILE_LINES, FUNCTION_LINES = 330, 55
# Only these know the command line.
COMMANDS = "main.py", "__main__.py", "results.py"


def imported_rooms(tree):
    """Return the rooms that a file imports, wherever in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module)
    return {name.split(".")[0] for name in found} & RANK.keys()


def broken_rules(path):
    """Yield in words what a file breaks."""
    text = path.read_text()
    tree, own = ast.parse(text), path.parts[0].removesuffix(".py")
    for room in imported_rooms(tree) - {own}:
        if RANK[room] >= RANK[own]:
            yield f"imports {room}, which is not below it"
    if (count := len(text.splitlines())) > FILE_LINES:
        yield f"has {count} lines, more than {FILE_LINES}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES:
            yield f"{node.name} has {FUNCTION_LINES} lines or more"
    if path.name not in COMMANDS and re.search(r"sys\.argv|sys\.exit", text):
        yield "knows the command line"
    if "__file__" in text:
        yield "relies on where its text lies"


def main():
    """Check the program in the current folder; return the exit code."""
    files = [*Path().glob("*.py"), *(path for room in RANK for path in Path(room).glob("*.py"))]
    rooms = {path.parts[0].removesuffix(".py") for path in files}
    packages = {path.parent.name for path in Path().glob("*/__init__.py")}
    broken = [f"{path}: {what}" for path in files for what in broken_rules(path)]
    if rooms != RANK.keys() or not packages <= RANK.keys():
        broken.append(f"the rooms are {sorted(rooms | packages)}, expected {sorted(RANK)}")
    total = sum(len(path.read_text().splitlines()) for path in files)
    print("\n".join(broken) or f"The house is in order: {len(files)} files, {total} lines.")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
