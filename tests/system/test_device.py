"""What TensorFlow is told about the device before anything runs on it."""

import pytest
import tensorflow as tf
from conftest import assert_refused, make_data, make_gan
from tensorflow.python.framework import config

import model
from run import dry_run
from system import cuda, device
from system.errors import Refused

VERSIONS = {"cuDNN": "9.28.0", "cuBLAS": "12.9.3", "CUDA": "12.9", "driver": "570.86.15"}
H200 = ("NVIDIA H200", (9, 0))


@pytest.fixture
def called(monkeypatch):
    """Record what TensorFlow is told about a device: [(function, its arguments)]."""
    calls = []
    for place, name in (
        (tf.config.experimental, "enable_op_determinism"),
        (config, "disable_op_determinism"),
        (tf.config.experimental, "enable_tensor_float_32_execution"),
        (tf.config.experimental, "set_memory_growth"),
        (tf.config.optimizer, "set_experimental_options"),
    ):
        monkeypatch.setattr(place, name, lambda *words, name=name: calls.append((name, *words)))
    return calls


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that pretends that TensorFlow sees these cards, with these libraries."""

    def pretend(*cards, **versions):
        monkeypatch.setattr(
            tf.config, "list_physical_devices", lambda kind: list(cards) if kind == "GPU" else []
        )
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda card: {"device_name": card[0], "compute_capability": card[1]},
        )
        monkeypatch.setattr(cuda, "versions", lambda: VERSIONS | versions)

    return pretend


def test_on_a_cpu_the_graph_optimizer_is_off(called):
    device._prepare(tf)
    assert called == [("set_experimental_options", {"disable_meta_optimizer": True})]


def test_on_a_gpu_results_repeat_and_float32_is_whole(called, gpu, capsys):
    gpu(H200)
    device._prepare(tf)
    growth = ("set_memory_growth", H200, True)
    full = ("enable_tensor_float_32_execution", False)
    assert called == [growth, full, ("enable_op_determinism",)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "tf32"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_model_sets_a_gpus_arithmetic_before_it_is_built(
    called, monkeypatch, precision, deterministic
):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(model.WGAN, "_build", lambda self, _: called.append("built"))
    monkeypatch.setattr(model.WGAN, "_compile", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_gan(make_data(), precision=precision, deterministic=deterministic)
    name = "enable_op_determinism" if deterministic else "disable_op_determinism"
    assert called == [("enable_tensor_float_32_execution", precision == "tf32"), (name,), "built"]


def test_on_a_cpu_a_model_changes_no_arithmetic(called):
    make_gan(make_data(), precision="tf32", deterministic=False)
    assert called == []


@pytest.mark.parametrize("words", ["--precision tf32", "--deterministic False"])
@pytest.mark.parametrize("task", ["--train True", "--generate 3"])
def test_what_only_a_gpu_can_do_is_refused_without_one(here, words, task):
    assert_refused(here, f"{task} {words}", f"{words}: is for a GPU, and TensorFlow sees none")


def test_a_run_without_deterministic_operations_makes_pictures_on_a_cpu(here, folder):
    described = folder / "config.json"
    text = described.read_text()
    changed = text.replace('"deterministic": true', '"deterministic": false')
    assert changed != text
    described.write_text(changed.replace('"precision": "float32"', '"precision": "tf32"'))
    code, _, errors = here("--generate 2 --dataset photos --batch_size 8 --output_height 8")
    assert (code, errors) == (0, "")


def test_a_cpus_environment_has_nothing_of_a_gpu():
    assert device.environment().keys() == {
        *("device", "threads", "oneDNN instructions", "graph optimizer"),
        *("tensorflow", "keras", "numpy", "pillow"),
    }


def test_what_decides_the_bits_on_a_gpu_is_recorded_and_compared(gpu, monkeypatch):
    on_cpu = device.environment()
    gpu(H200)
    here = device.environment()
    assert here["device"] == "NVIDIA H200" and VERSIONS.items() <= here.items()
    assert (here["XLA_FLAGS"], here["deterministic operations"]) == ("none", "off")
    monkeypatch.setenv("XLA_FLAGS", "--xla_x=1")
    gpu(H200, cuDNN="9.30.0")
    changed = device.changes(here, device.environment())
    assert changed == {"cuDNN": "cuDNN 9.28.0", "XLA_FLAGS": "XLA_FLAGS none"}
    assert device.changes(on_cpu, here) == {"device": f"device {on_cpu['device']}"}
    words = device.in_words(here | {"replicas": 2})
    assert words.startswith("NVIDIA H200, cuDNN 9.28.0, 2 replicas, ")
    assert words.endswith(" threads, operations that may not repeat")


@pytest.mark.parametrize(
    "cards, expected", [([H200], True), ([H200, ("T4", (7, 5))], False), ([("?", (8, 0))], True)]
)
def test_bfloat16_needs_compute_capability_8(gpu, cards, expected):
    gpu(*cards)
    assert device.has_bfloat16() is expected


@pytest.mark.parametrize("capability", [(10, 0), (12, 0)])
def test_a_card_that_tensorflow_cannot_compile_for_is_refused(gpu, called, capability):
    gpu(H200, ("NVIDIA B200", capability))
    with pytest.raises(Refused, match=r"^NVIDIA B200: .* 1[02]\.0; .*CUDA_VISIBLE_DEVICES=-1"):
        device._prepare(tf)
    assert called == []


def test_a_later_tensorflow_knows_new_cards(gpu, called, monkeypatch):
    gpu(("NVIDIA B200", (10, 0)))
    monkeypatch.setattr(tf, "__version__", "2.22.0-rc0")
    device._prepare(tf)
    assert called


@pytest.mark.parametrize("cudnn", ["9.3.0", "9.5.1"])
def test_a_cudnn_that_fails_is_refused(gpu, called, cudnn):
    gpu(H200, cuDNN=cudnn)
    with pytest.raises(Refused, match=f"^cuDNN {cudnn}: .*install nvidia-cudnn-cu12>=9.24"):
        device._prepare(tf)


@pytest.mark.parametrize("cudnn, lines", [("9.6.0", 1), ("9.23.2", 1), ("9.24.0", 0)])
def test_a_cudnn_that_nobody_knows_is_warned_of(gpu, called, capsys, cudnn, lines):
    gpu(H200, cuDNN=cudnn)
    device._prepare(tf)
    assert capsys.readouterr().err.count("\n") == lines


def test_on_a_gpu_a_line_says_that_it_compiles(here, folder, monkeypatch, still, called):
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    code, screen, _ = here("--generate 1 --dataset photos --batch_size 8 --output_height 8")
    assert code == 0 and screen.count("Compiling for the GPU") == 1


def test_a_dry_run_names_the_device(gan, capsys, monkeypatch, trained):
    from run import description

    monkeypatch.setattr(device, "environment", lambda: {"device": "X", "threads": 2, **VERSIONS})
    dry_run.print_networks(gan, description.read_run(trained / "checkpoint/photos_8_8_8"))
    assert "Device: X, cuDNN 9.28.0, 2 threads\n" in capsys.readouterr().out
