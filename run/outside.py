"""Checks of what a file from outside says, value by value: the facts of its data, names, types."""

import dataclasses
import typing

from datasets.dataset import Facts
from system.flags import WHOLE_MAX


def read_facts(stored):
    """Return the stored Facts of a data set. Raises ValueError for others."""
    fields = dataclasses.fields(Facts)
    check_names("data", stored, [field.name for field in fields])
    for field in fields:
        if field.name not in stored:
            raise ValueError(f"its data lack {field.name}")
        check_type(f"data's {field.name}", stored[field.name], field.type)
    facts = Facts(**{n: tuple(v) if isinstance(v, list) else v for n, v in stored.items()})
    if len(facts.shape) != 3:
        raise ValueError(f"its data's shape is {facts.shape!r:.50}")
    names, counts = facts.class_names, facts.label_counts
    if not len(set(names)) == len(names) == len(counts) or bool(sum(counts)) != bool(names):
        raise ValueError(
            f"its data's class_names and label_counts are {names!r:.50}, {counts!r:.50}"
        )
    return facts


def check_names(what, table, names):
    """Raise ValueError for what is not a table, or has a name that is not among `names`."""
    if not isinstance(table, dict):
        raise ValueError(f"its {what} is not a table of names and values")
    for name in table:
        if name not in names:
            raise ValueError(f"its {what} has {name!r:.50}, which a later version may know")


def check_type(what, value, wanted):
    """Raise ValueError for a value of JSON that is not of a type: str, bool, int or a tuple."""
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list):
            return [check_type(what, item, typing.get_args(wanted)[0]) for item in value]
    elif isinstance(value, wanted) and (wanted is bool) == isinstance(value, bool):
        small = not isinstance(value, int) or 0 <= value <= WHOLE_MAX
        if small:
            return value
    raise ValueError(f"its {what} is {value!r:.50}")
