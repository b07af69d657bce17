"""The log of a run: log.jsonl, the same rows as TensorBoard events, and the time they took.

The events hold pictures and settings, too.
"""

import contextlib
import json
import math
import time
from pathlib import Path

from config import WHOLE_MAX
from run.folders import regular, write_atomically
from system.errors import Failed

# The numbers of every row, in this order; null where the mode has none. Others follow them.
MEASURED = ("d_loss", "g_loss", "w_distance", "w_distance_val", "penalty", "slope")
TIMES = ("seconds", "images_per_second")
LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which TensorBoard keeps its numbers


class Log:
    """The rows of a run, up to the iteration that it goes on from.

    `images` are the real images that the critic has seen by then, `every` the iterations between
    two rows.
    """

    def __init__(self, folder, iteration, images, every):
        self.path = Path(folder) / "log.jsonl"
        self.rows = read_rows(self.path, iteration)
        newest = self.rows[-1] if self.rows else {"iteration": 0}
        first = newest["iteration"] + 1
        if first + every <= iteration + 1:
            print(f"{self.path} has no rows from {first} to {iteration}, nor will the plot")
        self.board = Board(self.path.parent, self.rows)
        self.seconds_before = newest.get("seconds") or 0.0
        self.start = self.last = time.perf_counter()
        self.images = images

    def seconds(self):
        """Return the seconds of training so far, over all starts of the run."""
        return self.seconds_before + time.perf_counter() - self.start

    def write(self, iteration, epoch, measured, images):
        """Append the row of an iteration, a column per measured number, and return it.

        Raises Failed where a number is not finite.
        """
        numbers = {name: float(value) for name, value in measured.items()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise Failed(
                    f"{name} is {number} at iteration {iteration}; the last checkpoint is kept:"
                    " delete the run and start again with a smaller --learning_rate"
                )
        row = {"iteration": iteration, "epoch": epoch} | dict.fromkeys(MEASURED) | numbers
        now = time.perf_counter()
        row["seconds"] = round(self.seconds(), 3)
        row["images_per_second"] = round((images - self.images) / (now - self.last), 1)
        self.last, self.images = now, images
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        self.board.write(row)
        return row


def read_rows(path, iteration):
    """Read the rows of log.jsonl up to an iteration, and cut the file off behind them.

    A last line without its end is one that a kill cut short; it lies beyond the newest checkpoint.
    Raises Failed where another line is damaged.
    """
    rows, before = [], {"iteration": 0, "epoch": 0}
    lines = regular(path).read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            check_row(row, before)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)  # of JSON's errors without its own "line 1"
            raise Failed(
                f"{path}: line {number} is damaged ({reason}); correct it, or move the file away"
            ) from None
        if row["iteration"] <= iteration:
            rows.append(row)
        before = row
    write_atomically(path, "".join(line.decode() + "\n" for line in lines[: len(rows)]))
    return rows


def check_row(row, before):
    """Raise ValueError for what is not a row, or cannot follow the row `before`.

    Rows of older versions lack columns. A column of another name may hold anything.
    """
    if not isinstance(row, dict):
        raise ValueError("it is not a table of columns and numbers")
    for name, low in (("iteration", before["iteration"] + 1), ("epoch", before["epoch"])):
        value, expected = row.get(name), f"a whole number from {low} to {WHOLE_MAX}"
        if type(value) is not int or not low <= value <= WHOLE_MAX:
            raise ValueError(f"{name} is {json.dumps(value)[:50]}, expected {expected}")
    for name in (*MEASURED, *TIMES):
        value, expected = row.get(name), f"a number from {-LARGEST} to {LARGEST}"
        if value is not None and not is_number(value):
            raise ValueError(f"{name} is {json.dumps(value)[:50]}, expected {expected}")


def is_number(value):
    """Return whether a value of JSON is a number that float32 can hold."""
    return type(value) in (int, float) and -LARGEST <= value <= LARGEST


class Board:
    """The rows, the pictures and the settings as TensorBoard events.

    They are written anew at each start, so that they never tell more than the log and the sample
    folder. TensorFlow's writer has a queue; a picture is taken from its file as it is.
    """

    def __init__(self, folder, rows):
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        self.folder, self.writer = folder, None
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            print("TensorBoard is not installed: no events are written, log.jsonl has all numbers")
            return
        import tensorflow as tf

        with self.failures_named():
            self.writer = tf.summary.create_file_writer(str(folder))
        for row in rows:
            self.write(row)

    @contextlib.contextmanager
    def failures_named(self):
        """Turn TensorFlow's complaint about a full disk into a Failed."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            reason = error.message.split("; ")[-1].splitlines()[0]
            raise Failed(
                f"{self.folder}: TensorBoard's events cannot be written ({reason}); the last"
                " checkpoint is kept: mend that, and the same command goes on from there"
            ) from None

    def write(self, row):
        """Write one row, a scalar per number of a plain name."""
        with self.at(row["iteration"]) as summary:
            for name, value in row.items():
                if summary and name != "iteration" and name.isidentifier() and is_number(value):
                    summary.scalar(name, value)

    def show(self, name, path, state):
        """Write the picture of a state, as the bytes of its PNG file."""
        with self.at(state) as summary:
            if summary and path.is_file():
                from tensorboard.plugins.image import metadata

                content = path.read_bytes()
                # Of a PNG the bytes 16 to 23 are the width and the height.
                sizes = [str(int.from_bytes(content[k : k + 4], "big")) for k in (16, 20)]
                kind = metadata.create_summary_metadata(None, "")
                summary.write(name, [*sizes, content], metadata=kind)

    def tell(self, name, settings):
        """Write settings {name: value} as a table, at state 0, in the words of config.json."""
        with self.at(0) as summary:
            if summary:
                rows = [f"| {key} | `{json.dumps(value)}` |" for key, value in settings.items()]
                summary.text(name, "\n".join(["| flag | value |", "|---|---|", *rows]))

    @contextlib.contextmanager
    def at(self, state):
        """Give tf.summary for what belongs to a state, or None where no events are written."""
        if self.writer is None:
            yield None
            return
        import tensorflow as tf

        with self.failures_named(), self.writer.as_default(step=state):
            yield tf.summary
            self.writer.flush()
