"""Training: the loop around the model's iteration, and what it leaves on disk and on the screen."""

import contextlib
import re
import signal
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import config as flags
import dataset
import device
import draws
import hosts
import pictures
import runs
import settings
import signals
import utils
from errors import Failed, Refused
from log import Log

LINE_EVERY = 200  # iterations between two of the lines that the first program printed
KEPT = 3  # checkpoints


def train(typed):
    """Train the run that the typed flags describe, from scratch or on from its checkpoint.

    Returns the exit code: 0, or 130 or 143 after an interruption. Raises Refused and Failed.
    """
    wanted = flags.Config(**typed)
    cluster = hosts.find(wanted)
    for folder in (wanted.sample_dir, wanted.run_dir):
        runs.check_folder(folder, wanted)
    data = dataset.load(wanted)
    config = settings.resolve(wanted, data.facts)
    checkpoints = runs.list_checkpoints(config.run_dir)
    known = runs.check_same(config, data.facts, Path(config.run_dir)) if checkpoints else None
    with contextlib.ExitStack() as held:

        def claim():
            return held.enter_context(claim_folders(config, checkpoints))

        if config.distribute == "none":
            locks, replicas = claim(), None
        else:
            device.import_tensorflow()
            import distribute

            locks, replicas = distribute.gather(config, data.facts, cluster, checkpoints, claim)
            held.enter_context(replicas.losses_named())
        training = Training(config, data, locks, replicas)
        if cluster.others:
            training.stop = held.enter_context(signals.caught())
        with training.failures_named():
            return training.run(checkpoints, known) if cluster.is_chief else training.follow()


@contextlib.contextmanager
def claim_folders(config, checkpoints):
    """Keep other trainings out of the run's folders, in which there are `checkpoints`."""
    with runs.claim(config.sample_dir, config.run_dir) as locks:
        if runs.list_checkpoints(config.run_dir) != checkpoints:
            raise Refused(f"{config.run_dir}: another training has just ended there; start again")
        runs.remove_leftovers(config.run_dir)
        yield locks


def words_for(name, value):
    """Say one fact of a run's environment: 'numpy 2.0', but '4 threads'."""
    if name not in ("threads", "replicas"):
        return f"{name} {value}"
    return f"{value} {name.removesuffix('s') if value == 1 else name}"


class Training:
    """One start of a run: its model, its folders, its log and its screen.

    Of several hosts, `replicas` says which one this is; the chief alone has folders and screen.
    """

    def __init__(self, config, data, locks, replicas=None):
        self.config, self.data, self.end = config, data, settings.last_state(config)
        self.locks, self.replicas = locks, replicas
        self.is_chief = replicas is None or replicas.is_chief
        self.samples, self.folder = Path(config.sample_dir), Path(config.run_dir)
        self.steps = settings.steps_per_epoch(config)
        self.columns, self.grid_labels, count = pictures.grid_layout(config, data.facts)
        self.grid_z = draws.fixed_latents(config.seed, count, config.z_dim)
        if config.conditional:
            self.grid_z = np.tile(self.grid_z, (len(self.grid_labels) // self.columns, 1))
        self.state, self.saved = 0, None
        self.stop, self.stopped, self.asked = None, False, None

    @contextlib.contextmanager
    def failures_named(self):
        """Turn what the system refuses, as a write to a full disk, into a Failed that helps."""
        try:
            yield
        except OSError as error:
            where = error.filename or f"{self.folder} or {self.samples}"
            raise Failed(
                f"{where}: {error.strerror} at iteration {self.state}; {self.kept()}: mend that,"
                " and the same command goes on from there"
            ) from None
        except device.out_of_memory():
            raise Failed(
                f"out of memory at iteration {self.state}; {self.kept()}: end other programs, or"
                " train another run with a smaller --batch_size"
            ) from None

    def kept(self):
        """Say what an end now leaves."""
        if not self.is_chief:
            return "the first host has what is saved"
        return "nothing is saved yet" if self.saved is None else f"state {self.saved} is saved"

    def run(self, checkpoints, known):
        """Train to the end and return the exit code.

        `checkpoints` are those in the run's folder, newest first, and `known` is the environment
        that it was in before, None from scratch.
        """
        seems_done = bool(checkpoints) and checkpoints[0][0] >= self.end
        if not seems_done:
            self.prepare_pictures(from_scratch=not checkpoints)
        self.prepare_model(checkpoints, known)
        if self.state >= self.end:
            print(
                f"{self.folder} is at iteration {self.state}: nothing left to train"
                " (see --epoch and --max_iterations)"
            )
            return 0
        if seems_done:
            self.prepare_pictures(from_scratch=False)
        self.prepare_folder()
        stopped = self.loop()
        if stopped:
            print(f"Interrupted: state {self.state} is saved. The same command goes on from there.")
            return 128 + stopped
        print(
            f"Done: {self.end} iterations. Pictures are in {self.samples}, the run in {self.folder}"
        )
        return 0

    def follow(self):
        """Do what `run` does on a host that is not the chief; returns the exit code."""
        print("Pictures, log and checkpoints are written by the first host")
        self.prepare_model([], None)
        stopped = self.loop() if self.state < self.end else 0
        print(f"{'Interrupted' if stopped else 'Done'}: state {self.state} is with the first host")
        return 128 + stopped if stopped else 0

    def prepare_pictures(self, from_scratch):
        """Clear another run's pictures, or on a start from scratch all, and show the real images.

        Whose grids a sample folder holds is kept in its file `.run`.
        """
        owner, mine = self.samples / ".run", runs.identity(self.config, self.data.facts)
        last = owner.read_bytes().decode(errors="replace") if owner.exists() else ""
        others = re.fullmatch("[0-9a-f]{64}", last) and last != mine  # no guess from a damaged one
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
        runs.write_atomically(owner, mine)
        sheet = pictures.real_grid(self.config, self.data, self.columns, self.grid_labels)
        utils.save_png(self.samples / "real.png", sheet)
        print(f"Training images: {self.samples / 'real.png'}")

    def prepare_model(self, checkpoints, known):
        """Build the model and restore the newest good checkpoint, as `run` describes."""
        device.import_tensorflow()
        from model import WGAN
        from weights import restore_newest

        count = self.replicas.total if self.replicas else 1
        self.here = here = device.environment()
        here |= {"replicas": count, "strategy": "tf.distribute" if self.replicas else "none"}
        parts = f"{count} replicas, " if count > 1 else ""
        print(
            f"Device: {here['device']}, {parts}{here['threads']} threads, {self.config.precision}"
        )
        if self.config.precision == "bfloat16" and not device.has_bfloat16():
            print("This processor has no instructions for bfloat16: float32 will be faster")
        known = known and {"replicas": 1, "strategy": "none"} | known
        if known and known != here:
            changed = [words_for(n, known.get(n)) for n in here if known.get(n) != here[n]]
            print(f"The run was on {', '.join(changed)}: it goes on, with other last bits")
        self.gan = WGAN(self.config, self.data.facts, self.replicas)
        if checkpoints:
            self.state = self.saved = restore_newest(self.gan, checkpoints)
            runs.keep_newest(self.folder, KEPT)  # a kill may have come before that
        if self.replicas:
            self.state = self.replicas.sum_over_hosts(self.state)
            self.saved = self.state or None
            if self.state and not self.is_chief:
                self.restore_as(self.state)

    def restore_as(self, state):
        """Restore the checkpoint that the chief chose."""
        from weights import DAMAGE

        prefix = self.folder / f"ckpt-{state}"
        try:
            self.gan.restore(str(prefix))
        except DAMAGE as error:
            raise Failed(
                f"{prefix}: cannot be read here ({type(error).__name__}), but by the first host;"
                " --checkpoint_dir must be a folder that all hosts see"
            ) from None

    def prepare_folder(self):
        """Bring log and pictures to the state that the run goes on from."""
        if self.state:
            print(f"Going on from state {self.state} of {self.end}")
        runs.write_config(self.folder / "config.json", self.config, self.data.facts, self.here)
        self.log = Log(self.folder, self.state, self.config)
        for (epoch, index), path in utils.list_grids(self.samples):
            state = epoch * self.steps + index
            if state > self.state or (state == self.state and state % self.config.sample_every):
                path.unlink()

    def loop(self):
        """Run iterations until the end or a signal; returns the signal's number, or 0."""
        hidden = not (sys.stderr.isatty() and self.is_chief)
        with (
            signals.caught() if self.stop is None else contextlib.nullcontext(self.stop) as stop,
            tqdm(total=self.end, initial=self.state, unit="it", disable=hidden) as bar,
        ):
            if self.state == 0 and self.is_chief:
                self.write_grid()
            while self.state < self.end and not self.is_stopped(stop):
                i = self.state + 1
                measured = self.gan.train_iteration(self.data, i)
                self.state = i
                bar.set_description(f"epoch {i // self.steps}", refresh=False)
                bar.update()
                if i % self.config.log_every == 0:
                    measured |= {"w_distance_val": self.gan.validate(self.data)}
                if self.is_chief:
                    self.leave_traces(measured, bar)
            if self.state != self.saved and self.is_chief:
                self.save()
            if self.replicas:  # nobody leaves before the chief has saved
                self.replicas.sum_over_hosts(0)
        if self.state >= self.end:
            return 0
        return stop[0] if stop else signal.SIGTERM * self.stopped

    def is_stopped(self, stop):
        """Tell whether a signal has come; hosts agree on that, an iteration late."""
        if self.replicas and self.replicas.workers > 1:
            asked, self.asked = self.asked, self.replicas.begin_sum(len(stop))
            self.stopped = asked is not None and int(asked) > 0
        else:
            self.stopped = bool(stop)
        return self.stopped

    def leave_traces(self, measured, bar):
        """Write what this state's number asks for: row, line, grid, checkpoint, in this order."""
        config, i = self.config, self.state
        if i % config.log_every == 0:
            runs.check_mine(self.locks)
            row = self.log.write(i, i // self.steps, measured)
            bar.set_postfix(w_distance=f"{row['w_distance']:.3g}", refresh=False)
        if i % LINE_EVERY == 0:
            tqdm.write(self.line(measured), file=sys.stdout)
        if i % config.sample_every == 0 or i == self.end:
            self.write_grid()
        if i % config.save_every == 0 or i == self.end:
            self.save()

    def line(self, measured):
        """Say how far it is in the words of the first program; small losses get more digits."""
        epoch, index = divmod(self.state, self.steps)
        losses = [float(measured[name]) for name in ("d_loss", "g_loss")]
        d_loss, g_loss = (f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.5f}" for x in losses)
        return (
            f"Epoch: [{epoch:2d}] [{index:4d}/{self.steps:4d}] time: {self.log.seconds():.1f},"
            f" d_loss: {d_loss}, g_loss: {g_loss}"
        )

    def write_grid(self):
        """Write the grid of this state."""
        images = self.gan.sample(self.grid_z, self.grid_labels)
        name = utils.grid_name(self.state, self.steps)
        runs.check_mine(self.locks)
        utils.save_png(self.samples / name, utils.grid(images, self.columns))

    def save(self):
        """Write the checkpoint of this state, after all that tells of the states before it."""
        if broken := self.gan.find_non_finite():
            raise Failed(
                f"{broken} is not finite at iteration {self.state}; the last checkpoint is kept:"
                " delete the run and start again with a smaller --learning_rate"
            )
        runs.check_mine(self.locks)
        utils.plot_log(self.samples / "loss.png", self.log.rows)
        if self.state == self.end:
            try:
                utils.write_training_gif(self.samples)
            except Refused as refusal:
                print(f"No training.gif: {refusal}")
        runs.check_mine(self.locks)
        self.gan.save(str(self.folder / f"ckpt-{self.state}"), self.state)
        runs.check_mine(self.locks)
        self.saved = self.state
        runs.keep_newest(self.folder, KEPT)
