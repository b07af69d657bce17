"""What a training leaves on disk and on the screen: pictures, log, checkpoints, lines, a bar.

Of several hosts the first one alone has Outputs; the others have NoOutputs.
"""

import sys
from pathlib import Path

from tqdm import tqdm

import utils
from run import checkpoints, description, folders, settings
from run.log import Log
from system.errors import Refused


class Outputs:
    """The files of a run (description.Run) in its folder and its sample folder, and its screen.

    `pictures` are utils.Grids or scores.plane.Frames.
    """

    def __init__(self, run, pictures):
        self.config, self.facts, self.folder = run.config, run.facts, run.folder
        self.pictures = pictures
        self.samples = Path(run.config.sample_dir)
        self.end = settings.last_iteration(run.config)
        self.steps_per_epoch = settings.steps_per_epoch(run.config)
        self.log = self.bar = None  # until `open`
        self.saved, self.damaged = None, []  # iterations: of the newest checkpoint, of damaged ones

    def open(self, iteration, environment, damaged):
        """Write real.png and config.json, and cut log and grids back to an iteration.

        `damaged` are the iterations of the checkpoints that cannot be read.
        """
        self.saved, self.damaged = iteration or None, damaged
        self._remove_others_pictures(from_scratch=not iteration)
        utils.save_png(self.samples / "real.png", self.pictures.real())
        print(f"Training images: {self.samples / 'real.png'}")
        if iteration:
            print(f"Going on from iteration {iteration} of {self.end}")
        path = self.folder / "config.json"
        description.write_config(path, self.config, self.facts, environment)
        self.log = Log(self.folder, iteration, self._images_seen(iteration), self.config.log_every)
        self.log.board.tell("configuration", settings.kept(self.config))
        self.log.board.show("pictures/real", self.samples / "real.png", 0)
        for (epoch, index), path in utils.list_grids(self.samples):
            i = epoch * self.steps_per_epoch + index
            if i > iteration or (i == iteration and i % self.config.sample_every):
                path.unlink()  # its checkpoint is gone, or it is of an earlier end of the run
            else:
                self.log.board.show("pictures/generated", path, i)
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(total=self.end, initial=iteration, unit="it", disable=hidden)

    def _remove_others_pictures(self, from_scratch):
        """Remove what another run left in the sample folder, from scratch all earlier pictures.

        The sample folder's file `.run` has the identity of the run whose grids it holds.
        """
        owner, mine = self.samples / ".run", settings.identity(self.config, self.facts).encode()
        last = folders.regular(owner).read_bytes() if owner.exists() else b""
        old = [path for _, path in utils.list_grids(self.samples)]
        old += [self.samples / name for name in ("training.gif", "loss.png")]
        old = [path for path in old if path.exists()]
        if old and (from_scratch or last not in (b"", mine)):
            for path in old:
                path.unlink()
            print(f"{len(old)} pictures of another run in {self.samples} removed")
        if from_scratch and (self.folder / "generator.json").exists():
            print(f"From scratch: {self.folder / 'generator.npz'} is not used and stays as it is")
        folders.write_atomically(owner, mine.decode())

    def _images_seen(self, iteration):
        """Count the real images that the critic has seen up to an iteration."""
        return self.config.updates_before(iteration + 1) * self.config.batch_size

    def advance(self, iteration):
        """Move the progress bar."""
        self.bar.set_description(f"epoch {iteration // self.steps_per_epoch}", refresh=False)
        self.bar.update()

    def write_row(self, iteration, measured, gan):
        """Write an iteration's row of the log."""
        epoch, measured = iteration // self.steps_per_epoch, measured | self.pictures.measure(gan)
        row = self.log.write(iteration, epoch, measured, self._images_seen(iteration))
        self.bar.set_postfix(w_distance=f"{row['w_distance']:.3g}", refresh=False)

    def write_line(self, iteration, measured):
        """Print the progress in the words of the first program; small losses get more digits."""
        epoch, index = divmod(iteration, self.steps_per_epoch)
        losses = [float(measured[name]) for name in ("d_loss", "g_loss")]
        d_loss, g_loss = (f"{x:.2f}" if abs(x) >= 0.1 else f"{x:.5f}" for x in losses)
        tqdm.write(
            f"Epoch: [{epoch:2d}] [{index:4d}/{self.steps_per_epoch:4d}]"
            f" time: {self.log.seconds():.1f}, d_loss: {d_loss}, g_loss: {g_loss}",
            file=sys.stdout,
        )

    def write_grid(self, iteration, gan):
        """Write the grid of pictures after an iteration."""
        path = self.samples / utils.grid_name(iteration, self.steps_per_epoch)
        utils.save_png(path, self.pictures.generated(gan, iteration))
        self.log.board.show("pictures/generated", path, iteration)

    def save(self, iteration, gan):
        """Write loss.png, at the end training.gif, and then the checkpoint, if it is not there.

        Pictures that fail end the training, but only after the checkpoint is written.
        """
        if iteration == self.saved:
            return
        try:
            utils.plot_log(self.samples / "loss.png", self.log.rows)
            if iteration == self.end:
                self._write_gif()
        finally:
            gan.save(self.folder, iteration)
            self.saved = iteration
            self.damaged = [i for i in self.damaged if i != iteration]
            checkpoints.keep_newest(self.folder, self.damaged)

    def _write_gif(self):
        try:
            utils.write_training_gif(self.samples)
        except Refused as refusal:
            print(f"No training.gif: {refusal}")

    def kept(self):
        """Return in words what is saved if the training ends now."""
        there = checkpoints.list_checkpoints(self.folder)
        return f"iteration {there[0][0]} is saved" if there else "nothing is saved yet"

    def close(self):
        """End the progress bar."""
        if self.bar:
            self.bar.close()


class NoOutputs:
    """The methods of Outputs on all hosts but the first, where they write nothing."""

    def open(self, *_):
        """Print which host writes."""
        print("Pictures, log and checkpoints are written by the first host")

    def kept(self):
        """Return in words what is saved if the training ends now."""
        return "the first host has what is saved"

    def write_nothing(self, *_):
        """Write nothing."""

    advance = write_row = write_line = write_grid = save = close = write_nothing
