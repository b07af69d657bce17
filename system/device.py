"""Imports TensorFlow without its start-up chatter and prepares the processor it will run on."""

import os
import sys

from system.screen import hushed, printable

_prepared = False


def import_tensorflow():
    """Import TensorFlow and Keras quietly, prepare the device and return the tensorflow module.

    TensorFlow's C++ side writes to stderr while it is imported, before any setting can reach it.
    Whoever has imported TensorFlow earlier has the device prepared all the same.
    """
    global _prepared
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors
        with hushed():
            import keras  # noqa: F401
    import tensorflow as tf

    if not _prepared:
        _prepare(tf)
        _prepared = True
    return tf


def _prepare(tf):
    """Make results repeat bit for bit, and let a GPU's memory grow with need.

    On a GPU TensorFlow must be told to add in a fixed order and to keep float32: by default it
    multiplies in TF32, whose 10 bits give a mean of three digits. Both settings cost speed there;
    the fast way is --precision bfloat16.

    On a CPU TensorFlow's graph optimizer may turn a sum of three or more tensors into one that adds
    in the order of arrival, in large graphs. Without the optimizer the same command gives the same
    bits, at 0 to 2 % of the speed.
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
    """Return whether TensorFlow will run on a GPU.

    There XLA compiles the steps, which would slow them down on a CPU, and the kernels are
    TensorFlow's own.
    """
    return count_gpus() > 0


def count_gpus():
    """Count this host's GPUs, without making TensorFlow's devices."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def out_of_memory():
    """List what NumPy and, once imported, TensorFlow raise when the memory is used up."""
    if "tensorflow" not in sys.modules:
        return (MemoryError,)
    return MemoryError, sys.modules["tensorflow"].errors.ResourceExhaustedError


def environment():
    """Return what a run's bits depend on besides its configuration: versions, device, threads."""
    import keras
    import numpy as np
    import PIL
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    options = tf.config.optimizer.get_experimental_options()
    return {
        "device": tf.config.experimental.get_device_details(gpus[0])["device_name"]
        if gpus
        else _processor(),
        "threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "oneDNN instructions": os.environ.get("ONEDNN_MAX_CPU_ISA", "all"),
        "graph optimizer": "off" if options.get("disable_meta_optimizer") or gpus else "on",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def changes(before, here):
    """Compare the environment that a run was in `before` with the one `here`.

    Returns {what: its earlier value in words}. A fact that a run did not record has the value that
    it had until it was recorded.
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
    if has_gpu():
        return True
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _instructions())


def has_avx512():
    """Return whether oneDNN multiplies 16 numbers at once; where nobody knows, it does.

    It may be told to use less than the processor has.
    """
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "all").upper()
    if allowed.startswith(("SSE", "AVX2")) or allowed == "AVX":
        return False
    return "avx512f" in _instructions() or "avx2" not in _instructions()


def _instructions():
    """Name what the processor has besides the common instructions, as far as Linux says it."""
    lines = _cpu_info("flags") + _cpu_info("Features")  # the latter on ARM
    return {word for line in lines for word in line.split()}


def _processor():
    """Return the name of the CPU, as Linux knows it, or Python elsewhere."""
    import platform

    names = _cpu_info("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cpu_info(key):
    """List what Linux says about each processor under `key`; nothing elsewhere."""
    if not os.path.exists("/proc/cpuinfo"):
        return []
    with open("/proc/cpuinfo") as lines:
        return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
