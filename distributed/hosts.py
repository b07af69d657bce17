"""The hosts of a training, as the environment variable TF_CONFIG names them."""

import json
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from system.errors import Refused, explain

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
    """Return the Cluster that trains: without --distribute multiworker, this host alone."""
    return read_cluster() if distribute == "multiworker" else Cluster(("localhost",), 0)


def read_cluster():
    """Read the environment variable TF_CONFIG. Raises Refused, also where a host is unknown."""
    try:
        described = json.loads(os.environ["TF_CONFIG"])
    except (KeyError, ValueError):
        raise _wrong("is not set or not JSON") from None
    match described:
        case {"cluster": {"worker": [*hosts]}, "task": {"type": "worker", "index": index}}:
            pass
        case _:
            raise _wrong("does not name hosts and which one this is")
    if described["cluster"].keys() != {"worker"}:
        raise _wrong("names other hosts than workers")
    for host in hosts:
        _check_host(host)
    if len(set(hosts)) < len(hosts):
        raise _wrong("names a host twice")
    if str(index) not in map(str, range(len(hosts))):
        raise _wrong(f"has index {index} for {len(hosts)} hosts")
    return Cluster(tuple(hosts), int(index))


def _check_host(host):
    """Refuse what is not host:port, and a host without an address."""
    try:
        address = urlsplit(f"//{host}")
        if not address.hostname or not address.port:
            raise ValueError("no port")
        socket.getaddrinfo(address.hostname, address.port)
    except (OSError, ValueError) as error:
        raise _wrong(f"has the host {host!r} ({explain(error)})") from None


def _wrong(what):
    return Refused(f"--distribute multiworker: TF_CONFIG {what}; expected {EXPECTED}")
