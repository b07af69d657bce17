"""The two ways in which the program gives up on purpose; main.py turns them into one line on stderr and an exit code."""


class Refused(Exception):
    """Something is wrong before the first step and nothing has been changed: exit code 2."""


class Failed(Exception):
    """Something went wrong with work in hand: exit code 1."""
