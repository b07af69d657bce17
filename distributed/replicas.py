"""Which replica computes which part of a batch: one device, several of a host, several hosts.

TensorFlow's strategies do the work. Every batch, latent, alpha and noise is drawn for the whole
batch from the run's seed and then cut, so that the run is the same for any number of replicas.
"""

import contextlib
import signal
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from run import settings
from system import device, signals
from system.errors import Failed, Refused, explain
from system.flags import FIXED

# What TensorFlow raises outside of a collective operation when another host is gone.
NETWORK = (
    *(tf.errors.AbortedError, tf.errors.CancelledError),
    *(tf.errors.DeadlineExceededError, tf.errors.UnavailableError),
)


@dataclass(frozen=True)
class Replicas:
    """The replicas of a training. This process has `local` ones and is host `worker` of `workers`.

    Host 0, the chief, writes all files.
    """

    strategy: Any
    local: int = 1
    worker: int = 0
    workers: int = 1

    @property
    def total(self):
        """Count the replicas of all hosts."""
        return self.local * self.workers

    @property
    def alone(self):
        """Return whether no strategy is in use."""
        return self.strategy is tf.distribute.get_strategy()

    def share(self, batch_size):
        """Return the slice of a batch that this process computes."""
        size = batch_size // self.workers
        return slice(self.worker * size, (self.worker + 1) * size)

    def split(self, *arrays):
        """Cut arrays, this process' part of a batch, into one part per replica; None stays None."""
        if self.alone:
            return arrays
        return tuple(None if x is None else self._scatter(np.split(x, self.local)) for x in arrays)

    def _scatter(self, parts):
        return self.strategy.experimental_distribute_values_from_function(
            lambda to: tf.convert_to_tensor(parts[to.replica_id_in_sync_group % self.local])
        )

    def mean(self, value):
        """Average over all replicas; only in a compiled function, outside of `strategy.run`."""
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)

    def first(self, value):
        """Take a value that is the same on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    @contextlib.contextmanager
    def losses_named(self):
        """Raise Failed where TensorFlow's error says that another host is gone."""
        try:
            yield
        except tf.errors.OpError as error:
            if self.workers == 1 or not is_loss(error):
                raise
            raise Failed(
                f"another host is lost ({explain(error)}); see what the others say, then start all"
                " of them again: they go on from the newest checkpoint"
            ) from None

    def sum_over_hosts(self, numbers):
        """Return the sum of whole numbers, or arrays, over all hosts: a tensor still being made."""
        parts = [np.int64(numbers) * (i == 0) for i in range(self.local)]
        return self._add(self._scatter(parts))

    @tf.function(autograph=False)
    def _add(self, numbers):
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)

    def compare(self, described):
        """Refuse to train where hosts differ; each of them names what differs and its own values.

        `described` is {what: value} of this host.
        """
        names = sorted(described)
        if self._differing([str(names)]):
            raise Refused(
                "the hosts run different versions of this program; install the same one on all"
            )
        if found := self._differing([str(described[name]) for name in names]):
            here = ", ".join(f"{names[i]} is {described[names[i]]}" for i in found)
            raise Refused(f"the hosts differ; here {here}; start all of them with the same values")

    def _differing(self, texts):
        """List the positions at which not all hosts have the same text."""
        sums = np.array([zlib.crc32(text.encode()) for text in texts], np.int64)
        # A host has what all have if the hosts' mean is its own checksum.
        return np.flatnonzero(self.sum_over_hosts(sums) != sums * self.workers).tolist()


def is_loss(error):
    """Return whether a TensorFlow error says that another host is gone.

    A collective operation that is aborted says so, under the error code of whatever ended it. XLA
    calls a missing compiler of PTX unavailable, too.
    """
    text = str(error)
    return "Collective ops is aborted by" in text or (
        isinstance(error, NETWORK) and "PTX" not in text
    )


def describe(run):
    """Return what all hosts of a training (description.Run) must have in common: {what: value}."""
    config = run.config
    versions = device.environment()
    del versions["device"], versions["threads"]
    return {
        **settings.kept(config, (FIXED,)),
        "log_every": config.log_every,
        "the last iteration": settings.last_iteration(config),
        "the newest checkpoint": run.checkpoints[0][0] if run.checkpoints else None,
        "the data's digest": run.facts.fingerprint[:8],
        **versions,
    }


def local_devices():
    """Return the names of this host's devices that train: its GPUs or, without one, its CPU."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def check_batch(batch_size, distribute, cluster):
    """Count the replicas of all hosts; refuse a batch that cannot be cut into one part for each."""
    local = len(local_devices()) if distribute == "mirrored" else device.count_gpus() or 1
    count = local * len(cluster.hosts)
    if batch_size % count:
        raise Refused(
            f"--batch_size {batch_size}: cannot be cut into {count} equal parts,"
            " one per replica; choose a multiple"
        )
    return count


def connect(distribute, cluster):
    """Return the Replicas that --distribute asks for, as soon as all hosts are there."""
    if distribute == "mirrored":
        devices = local_devices()
        return Replicas(tf.distribute.MirroredStrategy(devices), len(devices))
    if cluster.others:
        number = f"Host {cluster.index + 1} of {len(cluster.hosts)}"
        print(f"{number}: waiting for {', '.join(cluster.others)} (Ctrl-C ends it)")
    # TensorFlow's coordination service would handle SIGTERM, and not hear it while it waits.
    context.context().configure_coordination_service(service_type="")
    try:
        with signals.handled(signal.SIG_DFL):  # Python's handlers would run after the long call
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        host = cluster.hosts[cluster.index]
        raise Failed(f"{host}: {explain(error)}; another program may have its port") from None
    local = len(strategy.extended.worker_devices)
    return Replicas(strategy, local, cluster.index, len(cluster.hosts))
