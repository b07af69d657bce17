"""The hosts of a training, as the environment variable TF_CONFIG names them."""

import json
import os
import re
import socket
from dataclasses import dataclass

from system.errors import Refused

EXPECTED = '{"cluster": {"worker": ["host0:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """The hosts of a training, each as host:port, and the number of this one, from 0."""

    hosts: tuple
    index: int

    @property
    def is_chief(self):
        """Return whether this host writes the files."""
        return self.index == 0

    @property
    def others(self):
        """List the other hosts."""
        return [host for host in self.hosts if host != self.hosts[self.index]]


def find(distribute):
    """Return the Cluster that trains, without --distribute multiworker of this host alone."""
    return read_cluster() if distribute == "multiworker" else Cluster(("localhost",), 0)


def read_cluster():
    """Read the environment variable TF_CONFIG. Raises Refused, also for hosts that nobody knows."""
    text = os.environ.get("TF_CONFIG")
    if not text:
        raise _wrong("is not set")
    try:
        described = json.loads(text)
    except ValueError:
        raise _wrong("is not JSON") from None
    match described:
        case {"cluster": {"worker": [*names], **types}, "task": {"type": "worker", "index": index}}:
            if types:
                raise _wrong(f"names hosts of other types: {', '.join(types)}")
        case _:
            raise _wrong("lacks hosts, the task's type worker or its index")
    for name in names:
        _check_host(name)
    if len(set(names)) < len(names):
        raise _wrong("has a host twice")
    if str(index) not in map(str, range(len(names))):
        raise _wrong(f"has index {index} for {len(names)} hosts")
    return Cluster(tuple(names), int(index))


def _check_host(name):
    """Refuse what is not written as host:port, and hosts that nobody knows."""
    parts = re.fullmatch(r"\[?(.+?)\]?:(\d{1,5})", str(name))
    if not parts or not 0 < int(parts[2]) < 65536:
        raise _wrong(f"has {name!r} for a host")
    try:
        socket.getaddrinfo(parts[1], int(parts[2]))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not the name of a host"
        raise Refused(f"TF_CONFIG's host {name}: {reason}") from None


def _wrong(what):
    return Refused(f"--distribute multiworker: TF_CONFIG {what}; expected {EXPECTED}")
