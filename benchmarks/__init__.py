"""What is measured of the program, and the runs behind its tables of results.

`python -m benchmarks` times it, `python -m benchmarks.results` trains and scores it. Both use the
real program: no step, network or formula may be written here a second time, but for what others
would use (peer_*.py). Nothing imports it but tests.
"""
