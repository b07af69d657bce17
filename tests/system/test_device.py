"""What TensorFlow is told about the device before anything runs on it."""

import pytest
import tensorflow as tf

from system import device


@pytest.mark.parametrize("gpus", [0, 1])
def test_on_a_gpu_results_repeat_and_float32_is_whole(monkeypatch, gpus):
    called = []
    for place, name in (
        (tf.config.experimental, "enable_op_determinism"),
        (tf.config.experimental, "enable_tensor_float_32_execution"),
        (tf.config.experimental, "set_memory_growth"),
        (tf.config.optimizer, "set_experimental_options"),
    ):
        monkeypatch.setattr(place, name, lambda *words, name=name: called.append((name, *words)))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"] * gpus)
    device._prepare(tf)
    on_gpu = [("enable_op_determinism",), ("enable_tensor_float_32_execution", False)]
    on_cpu = [("set_experimental_options", {"disable_meta_optimizer": True})]
    assert called == ([("set_memory_growth", "gpu", True), *on_gpu] if gpus else on_cpu)
