"""Training: from the first look at the images to the last checkpoint, in the order of events."""

import contextlib
import signal

import utils
from pairs import PLANE
from run import checkpoints, folders, settings
from run.outputs import NoOutputs, Outputs
from system import device, signals
from system.errors import Refused, named_failures
from system.screen import printable

LINE_EVERY = 200  # iterations between two of the lines that the first program printed
AGAIN = "The same command goes on from there."


def train(run, data, cluster):
    """Train a run, from scratch or on from its newest checkpoint, and return the exit code.

    `run` is a description.Run, `data` a datasets.dataset.Data, `cluster` a hosts.Cluster. Raises
    Refused and Failed.
    """
    with contextlib.ExitStack() as held:
        if cluster.is_chief:
            held.enter_context(claim_folders(run))
        replicas = None
        if run.config.distribute != "none":
            device.import_tensorflow()
            from distributed import replicas as distribution

            replicas = distribution.connect(run.config.distribute, cluster)
            held.enter_context(replicas.losses_named())
            replicas.compare(distribution.describe(run))
        outputs = open_outputs(run, data) if cluster.is_chief else NoOutputs()
        held.callback(outputs.close)
        stop = held.enter_context(signals.caught()) if cluster.others else None
        return Training(run, data, outputs, replicas).run_to_end(stop)


def open_outputs(run, data):
    """Return the Outputs of a run of images, or of points in a plane."""
    if run.config.dataset not in PLANE:
        return Outputs(run, utils.Grids(run.config, data))
    from scores import plane

    return Outputs(run, plane.Frames(run.config, data))


@contextlib.contextmanager
def claim_folders(run):
    """Keep other trainings out of the run's folders. Raises Refused."""
    with folders.claim(run.config.sample_dir, run.folder):
        if checkpoints.list_checkpoints(run.folder) != run.checkpoints:
            raise Refused(f"{run.folder}: another training has just ended there; start again")
        checkpoints.remove_leftovers(run.folder)
        yield


class Training:
    """One start of a run. Of several hosts each has one, and the first one's has `outputs`."""

    def __init__(self, run, data, outputs, replicas=None):
        self.run, self.config, self.data = run, run.config, data
        self.outputs, self.replicas = outputs, replicas
        self.end = settings.last_iteration(run.config)
        self.iteration = 0  # the last one that is done
        self.gan = None  # until `build_model`
        self.asked = None  # how many hosts had heard a signal at the last iteration, a tensor

    def run_to_end(self, stop=None):
        """Train to the end and return the exit code.

        `stop` lists the signals that have come, where they are caught already.
        """
        try:
            self.build_model()
            damaged = self.restore()
            if self.iteration >= self.end:
                print(
                    f"{self.run.folder} is at iteration {self.iteration}: nothing left to train"
                    " (see --epoch and --max_iterations)"
                )
                return 0
            self.outputs.open(self.iteration, self.gan.environment(), damaged)
            with signals.caught() if stop is None else contextlib.nullcontext(stop) as stop:
                self.loop(stop)
                if self.replicas:  # no host leaves before the first one has saved
                    int(self.replicas.sum_over_hosts(0))
        except named_failures():  # main.py says what failed
            self.outputs.close()
            print(f"Stopped at iteration {self.iteration}: {self.outputs.kept()}. {AGAIN}")
            raise
        self.outputs.close()
        if self.iteration < self.end:
            print(f"Interrupted: {self.outputs.kept()}. {AGAIN}")
            return 128 + (stop[0] if stop else signal.SIGTERM)
        print(
            f"Done: {self.end} iterations. Pictures are in {self.config.sample_dir}, the run in"
            f" {self.run.folder}"
        )
        return 0

    def build_model(self):
        """Build the model, and say what it is computed on."""
        from model import WGAN

        self.gan = WGAN(self.config, self.data.facts, self.replicas)
        here, before = self.gan.environment(), self.run.environment
        precision = self.config.precision
        print(f"Device: {device.in_words(here)}, {precision}")
        if precision == "bfloat16" and not device.has_bfloat16():
            print("This processor has no instructions for bfloat16: float32 will be faster")
        if not self.replicas:  # which do without XLA
            device.say_compiling()
        if not before:
            return
        changed = device.changes(before, here)
        if "loss" in changed:
            raise Refused(
                f"{self.run.folder}: was trained with {changed['loss']}, and ops.LOSS is now"
                f" {here['loss']}; choose another --checkpoint_dir"
            )
        if changed:
            words = printable(", ".join(changed.values()), 1000)
            print(f"The run was on {words}: it goes on, with other last bits")

    def restore(self):
        """Restore the newest checkpoint; return the iterations of those that cannot be read.

        The first host chooses it; the others restore the same one.
        """
        from run import weights

        damaged, saved, folder = [], self.run.checkpoints, self.run.folder
        is_chief = not self.replicas or self.replicas.worker == 0
        if saved and is_chief:
            self.iteration, damaged = weights.restore_newest(self.gan, saved, folder)
            checkpoints.keep_newest(folder, damaged)  # a kill may have come before
        if self.replicas:
            self.iteration = int(self.replicas.sum_over_hosts(self.iteration))
            if self.iteration and not is_chief:
                chosen = [one for one in saved if one[0] == self.iteration]
                weights.restore_newest(self.gan, chosen, folder)
        return damaged

    def loop(self, stop):
        """Do iterations until the end, or until a signal is in `stop`; then save the last one."""
        config, outputs, gan = self.config, self.outputs, self.gan
        if self.iteration == 0:
            outputs.write_grid(0, gan)
        while self.iteration < self.end and not self.is_stopped(stop):
            i = self.iteration + 1
            measured = gan.train_iteration(self.data, i)
            self.iteration = i
            outputs.advance(i)
            if i % config.log_every == 0:
                measured["w_distance_val"] = gan.validate(self.data)
                outputs.write_row(i, measured, gan)
            if i % LINE_EVERY == 0:
                outputs.write_line(i, measured)
            if i % config.sample_every == 0 or i == self.end:
                try:
                    outputs.write_grid(i, gan)
                except named_failures():
                    outputs.save(i, gan)  # a picture that fails costs no iteration
                    raise
            if i % config.save_every == 0 or i == self.end:
                outputs.save(i, gan)
        outputs.save(self.iteration, gan)

    def is_stopped(self, stop):
        """Return whether a signal has come; several hosts agree on that one iteration later."""
        if self.replicas and self.replicas.workers > 1:
            asked, self.asked = self.asked, self.replicas.sum_over_hosts(len(stop))
            return asked is not None and int(asked) > 0
        return bool(stop)
