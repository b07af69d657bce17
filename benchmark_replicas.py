"""Times the default MNIST run on several replicas of this machine, for benchmark.py.

python benchmark_replicas.py KIND DEVICES is one process of a measurement; TF_CONFIG names all.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time

import numpy as np

import device

tf = device.import_tensorflow()
ITERATIONS = 9  # after two that do not count
# (--distribute, devices per process, processes)
KINDS = [("none", 1, 1), ("mirrored", 2, 1), ("multiworker", 1, 2)]


def measure_replicas():
    """Measure one device, two logical devices of one process, and two processes."""
    from benchmark_steps import NETWORKS, build, random_data, report

    for kind, devices, processes in KINDS:
        report("replicas", **json.loads(run(kind, devices, processes)))
    for arch, size, channels, classes in NETWORKS:
        gan = build(random_data(size, channels, classes, 64), arch=arch)
        report("replicas", arch=arch, size=size, mb_per_iteration=exchanged_bytes(gan) / 1e6)


def exchanged_bytes(gan):
    """Count the gradients that the replicas add up in an iteration, in bytes.

    In a ring of R replicas each sends and receives 2 (R - 1) / R times as many.
    """
    sizes = [
        sum(4 * int(np.prod(variable.shape)) for variable in network.trainable_variables)
        for network in (gan.critic, gan.generator)
    ]
    return gan.config.critic_num * sizes[0] + sizes[1]


def run(kind, devices, processes):
    """Start the processes of one measurement and return the line that the first prints."""
    started = []
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(processes)]
    for i in range(processes):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
        words = [sys.executable, __file__, kind, str(devices)]
        environment = os.environ | {"TF_CONFIG": json.dumps(task)}
        started.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True))
    try:
        texts = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process in started:
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return texts[0].splitlines()[-1]


def free_port():
    """Name a port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def measure(kind, devices):
    """Time iterations as one of the processes; prints a JSON line."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, logical)
    import config as flags
    import dataset
    import distribute
    import hosts
    import settings
    from model import WGAN

    replicas = None
    if kind != "none":
        wanted = flags.Config(distribute=kind)
        replicas = distribute.connect(wanted, hosts.find(wanted))
    data = dataset.load(flags.Config())
    gan = WGAN(settings.resolve(flags.Config(), data.facts), data.facts, replicas)
    times = []
    for i in range(1, ITERATIONS + 3):
        start = time.perf_counter()
        float(gan.train_iteration(data, i)["g_loss"])
        times.append(time.perf_counter() - start)
    rate = 1 / statistics.median(times[2:])
    total = replicas.total if replicas else 1
    print(json.dumps({"distribute": kind, "replicas": total, "iterations_per_s": rate}))


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2]))
