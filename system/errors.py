"""The two ways to give up on purpose, and why others failed; main.py makes lines and exit codes."""

import re
import sys

LONGEST = 300  # characters of a reason


class Refused(Exception):
    """Something is wrong before the first step, and nothing has been changed: exit code 2."""


class Failed(Exception):
    """Something went wrong with work in hand: exit code 1."""


# Lines that TensorFlow writes around the reason of an error.
AROUND = re.compile(
    r"Graph execution error|Detected at node|  (?! *\(\d+\))|\t|\d+ root error|\d+ successful op"
    r"|The error could be from a previous"
)
# Parts of the reason that are of no use outside TensorFlow. XLA adds pages of its own code.
INSIDE = re.compile(
    r"\{\{.*?\}\} ?| \[Op:.*|.*; |Collective ops is aborted by: |^\s*\(\d+\) \w+: | for HLO:.*"
)
# What to try where TensorFlow failed, by words of the reason; the first that fits.
REMEDIES = {
    "(?i)out.of.memory|ALLOC_FAILED": "end other programs, or use a smaller --batch_size",
    "(?i)determini": "if that is a GPU's operation, --deterministic False allows others",
    "(?i)autotuner|cudnn|DNN library|No algorithm worked": (
        "install requirements-gpu.txt anew, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"
    ),
    "(?i)PTX|libdevice|CUDA|GPU|cubin": (
        "update NVIDIA's driver, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"
    ),
    "": "give the same command again; if it fails again, report this line",
}


def named_failures():
    """Return the exceptions that `explain_failure` explains: of the system and of TensorFlow.

    TensorFlow's InvalidArgumentError is not among them. It means a mistake in the program, and who
    has changed the program needs the traceback.
    """
    if "tensorflow" not in sys.modules:
        return OSError, MemoryError
    errors = sys.modules["tensorflow"].errors
    classes = [error for error in vars(errors).values() if isinstance(error, type)]
    of_code = [error for error in classes if errors.OpError in error.__bases__]
    return OSError, MemoryError, *(e for e in of_code if e is not errors.InvalidArgumentError)


def explain_failure(error):
    """Return in one line what failed, and what to do."""
    if isinstance(error, OSError):
        return f"{error.filename or 'writing'}: {error.strerror or error}"
    text = f"TensorFlow failed ({explain(error)})"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        text = "out of memory"
    words = (remedy for wanted, remedy in REMEDIES.items() if re.search(wanted, f"{text} {error}"))
    return f"{text}: {next(words)}"


def explain(error):
    """Return in one line why an exception was raised: what the system says, or its first line.

    Of TensorFlow's '{{node}} path; reason [Op:name]' that is the first sentence of the reason, also
    where a graph's error has lines before it. Where TensorFlow aborts because another host is lost,
    the line that says so comes after others.
    """
    if not hasattr(error, "error_code"):  # not TensorFlow's
        words = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        return words.splitlines()[0][:LONGEST]
    lines = [line for line in error.message.splitlines() if line.strip() and not AROUND.match(line)]
    lines = lines or [type(error).__name__]
    line = next((line for line in lines if "abort" in line), lines[0])
    return re.split(r"(?<=\w\.)\s", INSIDE.sub("", line).strip(" :"))[0][:LONGEST]
