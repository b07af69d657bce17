"""Which functions to use: TensorFlow's own, or those that are fast on this processor."""

import contextlib

from system import device

# Whether every function and its derivatives are TensorFlow's own.
PLAIN = device.has_gpu()
# Whether oneDNN may use AVX-512. With AVX2 alone other algorithms are the fastest.
AVX512 = device.has_avx512()


@contextlib.contextmanager
def plain():
    """Use TensorFlow's own functions in all networks that are built and traced inside this context.

    An export needs them: other programs can read no others in its graph.
    """
    global PLAIN
    before, PLAIN = PLAIN, True
    try:
        yield
    finally:
        PLAIN = before
