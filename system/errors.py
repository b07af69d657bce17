"""The two ways of giving up on purpose; main.py makes a line on stderr and an exit code of them."""


class Refused(Exception):
    """Something is wrong before the first step and nothing has been changed: exit code 2."""


class Failed(Exception):
    """Something went wrong with work in hand: exit code 1."""
