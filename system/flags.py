"""How flags are declared, described, read from a command line and checked."""

import argparse
import dataclasses
import difflib
import math
import re
import typing

from system.errors import Refused
from system.screen import printable

# The lifetime of a flag's value: it is the same for the whole run; it may change each time the run
# goes on; it belongs to one command, and config.json does not keep it.
FIXED, FREE, COMMAND = "fixed", "free", "command"
WHOLE_MAX = 2**31 - 1  # larger than any whole number that makes sense


def flag(default, group, text, lifetime=FIXED, only_if=None, choices=(), **more):
    """Declare a flag as a dataclass field.

    `only_if` is (name, value): the flag has no effect unless that other flag, or that fact of the
    data, has that value. `choices` are the accepted words. `more` holds the bounds `low` and `high`
    (inclusive) and `above` (exclusive), and `before`, the value in runs older than the flag.
    """
    about = {"group": group, "help": text, "lifetime": lifetime, "only_if": only_if}
    return dataclasses.field(default=default, metadata=about | {"choices": choices} | more)


def types_of(field):
    """Return the types that a flag's value can have."""
    return typing.get_args(field.type) or (field.type,)


def accepted(field, highest=None):
    """Return in words which values a flag takes; numbers without a bound end at `highest`."""
    types, limits = types_of(field), field.metadata
    words = list(limits["choices"])
    if bool in types:
        words += ["True", "False"]
    if type(None) in types:
        words.append("None")
    if float in types or int in types:
        high = limits.get("high", highest)
        number = "a whole number" if int in types else "a number" if high else "a finite number"
        if high:
            number += f" from {limits['low']} to {high}"
        elif "low" in limits:
            number += f" of at least {limits['low']}"
        elif "above" in limits:
            number += f" above {limits['above']}"
        words.append(number)
    if len(types) == 2 and float in types and int in types:
        words.append("inf")
    return " or ".join(words) if words else "a name"


def describe(field):
    """Return a flag's help and which values it takes, but for True or False and for names."""
    types = types_of(field)
    free = types == (bool,) or (types[0] is str and not field.metadata["choices"])
    return field.metadata["help"] + ("" if free else f"; {accepted(field)}")


def table(fields):
    """Return the rows of a Markdown table of flags: name, default, what it does."""
    rows = [f"| `{f.name}` | `{f.default}` | {describe(f)} |" for f in fields.values()]
    return "\n".join(rows)


def convert(field, text):
    """Turn a flag's text into its value. Raises Refused with the values that are accepted."""
    types, words = types_of(field), field.metadata["choices"]
    try:
        text.encode()  # TensorFlow takes no file names with lone surrogates
        if text in words:
            return text
        if type(None) in types and text == "None":
            return None
        if bool in types:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if types[0] is str:
            if words or not text:
                raise ValueError(text)
            return text
        return _number(field, types, text)
    except (KeyError, ValueError):
        words = accepted(field, WHOLE_MAX if int in types else None)
        raise Refused(f"--{field.name} {printable(text)}: expected {words}") from None


def _number(field, types, text):
    """Read a number within the flag's bounds. Raises ValueError for any other text."""
    if types == (int, float) and text == "inf":
        return math.inf
    if "_" in text or not text.isascii():  # Python would read 1_0 as 10
        raise ValueError(text)
    value = int(text) if int in types else float(text)
    limits = field.metadata
    fits = (
        limits.get("low", -math.inf) <= value <= limits.get("high", math.inf)
        and value > limits.get("above", -math.inf)
        and (value <= WHOLE_MAX if int in types else math.isfinite(value))
    )
    if not fits:
        raise ValueError(text)
    return value


class _Parser(argparse.ArgumentParser):
    """Refuses in one line instead of printing the usage."""

    def error(self, message):
        raise Refused(message)


def build_parser(fields, description):
    """Make the argparse parser of flags by name; it keeps what is typed, as text."""
    parser = _Parser(
        prog="main.py",
        usage="python main.py [--flag value ...]",
        description=description,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    groups = {}
    for name, field in fields.items():
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        shown = f"{describe(field)} [{field.default}]".replace("%", "%%")
        options = {"nargs": "?", "const": "True"} if field.type is bool else {}
        words = field.metadata["choices"]
        metavar = "{" + ",".join(words) + "}" if len(words) > 1 else name.upper()
        groups[title].add_argument(f"--{name}", help=shown, metavar=metavar, **options)
    return parser


def parse(argv, fields, description):
    """Read a command line: {flag: value} of what was typed. Raises Refused for anything else.

    argparse takes values such as -1e-2 for flags, so each is first joined to the flag before it.
    """
    joined = []
    for word in argv:
        after_flag = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if after_flag and re.match(r"-\.?\d|-inf$", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    typed, unknown = build_parser(fields, description).parse_known_args(joined)
    if unknown:
        raise Refused(_unknown(unknown[0].split("=")[0], fields))
    return {name: convert(fields[name], text) for name, text in vars(typed).items()}


def _unknown(name, fields):
    if not name.startswith("--"):
        return f"'{name}': expected a flag, as in --dataset mnist (see --help)"
    lower = {flag.lower(): flag for flag in fields}
    near = difflib.get_close_matches(name.strip("-").lower(), lower, 1)
    hint = f"; did you mean --{lower[near[0]]}?" if near else " (see --help)"
    return f"{name}: no such flag{hint}"
