"""Why something failed fits in one line, without what only developers of a library can read."""

import pytest
import tensorflow as tf

from system.errors import explain

LOST = "{{function_node f}} Collective ops is aborted by: Connection reset by peer\nRestart it."
WITHIN_A_GRAPH = "Graph execution error:\n\nDetected at node\nCollective ops is aborted by: gone"


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
        ("", "UnknownError"),
    ],
)
def test_a_reason_is_one_line_without_codes(error, words):
    if isinstance(error, str):
        error = tf.errors.UnknownError(None, None, error)
    assert explain(error) == words
