"""The two ways to give up on purpose, and why others failed; main.py makes lines and exit codes."""

import re

LONGEST = 300  # characters of a reason


class Refused(Exception):
    """Something is wrong before the first step, and nothing has been changed: exit code 2."""


class Failed(Exception):
    """Something went wrong with work in hand: exit code 1."""


def explain(error):
    """Return in one line why an exception was raised: what the system says, or its first line.

    Of TensorFlow's '{{node}} path; reason [Op:name]' that is the reason. Where it aborts because
    another host is lost, the line that says so comes after others.
    """
    if not hasattr(error, "error_code"):  # not TensorFlow's
        words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return words.splitlines()[0][:LONGEST]
    lines = error.message.strip().splitlines() or [type(error).__name__]
    line = next((line for line in lines if "abort" in line), lines[0])
    line = re.sub(r"\{\{.*?\}\} ?| \[Op:.*|.*; |Collective ops is aborted by: ", "", line)
    return line.strip(" :")[:LONGEST]
