"""Decides between TensorFlow's own functions and those that are fast on this processor."""

import contextlib

from system import device

# Whether to use TensorFlow's own functions and derivatives everywhere.
PLAIN = device.has_gpu()
# Whether oneDNN may use AVX-512. With AVX2 only, other algorithms are the fastest.
AVX512 = device.has_avx512()


@contextlib.contextmanager
def plain():
    """Use TensorFlow's own functions in all networks that are built and traced inside this context.

    An export needs them, because other programs cannot read the fast ones in a graph.
    """
    global PLAIN
    before, PLAIN = PLAIN, True
    try:
        yield
    finally:
        PLAIN = before
