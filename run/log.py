"""The log of a run: log.jsonl, the same rows as TensorBoard events, and the time they took.

The events hold pictures and settings, too.
"""

import contextlib
import json
import math
import time
from pathlib import Path

from PIL.PngImagePlugin import PngImageFile

from config import WHOLE_MAX
from run.folders import regular, write_atomically
from system.errors import Failed, explain

MEASURED = ("d_loss", "g_loss", "w_distance", "w_distance_val", "penalty", "slope")
LARGEST = (2 - 2**-23) * 2.0**127  # of float32, in which TensorBoard keeps its numbers
COLUMNS = {  # name: kind of number, lowest, highest
    "iteration": (int, 1, WHOLE_MAX),
    "epoch": (int, 0, WHOLE_MAX),
    **dict.fromkeys(MEASURED, (float, -LARGEST, LARGEST)),
    "seconds": (float, 0, LARGEST),
    "images_per_second": (float, 0, LARGEST),
}


class Log:
    """The rows of a run, up to the iteration that it goes on from.

    `images` are the real images that the critic has seen by then, `every` the iterations between
    two rows.
    """

    def __init__(self, folder, iteration, images, every):
        self.path = Path(folder) / "log.jsonl"
        self.rows = read_rows(self.path, iteration)
        last = self.rows[-1]["iteration"] if self.rows else 0
        if last + every <= iteration:
            print(f"{self.path} has no rows from {last + 1} to {iteration}, nor will the plot")
        self.board = Board(self.path.parent, self.rows)
        self.seconds_before = self.rows[-1]["seconds"] if self.rows else 0.0
        self.start = self.last = time.perf_counter()
        self.images = images

    def seconds(self):
        """Return the seconds of training so far, over all starts of the run."""
        return self.seconds_before + time.perf_counter() - self.start

    def write(self, iteration, epoch, measured, images):
        """Append the row of an iteration and return it; raises Failed on a non-finite number.

        `measured` are numbers by name, all of which are written. A name of MEASURED that it lacks,
        as the penalty in `regular`, is null.
        """
        numbers = {name: float(value) for name, value in measured.items()}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise Failed(
                    f"{name} is {number} at iteration {iteration}; the last checkpoint is kept:"
                    " delete the run and start again with a smaller --learning_rate"
                )
        row = {"iteration": iteration, "epoch": epoch, **dict.fromkeys(MEASURED), **numbers}
        now = time.perf_counter()
        row["seconds"] = round(self.seconds(), 3)
        row["images_per_second"] = round((images - self.images) / (now - self.last), 1)
        self.last, self.images = now, images
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)
        self.board.write(row, row)
        return row


def read_rows(path, iteration):
    """Read log.jsonl up to `iteration` and cut off what lies beyond it; returns the rows.

    A last line without its end is one that a kill cut short; it lies beyond the newest checkpoint.
    Columns that this program does not know stay in the file. Raises Failed where another line is
    damaged.
    """
    rows, last = [], 0
    lines = regular(path).read_bytes().split(b"\n")[:-1] if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            check_row(row, last)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)  # of JSON's errors without its own "line 1"
            raise Failed(
                f"{path}: line {number} is damaged ({reason}); correct it, or move the file away"
            ) from None
        last = row["iteration"]
        if last <= iteration:
            rows.append(row)
    write_atomically(path, "".join(line.decode() + "\n" for line in lines[: len(rows)]))
    return rows


def check_row(row, last):
    """Raise ValueError unless a row is valid and its iteration comes after iteration `last`."""
    if not isinstance(row, dict):
        raise ValueError("it is not a table of columns and numbers")
    for name, (kind, low, high) in COLUMNS.items():
        value = row.get(name)
        if value is None and name in MEASURED:  # in `regular`, or older than the column
            continue
        if type(value) not in (int, kind) or not low <= value <= high:
            number = "a whole number" if kind is int else "a number"
            raise ValueError(
                f"{name} is {json.dumps(value)[:50]}, expected {number} from {low} to {high}"
            )
    if row["iteration"] <= last:
        raise ValueError(f"iteration is {row['iteration']}, and {last} in the line before it")


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
            raise Failed(
                f"{self.folder}: TensorBoard's events cannot be written ({explain(error)}); make"
                " room, then give the same command again: it goes on from the last checkpoint"
            ) from None

    def write(self, row, names=COLUMNS):
        """Write one row, a scalar for each of the named columns."""
        with self.at(row["iteration"]) as summary:
            for name in names:
                if summary and row.get(name) is not None and name != "iteration":
                    summary.scalar(name, row[name])

    def show(self, name, path, iteration):
        """Write the picture of an iteration as its PNG file is; leave out what is not a PNG."""
        with self.at(iteration) as summary, contextlib.suppress(OSError, SyntaxError):
            if summary and path.is_file():
                from tensorboard.plugins.image import metadata

                with PngImageFile(path) as image:
                    sizes = [str(length) for length in image.size]
                about = metadata.create_summary_metadata(None, "")
                summary.write(name, [*sizes, path.read_bytes()], metadata=about)

    def tell(self, name, settings):
        """Write settings {name: value} as a table, at iteration 0, in the words of config.json."""
        with self.at(0) as summary:
            if summary:
                rows = [f"| {key} | `{json.dumps(value)}` |" for key, value in settings.items()]
                summary.text(name, "\n".join(["| flag | value |", "|---|---|", *rows]))

    @contextlib.contextmanager
    def at(self, iteration):
        """Give tf.summary for an iteration, or None where no events are written."""
        if self.writer is None:
            yield None
            return
        import tensorflow as tf

        with self.failures_named(), self.writer.as_default(step=iteration):
            yield tf.summary
            self.writer.flush()
