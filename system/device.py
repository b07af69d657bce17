"""Imports TensorFlow without its start-up chatter and prepares the processor it will run on."""

import functools
import os
import platform
import sys

from system.screen import hushed, printable


@functools.cache
def import_tensorflow():
    """Import TensorFlow and Keras quietly, prepare the device and return the tensorflow module.

    TensorFlow's C++ side writes to stderr while it is imported, before any setting can reach it.
    Where TensorFlow was imported earlier, the device is prepared all the same.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors
        with hushed():
            import keras  # noqa: F401
    import tensorflow as tf

    _prepare(tf)
    return tf


def _prepare(tf):
    """Make results repeat bit for bit, and let TensorFlow take a GPU's memory as it needs it.

    On a GPU TensorFlow must be told to add in a fixed order and to keep float32: by default it
    multiplies in TF32, whose 10 bits are three digits. Both settings cost speed; --precision
    bfloat16 is faster.

    On a CPU TensorFlow's graph optimizer may turn a sum of three or more tensors into one that adds
    them in the order in which they are ready. Without the optimizer the same command gives the same
    bits, and is up to 2 % slower.
    """
    if not has_gpu():
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        return
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        print(
            "Warning: TensorFlow was in use before this program was imported, so it takes all of"
            " the GPU's memory; import model first",
            file=sys.stderr,
        )
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(False)


def has_gpu():
    """Return whether TensorFlow will run on a GPU."""
    return count_gpus() > 0


def count_gpus():
    """Count this host's GPUs; TensorFlow does not initialise them yet."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def out_of_memory():
    """Return the exceptions that NumPy and, once imported, TensorFlow raise without memory."""
    if "tensorflow" not in sys.modules:
        return (MemoryError,)
    return MemoryError, sys.modules["tensorflow"].errors.ResourceExhaustedError


def environment():
    """Return what else than its configuration decides a run's bits: device, threads, versions."""
    import keras
    import numpy as np
    import PIL
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    options = tf.config.optimizer.get_experimental_options()
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0])["device_name"]
    on_linux = hasattr(os, "sched_getaffinity")
    return {
        "device": name,
        "threads": len(os.sched_getaffinity(0)) if on_linux else os.cpu_count(),
        "oneDNN instructions": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "graph optimizer": "off" if options.get("disable_meta_optimizer") or gpus else "on",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def changes(before, here):
    """Compare a run's environment `before` with the one `here`.

    Returns {what differs: its earlier value in words}. A value that an older run did not record is
    the one that all runs had at that time.
    """
    older = {"replicas": 1, "strategy": "none", "arithmetic": 1, "oneDNN instructions": "all"}
    before = older | {"graph optimizer": "off", "loss": "wasserstein"} | before
    changed = [name for name in here if before.get(name) != here[name]]
    return {name: _words_for(name, before.get(name)) for name in changed}


def _words_for(name, value):
    if name == "arithmetic":
        return "another version of this program"
    if name in ("threads", "replicas"):
        return f"{value} {name.removesuffix('s') if value == 1 else name}"
    return f"{name} {printable(str(value))}"


def has_bfloat16():
    """Return whether the device is known to have instructions for bfloat16."""
    return has_gpu() or not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_instructions())


def has_avx512():
    """Return whether oneDNN multiplies 16 numbers at once; where that is unknown, it does.

    oneDNN may be told to use less than the processor has.
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "all").upper()
    if allowed.startswith(("SSE", "AVX2")) or allowed == "AVX":
        return False
    return "avx512f" in _instructions() or "avx2" not in _instructions()


def _instructions():
    """List the processor's sets of instructions, as far as Linux names them."""
    return (_cpu_info("flags") or _cpu_info("Features")).split()  # the latter on ARM


def _cpu_info(key):
    """Return what Linux says about the first processor under `key`, or an empty text."""
    if not os.path.exists("/proc/cpuinfo"):
        return ""
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
