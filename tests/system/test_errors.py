"""Why something failed fits in one line, without what only developers of a library can read."""

import pytest
import tensorflow as tf

from system.errors import explain, explain_failure, named_failures

LOST = "{{function_node f}} Collective ops is aborted by: Connection reset by peer\nRestart it."
WITHIN_A_GRAPH = "Graph execution error:\n\nDetected at node\nCollective ops is aborted by: gone"
TRACED = """Graph execution error:

Detected at node MatMul defined at (most recent call last):
  File "main.py", line 193, in <module>

  File "model.py", line 123, in critic_step

"""
AUTOTUNER = "Autotuner could not find any supported configs for HLO: %c = f32[1]{0} custom-call(x)"
NO_DNN = "DNN library initialization failed. Look at the errors above for more details."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "path"), "No space left on device"),
        (ValueError("w is too long\nand more"), "ValueError: w is too long"),
        (KeyError("w"), "KeyError: 'w'"),
        (EOFError(), "EOFError: "),
        (ValueError("x" * 1000), "ValueError: " + "x" * 288),
        ("{{node f}} a/ckpt-1; File too large [Op:SaveV2]", "File too large"),
        ("a: bad magic number [Op:RestoreV2] name: ", "a: bad magic number"),
        (LOST, "Connection reset by peer"),
        (WITHIN_A_GRAPH, "gone"),
        (f"{TRACED}boo : a NaN\n\t [[{{{{node x}}}}]] [Op:__inference_f_6]", "boo : a NaN"),
        (f"{TRACED}{{{{function_node g}}}} {NO_DNN}\n\t [[x]]", NO_DNN.split(" Look")[0]),
        (f"{{{{function_node f}}}} {AUTOTUNER} [Op:f]", AUTOTUNER.split(" for")[0]),
        (
            f"{TRACED}2 root error(s) found.\n  (0) INTERNAL:  bad\n\t [[x]]\n  (1) UNKNOWN: no",
            "bad",
        ),
        ("", "UnknownError"),
    ],
)
def test_a_reason_is_one_line_without_codes(error, words):
    if isinstance(error, str):
        error = tf.errors.UnknownError(None, None, error)
    assert explain(error) == words


@pytest.mark.parametrize(
    "kind, text, words",
    [
        ("Internal", AUTOTUNER, "(Autotuner could not find any supported configs): install req"),
        ("FailedPrecondition", NO_DNN, "(DNN library initialization failed.): install require"),
        ("NotFound", "No algorithm worked!  Error messages: x", "install requirements-gpu.txt"),
        ("Unimplemented", "A deterministic GPU implementation of X is", "--deterministic False"),
        ("Unavailable", "No PTX compilation provider is available.", "update NVIDIA's driver"),
        ("Internal", "libdevice not found at ./libdevice.10.bc", "update NVIDIA's driver"),
        ("Internal", "cudaGetDevice() failed. Status: CUDA driver", "update NVIDIA's driver"),
        ("Internal", "CUBLAS_STATUS_ALLOC_FAILED", "a smaller --batch_size"),
        ("Internal", "CUDA_ERROR_OUT_OF_MEMORY: out of memory", "a smaller --batch_size"),
        ("ResourceExhausted", "", "out of memory: end other programs, or use a smaller --batch"),
        ("Unknown", "x", "TensorFlow failed (x): give the same command again"),
    ],
)
def test_a_failure_of_tensorflow_says_what_to_try(kind, text, words):
    error = getattr(tf.errors, f"{kind}Error")(None, None, text)
    assert isinstance(error, named_failures())
    assert words in explain_failure(error) and "\n" not in explain_failure(error)


def test_a_mistake_in_the_program_keeps_its_traceback():
    assert not issubclass(tf.errors.InvalidArgumentError, named_failures())
