"""Measures the program's speed, and trains and scores the runs behind its tables of results.

Both use the real program. Only peer_keras.py writes networks and steps again, as others would.
"""
