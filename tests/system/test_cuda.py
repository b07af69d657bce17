"""NVIDIA's driver and libraries are asked for what they are, and loaded where TensorFlow fails."""

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf
from conftest import ROOT, run_to_end

from system import cuda, device


class Driver:
    """A driver with some cards."""

    def __init__(self, error, cards=0):
        self.error, self.cards = error, cards

    def cuInit(self, flags):
        return self.error

    def cuDeviceGetCount(self, count):
        count._obj.value = self.cards
        return 0

    def cuDriverGetVersion(self, number):
        number._obj.value = 12080
        return 0


def give_runtime(number):
    number._obj.value = 12090
    return 0


LIBRARIES = {
    "libcudnn.so.9": SimpleNamespace(cudnnGetVersion=lambda: 92800),
    "libcublasLt.so.12": SimpleNamespace(cublasLtGetVersion=lambda: 120903),
    "libcudart.so.12": SimpleNamespace(cudaRuntimeGetVersion=give_runtime),
    "libcuda.so.1": Driver(0, 1),
}
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC version: 13"


@pytest.fixture
def libraries(monkeypatch):
    """Pretend that NVIDIA's libraries are loaded."""

    def load(name, mode=0):
        if name in LIBRARIES:
            return LIBRARIES[name]
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_versions_are_those_of_what_is_loaded(libraries, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "DRIVER", tmp_path / "version")
    expected = {"cuDNN": "9.28.0", "cuBLAS": "12.9.3", "CUDA": "12.9"}
    assert cuda.versions() == expected | {"driver": "for CUDA 12.8"}  # as in WSL2
    cuda.DRIVER.write_text(NVRM)
    assert cuda.versions() == expected | {"driver": "570.86.15"}


def test_without_libraries_there_are_no_versions(monkeypatch):
    monkeypatch.setattr(cuda, "load_driver", lambda: None)
    monkeypatch.setattr(cuda, "_loaded", lambda name: None)
    monkeypatch.setattr(cuda, "DRIVER", Path("nowhere"))
    assert cuda.versions() == {}


@pytest.mark.parametrize(
    "driver, words",
    [
        (None, ""),
        (Driver(0, 0), ""),
        (Driver(100), ""),  # CUDA_VISIBLE_DEVICES=-1
        (Driver(0, 1), "TensorFlow does not see it"),
        (Driver(804), "its driver fails with error 804"),
    ],
)
def test_a_card_that_tensorflow_does_not_see_is_one_line(monkeypatch, capsys, driver, words):
    monkeypatch.setattr(cuda, "load_driver", lambda: driver)
    cuda.warn_if_unseen()
    errors = capsys.readouterr().err
    assert errors.count("\n") == bool(words) and words in errors
    assert not words or ("requirements-gpu.txt" in errors and "CUDA_VISIBLE_DEVICES=-1" in errors)


@pytest.mark.parametrize("has_driver, own", [(True, False), (True, True), (False, True)])
def test_cusolver_is_loaded_from_nvidias_packages(monkeypatch, tmp_path, has_driver, own):
    """Only where there is a driver, and not where the system has its own."""
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    monkeypatch.setattr(cuda, "load_driver", lambda: has_driver)
    asked = []

    def load(name):
        asked.append(name)
        if not own and "/" not in name:
            raise OSError

    monkeypatch.setattr(ctypes, "CDLL", load)
    cuda.load_cusolver()
    folder = tmp_path / "nvidia/cusolver/lib/libcusolver.so.11"
    assert asked == ["libcusolver.so.11", *([] if own else [str(folder)])][: 2 * has_driver]


# What TensorFlow asks before it registers a GPU: 1 is absl's OK.
ASK = """
import ctypes
from system import cuda, device
cuda.load_driver = lambda: True
cuda.warn_if_unseen = lambda: None
device.import_tensorflow()
import tensorflow
answer = ctypes.c_int64()
library = ctypes.CDLL(tensorflow.sysconfig.get_lib() + "/libtensorflow_cc.so.2")
library._ZN3tsl8internal9DsoLoader26MaybeTryDlopenGPULibrariesEv(ctypes.byref(answer))
print(answer.value)
"""


@pytest.mark.skipif(
    not tf.sysconfig.get_build_info()["is_cuda_build"], reason="requirements.txt is installed"
)
def test_tensorflow_finds_all_libraries_that_a_gpu_needs():
    ended = run_to_end([sys.executable, "-c", ASK], cwd=ROOT)
    assert ended.stdout == "1\n", ended.stderr


def test_nothing_is_written_where_there_is_no_gpu(tmp_path):
    """Neither by a TensorFlow for the CPU nor by one for GPUs."""
    words = "from system import device; print(device.import_tensorflow() is not None)"
    ended = run_to_end([sys.executable, "-c", words], cwd=ROOT)
    assert (ended.stdout, ended.stderr) == ("True\n", "") or device.has_gpu()
