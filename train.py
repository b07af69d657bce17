"""Training: the loop around the model's iteration, and everything that a run leaves on disk and on the screen."""

import contextlib
import signal
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import config as flags
import dataset
import device
import draws
import runs
import utils
from errors import Failed, Refused

LINE_EVERY = 200  # iterations between two of the lines that the first program printed
KEPT = 3  # checkpoints


def train(typed):
    """Train the run that the typed flags describe, from scratch or on from its newest good checkpoint.

    Returns the exit code: 0, or 130 or 143 after an interruption. Raises Refused and Failed.
    """
    wanted = flags.Config(**typed)
    data = dataset.load(wanted)
    config = flags.resolve(wanted, data.facts)
    checkpoints = runs.list_checkpoints(config.run_dir)
    known = runs.check_same(config, data.facts, Path(config.run_dir)) if checkpoints else None
    end = last_state(config)
    if checkpoints and checkpoints[0][0] >= end:
        print(
            f"{config.run_dir} is at iteration {checkpoints[0][0]}: nothing left to train (see --epoch, --max_iterations)"
        )
        return 0
    with runs.claim(config.sample_dir, config.run_dir):
        training = Training(config, data, end)
        training.prepare_pictures(from_scratch=not checkpoints)
        training.prepare_model(checkpoints, known)
        with caught_signals() as stop:
            training.loop(stop)
    if stop:
        print(f"Interrupted: state {training.state} is saved. The same command goes on from there.")
        return 128 + stop[0]
    print(
        f"Done: {end} iterations. Pictures are in {config.sample_dir}, the run in {config.run_dir}"
    )
    return 0


def steps_per_epoch(config):
    """Count the generator iterations of one pass over the training images."""
    return config.train_size // config.batch_size


def last_state(config):
    """Say at which state a run ends."""
    end = config.epoch * steps_per_epoch(config)
    return end if config.max_iterations is None else min(end, config.max_iterations)


@contextlib.contextmanager
def caught_signals():
    """Collect SIGINT and SIGTERM in a list instead of dying of them; a second one stops the program at once."""
    received = []

    def receive(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        tqdm.write("Stopping after this iteration; once more stops at once.", file=sys.stderr)

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Training:
    """One start of a run: its model, its folders, its log and its screen."""

    def __init__(self, config, data, end):
        self.config, self.data, self.end = config, data, end
        self.samples, self.folder = Path(config.sample_dir), Path(config.run_dir)
        self.steps = steps_per_epoch(config)
        self.columns, self.grid_labels, grid_latents = grid_layout(config, data.facts)
        self.z = draws.fixed_latents(config.seed, grid_latents, config.z_dim)
        if config.conditional:
            self.z = np.tile(self.z, (len(self.grid_labels) // self.columns, 1))
        self.state = 0

    def prepare_pictures(self, from_scratch):
        """Clear an earlier run's pictures where this one starts from scratch, and show the training images."""
        if from_scratch:
            old = [path for _, path in utils.list_grids(self.samples)]
            old += [
                path
                for name in ("training.gif", "loss.png")
                if (path := self.samples / name).exists()
            ]
            for path in old:
                path.unlink()
            if old:
                print(
                    f"From scratch: removed {len(old)} pictures of an earlier run from {self.samples}"
                )
            if (self.folder / "generator.json").exists():
                print(
                    f"From scratch: the generator.npz in {self.folder} is not used and stays as it is"
                )
        utils.save_png(
            self.samples / "real.png",
            real_grid(self.config, self.data, self.columns, self.grid_labels),
        )
        print(f"Training images: {self.samples / 'real.png'}")

    def prepare_model(self, checkpoints, known):
        """Build the model, restore the newest good checkpoint, and bring the folder to that state."""
        device.import_tensorflow()
        from model import DAMAGE, WGAN

        here = device.environment()
        print(f"Device: {here['device']}, {here['threads']} threads, float32", flush=True)
        for name, value in here.items():
            if known and known.get(name) != value:
                print(
                    f"The run was on {name} {known.get(name)}, this is {value}: it goes on, with other last bits"
                )
        self.gan = WGAN(self.config, self.data.facts)
        for state, prefix in checkpoints:
            try:
                self.state = self.gan.restore(prefix)
                break
            except DAMAGE as error:
                print(
                    f"{prefix} is damaged ({type(error).__name__}), trying the one before",
                    file=sys.stderr,
                )
        else:
            if checkpoints:
                raise Failed(
                    f"{self.folder}: no checkpoint there can be read; delete the folder to start from scratch"
                )
        runs.write_config(self.folder / "config.json", self.config, self.data.facts, here)
        self.rows = runs.read_log(self.folder, self.state)
        self.board = Board(self.folder, self.rows)
        for (epoch, index), path in utils.list_grids(self.samples):
            state = epoch * self.steps + index
            if state > self.state or (state == self.state and state % self.config.sample_every):
                path.unlink()
        if self.state:
            print(f"Going on from state {self.state} of {self.end}")

    def loop(self, stop):
        """Run iterations until the end or until `stop` holds a signal, with rows, grids and checkpoints between."""
        config = self.config
        if self.state == 0:
            self.write_grid()
        self.clock = Clock(self.rows, config)
        bar = tqdm(
            total=self.end,
            initial=self.state,
            unit="it",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
            smoothing=0.05,
        )
        with bar:
            while self.state < self.end and not stop:
                i = self.state + 1
                measured = self.gan.train_iteration(self.data, i)
                self.state = i
                bar.set_description(f"epoch {i // self.steps}/{config.epoch}", refresh=False)
                bar.update()
                if i % config.log_every == 0:
                    row = self.write_row(measured)
                    bar.set_postfix(w_distance=f"{row['w_distance']:.3f}", refresh=False)
                if i % LINE_EVERY == 0:
                    tqdm.write(self.line(measured), file=sys.stdout)
                if i % config.sample_every == 0 or i == self.end:
                    self.write_grid()
                if i % config.save_every == 0 or i == self.end or stop:
                    self.save()

    def write_row(self, measured):
        """Write the row of this iteration to log.jsonl and to TensorBoard; returns it."""
        row = {"iteration": self.state, "epoch": self.state // self.steps}
        names = ("d_loss", "g_loss", "w_distance", "w_distance_val", "penalty", "slope")
        measured = measured | {"w_distance_val": self.gan.validate(self.data)}
        row |= {name: float(measured[name]) if name in measured else None for name in names}
        row |= self.clock.read(self.state)
        runs.require_finite(row)
        runs.append_log(self.folder, row)
        self.rows.append(row)
        self.board.write(row)
        return row

    def line(self, measured):
        """Say how far it is in the words of the first program."""
        epoch, index = divmod(self.state, self.steps)
        seconds = self.clock.seconds()
        return (
            f"Epoch: [{epoch:2d}] [{index:4d}/{self.steps:4d}] time: {seconds:.1f},"
            f" d_loss: {float(measured['d_loss']):.2f}, g_loss: {float(measured['g_loss']):.2f}"
        )

    def write_grid(self):
        """Write the grid of this state."""
        images = self.gan.sample(self.z, self.grid_labels)
        name = utils.grid_name(self.state, self.steps)
        utils.save_png(self.samples / name, utils.grid(images, self.columns))

    def save(self):
        """Write the checkpoint of this state, after all that tells of the states before it, and delete the oldest."""
        utils.plot_log(self.samples / "loss.png", self.rows)
        if self.state == self.end:
            utils.write_training_gif(self.samples)
        self.gan.save(str(self.folder / f"ckpt-{self.state}"), self.state)
        runs.keep_newest(self.folder, KEPT)


def grid_layout(config, facts):
    """Lay a grid of pictures out: (columns, labels int32 [n] or None, number of latents).

    With labels: a row per class (the first 10) and one latent per column. Without: batch_size latents.
    """
    if not config.conditional:
        return int(np.ceil(np.sqrt(config.batch_size))), None, config.batch_size
    columns = max(8, config.batch_size // 10)
    rows = min(10, len(facts.class_names))
    return columns, np.repeat(np.arange(rows, dtype=np.int32), columns), columns


def real_grid(config, data, columns, labels):
    """Make a grid of training images in the layout of the generated ones."""
    if labels is None:
        return utils.grid(data.images[data.train[: config.batch_size]], columns)
    classes = data.labels[data.train]
    chosen = [data.images[data.train[classes == label][:columns]] for label in np.unique(labels)]
    blank = np.zeros((columns, *data.facts.shape), np.uint8)
    return utils.grid(
        np.concatenate([np.concatenate([row, blank[len(row) :]]) for row in chosen]), columns
    )


class Clock:
    """Seconds of training over all starts of a run, and images per second since the last row."""

    def __init__(self, rows, config):
        self.config = config
        self.before = rows[-1]["seconds"] if rows else 0.0
        self.start = self.last = time.perf_counter()
        self.last_state = None

    def seconds(self):
        """Return the seconds of training so far."""
        return self.before + time.perf_counter() - self.start

    def read(self, state):
        """Return the two time columns of the row of `state`."""
        now = time.perf_counter()
        first = state - self.config.log_every if self.last_state is None else self.last_state
        updates = self.config.updates_before(state + 1) - self.config.updates_before(first + 1)
        speed = updates * self.config.batch_size / (now - self.last)
        self.last, self.last_state = now, state
        return {"seconds": round(self.seconds(), 3), "images_per_second": round(speed, 1)}


class Board:
    """The log's rows as TensorBoard events, written anew at each start, so that they never tell more than the log."""

    def __init__(self, folder, rows):
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        try:
            import tensorboard  # noqa: F401
        except ImportError:
            print("TensorBoard is not installed: no events are written, log.jsonl has all numbers")
            self.writer = None
            return
        import tensorflow as tf

        self.writer = tf.summary.create_file_writer(str(folder))
        for row in rows:
            self.write(row)

    def write(self, row):
        """Write one row, a scalar per column."""
        if self.writer is None:
            return
        import tensorflow as tf

        with self.writer.as_default(step=row["iteration"]):
            for name, value in row.items():
                if value is not None and name != "iteration":
                    tf.summary.scalar(name, value)
        self.writer.flush()
