"""Imports TensorFlow without its start-up chatter and prepares the processor it will run on."""

import contextlib
import functools
import gc
import os
import platform
import sys

from system import cuda
from system.errors import Refused
from system.screen import hushed, printable


@functools.cache
def import_tensorflow():
    """Import TensorFlow and Keras quietly, prepare the device and return the tensorflow module.

    TensorFlow's C++ side writes to stderr while it is imported, before any setting can reach it.
    Where TensorFlow was imported earlier, the device is prepared all the same. Raises Refused for a
    GPU with which TensorFlow is known to fail.
    """
    if "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors
        cuda.load_cusolver()
        with hushed(), _quick_imports():
            import keras  # noqa: F401
    import tensorflow as tf

    _prepare(tf)
    return tf


@contextlib.contextmanager
def _quick_imports():
    """Import in three quarters of the time.

    Keras imports all of Matplotlib for a gallery of images, unless that is not installed; the
    gallery fails then. Python's garbage collector would look at the new objects again and again;
    they stay to the end, so it need never look at them.
    """
    hidden = "matplotlib" not in sys.modules
    if hidden:
        sys.modules["matplotlib"] = None
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        if hidden:
            del sys.modules["matplotlib"]


def _prepare(tf):
    """Make results repeat bit for bit, and let TensorFlow take a GPU's memory as it needs it.

    On a CPU TensorFlow's graph optimizer may turn a sum of three or more tensors into one that adds
    them in the order in which they are ready. Without the optimizer the same command gives the same
    bits, and is up to 2 % slower.
    """
    # TensorFlow built for GPUs complains at its first look that there is no driver.
    with contextlib.nullcontext() if cuda.load_driver() else hushed():
        gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        cuda.warn_if_unseen()
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
        return
    cuda.check(tf)
    try:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
    except RuntimeError:
        print(
            "Warning: TensorFlow was in use before this program was imported, so it takes all of"
            " the GPU's memory; import model first",
            file=sys.stderr,
        )
    set_arithmetic()


def set_arithmetic(precision="float32", deterministic=True):
    """Tell TensorFlow how a GPU is to compute what is traced from now on; a CPU has no choice.

    By default TensorFlow adds in any order, and multiplies in TF32, whose 10 bits are three digits.
    What is switched on here costs speed, see docs/gpu.md. Both hold for the whole process.
    """
    if not has_gpu():
        return
    import tensorflow as tf
    from tensorflow.python.framework import config  # tf.config cannot switch it off

    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    else:
        config.disable_op_determinism()


def check_choices(flags):
    """Refuse a Config of flags that asks for a GPU's arithmetic where there is no GPU."""
    for words, asked in (
        ("--precision tf32", flags.precision == "tf32"),
        ("--deterministic False", not flags.deterministic),
    ):
        if asked and import_tensorflow() and not has_gpu():
            raise Refused(
                f"{words}: is for a GPU, and TensorFlow sees none; leave it out, or see docs/gpu.md"
            )


def say_compiling():
    """Say on a GPU why nothing happens for a while: XLA compiles at the first call."""
    if has_gpu():
        print("Compiling for the GPU: about a minute until the first result")


def has_gpu():
    """Return whether TensorFlow will run on a GPU."""
    return count_gpus() > 0


def count_gpus():
    """Count this host's GPUs; TensorFlow does not initialise them yet."""
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


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
        name, _ = cuda.cards(tf)[0]
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
        **(_gpu_environment(tf) if gpus else {}),
    }


def _gpu_environment(tf):
    """Return what decides a run's bits on a GPU only."""
    from tensorflow.python.framework import config

    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    return {
        **cuda.versions(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS") or "none",
        "TF32": "on" if tf32 else "off",
        "deterministic operations": "on" if config.is_op_determinism_enabled() else "off",
    }


def in_words(here):
    """Return an environment's device in words: its name, cuDNN's version, replicas, threads."""
    parts = [here["device"]]
    if "cuDNN" in here:
        parts.append(f"cuDNN {here['cuDNN']}")
    if here.get("replicas", 1) > 1:
        parts.append(f"{here['replicas']} replicas")
    parts.append(f"{here['threads']} threads")
    if here.get("deterministic operations") == "off":
        parts.append("operations that may not repeat")
    return ", ".join(parts)


def changes(before, here):
    """Compare a run's environment `before` with the one `here`.

    Returns {what differs: its earlier value in words}. A value that an older run did not record is
    the one that all runs had at that time. What only a GPU has counts where both have it.
    """
    older = {"replicas": 1, "strategy": "none", "arithmetic": 1, "oneDNN instructions": "all"}
    before = older | {"graph optimizer": "off", "loss": "wasserstein"} | before
    changed = [name for name in here if name in before and before[name] != here[name]]
    return {name: _words_for(name, before[name]) for name in changed}


def _words_for(name, value):
    if name == "arithmetic":
        return "another version of this program"
    if name in ("threads", "replicas"):
        return f"{value} {name.removesuffix('s') if value == 1 else name}"
    return f"{name} {printable(str(value))}"


def has_bfloat16():
    """Return whether the device is known to have instructions for bfloat16."""
    if has_gpu():
        import tensorflow as tf

        return all(capability >= cuda.BFLOAT16 for _, capability in cuda.cards(tf))
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_instructions())


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
