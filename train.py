"""Training: the loop around the model's iteration, and what it leaves on disk and on the screen."""

import contextlib
import re
import signal
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import draws
import utils
from run import checkpoints, folders, settings
from run.log import Log
from system import device, signals
from system.errors import Failed, Refused

LINE_EVERY = 200  # iterations between two of the lines that the first program printed


def train(config, data, cluster, saved, known):
    """Train a resolved run, from scratch or on from its newest checkpoint; returns the exit code.

    `saved` are the checkpoints in its folder, as checkpoints.list_checkpoints lists them, and
    `known` is the environment that it was in before, None from scratch; `cluster` are the hosts.
    Raises Refused and Failed.
    """
    with contextlib.ExitStack() as held:
        if cluster.is_chief:
            held.enter_context(claim_folders(config, saved))
        replicas = None
        if config.distribute != "none":
            device.import_tensorflow()
            from distributed import replicas as distribution

            replicas = distribution.connect(config.distribute, cluster)
            held.enter_context(replicas.losses_named())
            replicas.compare(distribution.describe(config, data.facts, saved))
        training = Training(config, data, replicas)
        stop = held.enter_context(signals.caught()) if cluster.others else None
        with training.failures_named():
            return training.run(saved, known, stop)


@contextlib.contextmanager
def claim_folders(config, saved):
    """Keep other trainings out of the run's folders, in which there are `saved` checkpoints."""
    with folders.claim(config.sample_dir, config.run_dir):
        if checkpoints.list_checkpoints(config.run_dir) != saved:
            raise Refused(f"{config.run_dir}: another training has just ended there; start again")
        checkpoints.remove_leftovers(config.run_dir)
        yield


class Training:
    """One start of a run: its model, its folders, its log and its screen.

    Of several hosts, `replicas` says which one this is; the chief alone has folders and screen.
    """

    def __init__(self, config, data, replicas=None):
        self.config, self.data, self.replicas = config, data, replicas
        self.end, self.steps = settings.last_state(config), settings.steps_per_epoch(config)
        self.is_chief = replicas is None or replicas.worker == 0
        self.samples, self.folder = Path(config.sample_dir), Path(config.run_dir)
        classes = len(data.facts.class_names) if config.conditional else 0
        self.columns, self.grid_labels, count = utils.grid_layout(classes, config.batch_size)
        self.grid_z = draws.fixed_latents(config.seed, count, config.z_dim, config.latents)
        if classes:
            self.grid_z = np.tile(self.grid_z, (len(self.grid_labels) // self.columns, 1))
        self.state, self.saved, self.unreadable = 0, None, []
        self.stopped, self.asked = False, None

    def run(self, saved, known, stop=None):
        """Train to the end and return the exit code, as `train` describes.

        `stop` lists the signals that have come, where they are caught already.
        """
        if not saved:
            self.prepare_pictures(from_scratch=True)
        self.prepare_model(saved, known)  # fails where no checkpoint can be read
        if self.state >= self.end:
            print(
                f"{self.folder} is at iteration {self.state}: nothing left to train"
                " (see --epoch and --max_iterations)"
            )
            return 0
        if saved:
            self.prepare_pictures(from_scratch=False)
        self.prepare_folder()
        with signals.caught() if stop is None else contextlib.nullcontext(stop) as stop:
            stopped = self.loop(stop)
        where = f"state {self.state} is {'saved' if self.is_chief else 'with the first host'}"
        if stopped:
            print(f"Interrupted: {where}. The same command goes on from there.")
            return 128 + stopped
        print(
            f"Done: {self.end} iterations. Pictures are in {self.samples}, the run in {self.folder}"
        )
        return 0

    def loop(self, stop):
        """Run iterations until the end or a signal in `stop`; returns its number, or 0."""
        with self.progress_bar() as bar:
            if self.state == 0:
                self.write_grid()
            while self.state < self.end and not self.is_stopped(stop):
                i = self.state + 1
                measured = self.gan.train_iteration(self.data, i)
                self.state = i
                bar.set_description(f"epoch {i // self.steps}", refresh=False)
                bar.update()
                self.leave_traces(measured, bar)
            if self.state != self.saved:
                self.save()
            if self.replicas:  # nobody leaves before the chief has saved
                int(self.replicas.sum_over_hosts(0))
        if self.state >= self.end:
            return 0
        return stop[0] if stop else signal.SIGTERM * self.stopped

    def leave_traces(self, measured, bar):
        """Write what this state's number asks for: row, line, grid, checkpoint, in this order."""
        config, i = self.config, self.state
        if i % config.log_every == 0:
            self.write_row(measured, bar)
        if i % LINE_EVERY == 0:
            self.write_line(measured)
        if i % config.sample_every == 0 or i == self.end:
            try:
                self.write_grid()
            except Exception:  # a picture that fails ends the run, but costs no state
                self.save()
                raise
        if i % config.save_every == 0 or i == self.end:
            self.save()

    def progress_bar(self):
        """Make the bar, on a terminal and on one host alone."""
        hidden = not (sys.stderr.isatty() and self.is_chief)
        return tqdm(total=self.end, initial=self.state, unit="it", disable=hidden)

    def is_stopped(self, stop):
        """Return whether a signal has come; hosts agree on that, an iteration late."""
        if self.replicas and self.replicas.workers > 1:
            asked, self.asked = self.asked, self.replicas.sum_over_hosts(len(stop))
            self.stopped = asked is not None and int(asked) > 0
        else:
            self.stopped = bool(stop)
        return self.stopped

    # What is left on disk and on the screen: by the chief alone, if there are several hosts.

    def write_row(self, measured, bar):
        """Write this state's row of the log; all hosts measure its last number."""
        measured = measured | {"w_distance_val": self.gan.validate(self.data)}
        if self.is_chief:
            epoch = self.state // self.steps
            row = self.log.write(self.state, epoch, measured, self.images_seen())
            bar.set_postfix(w_distance=f"{row['w_distance']:.3g}", refresh=False)

    def images_seen(self):
        """Count the real images that the critic has seen."""
        return self.config.updates_before(self.state + 1) * self.config.batch_size

    def write_line(self, measured):
        """Print how far it is in the words of the first program; small losses get more digits."""
        if not self.is_chief:
            return
        epoch, index = divmod(self.state, self.steps)
        losses = [float(measured[name]) for name in ("d_loss", "g_loss")]
        d_loss, g_loss = (f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.5f}" for x in losses)
        tqdm.write(
            f"Epoch: [{epoch:2d}] [{index:4d}/{self.steps:4d}] time: {self.log.seconds():.1f},"
            f" d_loss: {d_loss}, g_loss: {g_loss}",
            file=sys.stdout,
        )

    def write_grid(self):
        """Write the grid of this state."""
        if self.is_chief:
            images = self.gan.sample(self.grid_z, self.grid_labels)
            name = utils.grid_name(self.state, self.steps)
            utils.save_png(self.samples / name, utils.grid(images, self.columns))
            self.log.board.show("pictures/generated", self.samples / name, self.state)

    def save(self):
        """Write the checkpoint of this state, after all that tells of the states before it.

        Pictures that fail end the run, but only once the checkpoint is written.
        """
        if not self.is_chief:
            return
        if broken := self.gan.find_non_finite():
            raise Failed(
                f"{broken} is not finite at iteration {self.state}; the last checkpoint is kept:"
                " delete the run and start again with a smaller --learning_rate"
            )
        try:
            utils.plot_log(self.samples / "loss.png", self.log.rows)
            if self.state == self.end:
                self.write_gif()
        finally:
            self.gan.save(str(self.folder / f"ckpt-{self.state}"), self.state)
            self.saved = self.state
            self.unreadable = [state for state in self.unreadable if state != self.state]
            checkpoints.keep_newest(self.folder, self.unreadable)

    def write_gif(self):
        """Write training.gif, or say why there is none."""
        try:
            utils.write_training_gif(self.samples)
        except Refused as refusal:
            print(f"No training.gif: {refusal}")

    # Before the loop.

    def prepare_pictures(self, from_scratch):
        """Clear another run's pictures, or on a start from scratch all, and show the real images.

        Whose grids a sample folder holds is kept in its file `.run`.
        """
        if not self.is_chief:
            return
        owner, mine = self.samples / ".run", settings.identity(self.config, self.data.facts)
        last = folders.regular(owner).read_bytes() if owner.exists() else b""
        damaged = not re.fullmatch(b"[0-9a-f]{64}", last)  # or nothing, and no guess then
        others = not damaged and last != mine.encode()
        if from_scratch or others:
            old = [path for _, path in utils.list_grids(self.samples)]
            old += [self.samples / name for name in ("training.gif", "loss.png")]
            old = [path for path in old if path.exists()]
            for path in old:
                path.unlink()
            if old:
                print(f"{len(old)} pictures of another run in {self.samples} removed")
            if from_scratch and (self.folder / "generator.json").exists():
                print(
                    f"From scratch: {self.folder / 'generator.npz'} is not used and stays as it is"
                )
        folders.write_atomically(owner, mine)
        flipped = draws.mirrored(self.config.seed, 0, len(self.grid_z)) & self.config.mirror
        sheet = utils.real_grid(self.data, self.columns, self.grid_labels, flipped)
        utils.save_png(self.samples / "real.png", sheet)
        print(f"Training images: {self.samples / 'real.png'}")

    def prepare_model(self, saved, known):
        """Build the model and restore the newest checkpoint that can be read."""
        device.import_tensorflow()
        from model import WGAN
        from run.weights import restore_chiefs, restore_newest

        self.here = self.describe_device(known)
        self.gan = WGAN(self.config, self.data.facts, self.replicas)
        if saved and self.is_chief:
            self.state, self.unreadable = restore_newest(self.gan, self.folder)
            self.saved = self.state
            checkpoints.keep_newest(self.folder, self.unreadable)  # a kill may have come
        if self.replicas:
            self.state = int(self.replicas.sum_over_hosts(self.state))
            self.saved = self.state or None
            if self.state and not self.is_chief:
                restore_chiefs(self.gan, self.folder / f"ckpt-{self.state}")

    def describe_device(self, known):
        """Print what the run is on, and what of that is new to it; returns the environment."""
        from model import ARITHMETIC

        count = self.replicas.total if self.replicas else 1
        strategy = "tf.distribute" if self.replicas else "none"
        here = device.environment() | {"replicas": count, "strategy": strategy}
        here["arithmetic"] = ARITHMETIC
        parts = f"{count} replicas, " if count > 1 else ""
        precision = self.config.precision
        print(f"Device: {here['device']}, {parts}{here['threads']} threads, {precision}")
        if precision == "bfloat16" and not device.has_bfloat16():
            print("This processor has no instructions for bfloat16: float32 will be faster")
        if known and (changed := device.changes(known, here)):
            print(f"The run was on {', '.join(changed)}: it goes on, with other last bits")
        return here

    def prepare_folder(self):
        """Bring log and pictures to the state that the run goes on from."""
        if not self.is_chief:
            print("Pictures, log and checkpoints are written by the first host")
            return
        if self.state:
            print(f"Going on from state {self.state} of {self.end}")
        settings.write_config(self.folder / "config.json", self.config, self.data.facts, self.here)
        self.log = Log(self.folder, self.state, self.images_seen(), self.config.log_every)
        self.log.board.tell("configuration", settings.kept(self.config))
        self.log.board.show("pictures/real", self.samples / "real.png", 0)
        for (epoch, index), path in utils.list_grids(self.samples):
            state = epoch * self.steps + index
            if state > self.state or (state == self.state and state % self.config.sample_every):
                path.unlink()
            else:
                self.log.board.show("pictures/generated", path, state)

    @contextlib.contextmanager
    def failures_named(self):
        """Turn what the system refuses, as a write to a full disk, into a Failed that helps."""
        try:
            yield
        except OSError as error:
            where = error.filename or f"{self.folder} or {self.samples}"
            raise Failed(
                f"{where}: {error.strerror or error} at iteration {self.state}; {self.kept()}: mend"
                " that, and the same command goes on from there"
            ) from None
        except device.out_of_memory():
            raise Failed(
                f"out of memory at iteration {self.state}; {self.kept()}: end other programs, or"
                " train another run with a smaller --batch_size"
            ) from None

    def kept(self):
        """Return in words what an end now leaves."""
        if not self.is_chief:
            return "the first host has what is saved"
        there = checkpoints.list_checkpoints(self.folder)
        return f"state {there[0][0]} is saved" if there else "nothing is saved yet"
