"""NVIDIA's driver, cards and libraries, as they are on this machine.

TensorFlow tells only which versions it was built with. Those it runs on are asked by ctypes.
"""

import contextlib
import ctypes
import importlib.util
import os
import re
import sys
from pathlib import Path

from system.errors import Refused

# TensorFlow 2.21 compiles to PTX 8.5, whatever is installed. Cards of this compute capability and
# above need more: LLVM then aborts the process, past every `except` (tensorflow#111958).
TOO_NEW = (10, 0)
KNOWS_NEW = (2, 22)  # version of TensorFlow
BFLOAT16 = (8, 0)  # the lowest compute capability that has it
# XLA finds no algorithm for a convolution with a bias up to cuDNN 9.5; 9.24 works
# (aws/deep-learning-containers#6417). Nobody has told about those between.
CUDNN_FAILS, CUDNN_WORKS = (9, 5), (9, 24)
DRIVER = Path("/proc/driver/nvidia/version")  # not in WSL2
NO_DEVICE = 100  # CUDA's error where there is no card, or CUDA_VISIBLE_DEVICES hides it


def load_driver():
    """Return the library of NVIDIA's driver, or None where there is none."""
    with contextlib.suppress(OSError):
        return ctypes.CDLL("libcuda.so.1")
    return None


def load_cusolver():
    """Load cuSOLVER from NVIDIA's packages, where TensorFlow 2.21 does not find it.

    Only where there is a driver. Without cuSOLVER TensorFlow sees no GPU. It takes a library that
    is loaded under the name that it asks for.
    """
    if not load_driver():
        return
    package = importlib.util.find_spec("nvidia")
    folders = package.submodule_search_locations if package else ()
    for place in ("", *(f"{folder}/cusolver/lib/" for folder in folders)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(f"{place}libcusolver.so.11")
            return


def warn_if_unseen():
    """Warn where the driver has a card and TensorFlow does not see it."""
    driver, count = load_driver(), ctypes.c_int()
    if not driver or (error := driver.cuInit(0)) == NO_DEVICE:
        return
    if not error and (driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value):
        return
    found = f"its driver fails with error {error}" if error else "TensorFlow does not see it"
    print(
        f"Warning: there is an NVIDIA GPU, but {found}, so the CPU computes; install"
        " requirements-gpu.txt (see docs/gpu.md), or set CUDA_VISIBLE_DEVICES=-1",
        file=sys.stderr,
    )


def cards(tf):
    """List the GPUs that TensorFlow sees as (name, compute capability); (0, 0) if not known."""
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [
        (card.get("device_name", "GPU"), card.get("compute_capability", (0, 0))) for card in details
    ]


def check(tf):
    """Refuse cards and a cuDNN with which TensorFlow is known to fail; warn where it may."""
    known = tuple(int(part) for part in tf.__version__.split(".")[:2]) >= KNOWS_NEW
    for name, capability in cards(tf):
        if capability >= TOO_NEW and not known:
            raise Refused(
                f"{name}: TensorFlow {tf.__version__} cannot compile for compute capability"
                f" {in_words(capability)}; set CUDA_VISIBLE_DEVICES=-1 to use the CPU, or to the"
                " number of an older card, or install a TensorFlow that knows the card"
            )
    cudnn = versions().get("cuDNN")
    if cudnn is None:
        return
    number = tuple(int(part) for part in cudnn.split(".")[:2])
    remedy = (
        "install nvidia-cudnn-cu12>=9.24, as requirements-gpu.txt does, and take older ones off"
        " LD_LIBRARY_PATH"
    )
    if number <= CUDNN_FAILS:
        raise Refused(f"cuDNN {cudnn}: TensorFlow 2.21 cannot compile convolutions; {remedy}")
    if number < CUDNN_WORKS:
        print(
            f"Warning: cuDNN {cudnn} may fail at convolutions: 9.5 does, 9.24 does not; if it"
            f" fails, {remedy}",
            file=sys.stderr,
        )


def versions():
    """Return the versions of the loaded libraries and of the driver: {name: version in words}."""
    found = {}
    if cudnn := _loaded("libcudnn.so.9"):
        found["cuDNN"] = in_words(_split(cudnn.cudnnGetVersion(), 10000, 100))
    if cublas := _loaded("libcublasLt.so.12"):
        found["cuBLAS"] = in_words(_split(cublas.cublasLtGetVersion(), 10000, 100))
    number = ctypes.c_int()
    runtime = _loaded("libcudart.so.12")
    if runtime and not runtime.cudaRuntimeGetVersion(ctypes.byref(number)):
        found["CUDA"] = in_words(_split(number.value, 1000, 10)[:2])
    driver = load_driver()
    if DRIVER.exists() and (match := re.search(r"\s(\d+\.[\d.]+)\s", DRIVER.read_text())):
        found["driver"] = match[1]
    elif driver and not driver.cuDriverGetVersion(ctypes.byref(number)):
        found["driver"] = f"for CUDA {in_words(_split(number.value, 1000, 10)[:2])}"
    return found


def _loaded(name):
    """Return a library that this process has loaded, or None; nothing is loaded for it."""
    with contextlib.suppress(OSError):
        return ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    return None


def _split(number, major, minor):
    """Split a version as NVIDIA numbers it: 92800 with 10000 and 100 is (9, 28, 0)."""
    return number // major, number % major // minor, number % minor


def in_words(version):
    """Return (9, 28, 0) as '9.28.0'."""
    return ".".join(map(str, version))
