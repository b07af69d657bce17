"""One device, the devices of a host, or several hosts: who computes which part of a batch.

TensorFlow's strategies do the work. Every batch, latent, alpha and noise is drawn for the whole
batch from the run's seed and then cut, so that the run is the same for any number of replicas.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

import signals
from errors import Failed, Refused


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


def connect(config, shared):
    """Make the replicas that --distribute asks for; waits until all hosts are there.

    `shared` is a text that must be the same on all hosts. Raises Refused where it is not, where
    hosts cannot be connected, and where the batch cannot be cut.
    """
    if config.distribute == "mirrored":
        devices = local_devices()
        replicas = Replicas(tf.distribute.MirroredStrategy(devices), len(devices))
    else:
        replicas = connect_hosts(shared)
    if config.batch_size % replicas.total:
        raise Refused(
            f"--batch_size {config.batch_size}: cannot be cut into {replicas.total} equal parts,"
            " one per replica; choose a multiple"
        )
    return replicas


def local_devices():
    """Name the devices of this host that train: its GPUs, without any its CPU."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def connect_hosts(shared):
    """Connect the hosts that TF_CONFIG names, and let them agree on what they train."""
    worker, hosts = read_cluster()
    workers = len(hosts)
    check_addresses(worker, hosts)
    if workers > 1:
        others = ", ".join(host for i, host in enumerate(hosts) if i != worker)
        print(f"Host {worker + 1} of {workers}: waiting for {others} (Ctrl-C ends it)")
    try:
        with signals.killable():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        local = len(strategy.extended.worker_devices)
        replicas = Replicas(strategy, local, worker, workers)
        # A sum over replicas would hang or fail where hosts have different numbers of them.
        agreed = strategy.num_replicas_in_sync == replicas.total
        number = int(hashlib.sha256(shared.encode()).hexdigest()[:8], 16)
        agreed = agreed and replicas.sum_over_hosts(number) == number * workers
    except tf.errors.OpError as error:
        raise Refused(
            f"--distribute multiworker: the hosts of TF_CONFIG cannot be connected ({brief(error)})"
        ) from None
    if not agreed:
        raise Refused("the hosts differ in their flags, data, versions or GPUs: give all the same")
    return replicas


def brief(error):
    """Take the line of a TensorFlow error that says most, without its codes."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "abort" in line), lines[0]).split(" [Op:")[0]
    return re.sub(r"\{\{.*?\}\}", "", line).strip(" :")[:200]


LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)


@contextlib.contextmanager
def losses_named(replicas):
    """Turn what TensorFlow raises when another host is gone into a Failed that says so."""
    try:
        yield
    except LOST as error:
        if replicas.workers == 1:
            raise
        raise Failed(
            f"another host is lost ({brief(error)}); see what the others say, then start all again:"
            " they go on from the newest checkpoint"
        ) from None


def read_cluster():
    """Read (this host's number, all hosts) from the environment variable TF_CONFIG."""
    try:
        described = json.loads(os.environ.get("TF_CONFIG", ""))
        hosts = described["cluster"]["worker"]
        task = described["task"]
        if set(described["cluster"]) != {"worker"} or task["type"] != "worker":
            raise ValueError("hosts of another type than worker")
        ports = [re.fullmatch(r".+:(\d{1,5})", host) for host in list(hosts)]
        if isinstance(hosts, str) or not all(port and int(port[1]) < 65536 for port in ports):
            raise ValueError("a host is not written as host:port")
        if not 0 <= int(task["index"]) < len(hosts):
            raise ValueError(f"no host {task['index']} among {len(hosts)}")
        return int(task["index"]), hosts
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"--distribute multiworker: TF_CONFIG is missing or wrong ({error}); expected"
            ' {"cluster": {"worker": ["host0:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from None


def check_addresses(worker, hosts):
    """Refuse hosts that nobody knows and a port of this host that is taken.

    TensorFlow would wait for the former without a word.
    """
    for host in hosts:
        name, port = host.rsplit(":", 1)
        try:
            socket.getaddrinfo(name.strip("[]"), int(port))
        except OSError as error:
            raise Refused(f"TF_CONFIG's host {host}: {error.strerror}") from None
    port = int(hosts[worker].rsplit(":", 1)[1])
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", port))
        except OSError as error:
            raise Refused(
                f"TF_CONFIG's host {hosts[worker]}, this one: port {port}: {error.strerror};"
                " choose another"
            ) from None
