"""One device, the devices of a host, or several hosts: who computes which part of a batch.

TensorFlow's strategies do the work. Every batch, latent, alpha and noise is drawn for the whole
batch from the run's seed and then cut, so that the run is the same for any number of replicas.
"""

import contextlib
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

import device
import meeting
import settings
import signals
from errors import Failed, Refused

# What TensorFlow raises when another host is gone.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


@dataclass(frozen=True)
class Replicas:
    """The replicas of a training, of which this process has `local`, on host `worker` of `workers`.

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
        """Tell whether no strategy is in use."""
        return self.strategy is tf.distribute.get_strategy()

    @property
    def is_chief(self):
        """Tell whether this process writes the files."""
        return self.worker == 0

    def share(self, batch_size):
        """Say which part of a batch this process computes."""
        size = batch_size // self.workers
        return slice(self.worker * size, (self.worker + 1) * size)

    def split(self, *arrays):
        """Cut this process' part of some arrays into one per replica; None stays None."""
        if self.alone:
            return arrays
        return tuple(None if x is None else self._scatter(np.split(x, self.local)) for x in arrays)

    def deal(self, *arrays):
        """Cut whole arrays, which all hosts have, into one part per replica; None stays None.

        Where that cannot be done, each replica gets all.
        """
        size = len(arrays[0])
        if size % self.total:
            return tuple(None if x is None else self._scatter([x] * self.local) for x in arrays)
        part = self.share(size)
        return self.split(*(None if x is None else x[part] for x in arrays))

    def _scatter(self, parts):
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                parts[context.replica_id_in_sync_group % self.local]
            )
        )

    def mean(self, value):
        """Average over all replicas; only in a compiled function, outside of `strategy.run`."""
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, value, axis=None)

    def first(self, value):
        """Take a value that is the same on all replicas."""
        return self.strategy.experimental_local_results(value)[0]

    @contextlib.contextmanager
    def losses_named(self):
        """Turn what TensorFlow raises when another host is gone into a Failed that says so."""
        try:
            yield
        except LOST as error:
            if self.workers == 1:
                raise
            raise Failed(
                f"another host is lost ({brief(error)}); see what the others say, then start all"
                " again: they go on from the newest checkpoint"
            ) from None

    def sum_over_hosts(self, number):
        """Add a whole number up over all hosts; those that come first wait for the others."""
        return int(self.begin_sum(number))

    def begin_sum(self, number):
        """Do the same without waiting: a tensor."""
        parts = [np.int64(number if i == 0 else 0) for i in range(self.local)]
        return self._add(self._scatter(parts))

    @tf.function(autograph=False)
    def _add(self, numbers):
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)


def gather(config, facts, cluster, checkpoints, claim):
    """Bring devices and hosts together: (what `claim` gives, on the first host, Replicas)."""
    check_batch(config, cluster)
    described = describe(config, facts, checkpoints) | {"TF_CONFIG's list": list(cluster.hosts)}
    with meeting.meet(cluster, described) as connecting:
        locks = claim() if cluster.is_chief else None
        with connecting():
            return locks, connect(config, cluster)


def describe(config, facts, checkpoints):
    """Say what must be the same on all hosts of a training: {what: value}."""
    bits = {k: v for k, v in device.environment().items() if k not in ("device", "threads")}
    return {
        **{
            name: value
            for name, value in settings.kept(config).items()
            if name not in settings.FREE
        },
        "log_every": config.log_every,
        "the last iteration": settings.last_state(config),
        "the number of GPUs": device.count_gpus(),
        "the newest checkpoint": checkpoints[0][0] if checkpoints else None,
        "the data's digest": facts.fingerprint[:8],
        **bits,
    }


def count_local(config):
    """Count the replicas of this host, without making its devices where hosts are still to meet."""
    if config.distribute == "mirrored":
        return len(local_devices())
    return device.count_gpus() or 1


def local_devices():
    """Name the devices of this host that train: its GPUs, without any its CPU."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def check_batch(config, cluster):
    """Count the replicas of all hosts; refuse a batch that cannot be cut into one part for each."""
    count = count_local(config) * len(cluster.hosts)
    if config.batch_size % count:
        raise Refused(
            f"--batch_size {config.batch_size}: cannot be cut into {count} equal parts,"
            " one per replica; choose a multiple"
        )
    return count


def connect(config, cluster):
    """Make the replicas that --distribute asks for, on hosts that have met."""
    if config.distribute == "mirrored":
        devices = local_devices()
        return Replicas(tf.distribute.MirroredStrategy(devices), len(devices))
    try:
        with signals.killable():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        host = cluster.hosts[cluster.index]
        raise Failed(f"TF_CONFIG's host {host}, this one: {brief(error)}") from None
    local = len(strategy.extended.worker_devices)
    return Replicas(strategy, local, cluster.index, len(cluster.hosts))


def brief(error):
    """Take the line of a TensorFlow error that says most, without its codes."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "abort" in line), lines[0]).split(" [Op:")[0]
    line = re.sub(r"\{\{.*?\}\}|Collective ops is aborted by: ", "", line)
    return line.strip(" :")[:300]
