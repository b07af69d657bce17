"""Measures the program's speed, and trains and scores the runs behind its tables of results.

Both use the real program. Only peer_keras.py has networks and steps of its own, for comparison.
"""
