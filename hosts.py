"""The hosts of a training: who they are, and how they meet before TensorFlow connects them.

TensorFlow waits for a host that is late without a word and deaf to SIGTERM, and does not tell in
what two hosts differ. So all meet at the first one's address, compare what they are about to train
and start together or not at all. Knows no TensorFlow.
"""

import contextlib
import json
import os
import re
import socket
import time
from dataclasses import dataclass

from errors import Failed, Refused

PATIENCE = 10  # seconds for one message
LONGEST = 100_000  # bytes of one message
EXPECTED = '{"cluster": {"worker": ["host0:port", ...]}, "task": {"type": "worker", "index": 0}}'


@dataclass(frozen=True)
class Cluster:
    """The hosts of a training, each as host:port, and the number of this one, from 0."""

    hosts: tuple
    index: int

    @property
    def is_chief(self):
        """Tell whether this host writes the files."""
        return self.index == 0

    @property
    def others(self):
        """List the numbers of the other hosts."""
        return [i for i in range(len(self.hosts)) if i != self.index]


def find(config):
    """Say which hosts train; without --distribute multiworker this one alone. Raises Refused."""
    return read_cluster() if config.distribute == "multiworker" else Cluster(("localhost",), 0)


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
    if str(index) not in map(str, range(len(names))):
        raise _wrong(f"has index {index} for {len(names)} hosts")
    return Cluster(tuple(names), int(index))


def _check_host(name):
    """Refuse what is not written as host:port, and hosts that nobody knows."""
    port = re.fullmatch(r".+:(\d{1,5})", str(name))
    if not port or not 0 < int(port[1]) < 65536:
        raise _wrong(f"has {name!r} for a host")
    try:
        socket.getaddrinfo(*address(name))
    except OSError as error:
        raise Refused(f"TF_CONFIG's host {name}: {error.strerror}") from None


def _wrong(what):
    return Refused(f"--distribute multiworker: TF_CONFIG {what}; expected {EXPECTED}")


def address(host):
    """Cut host:port in two."""
    name, port = host.rsplit(":", 1)
    return name.strip("[]"), int(port)


@contextlib.contextmanager
def meeting(cluster, described):
    """Wait until all hosts are here and found to be about to train the same.

    `described` is {what: value} of this host. The body runs on the first host before the others
    are let go: a Refused or Failed of it is theirs, too. Raises Refused where hosts differ.
    """
    if not cluster.others:
        yield
        return
    described = {name: str(value) for name, value in described.items()}
    server = _listen(cluster)
    missing = ", ".join(cluster.hosts[i] for i in cluster.others)
    number = f"Host {cluster.index + 1} of {len(cluster.hosts)}"
    print(f"{number}: waiting for {missing} (Ctrl-C ends it)")
    if cluster.is_chief:
        with server, contextlib.ExitStack() as connections:
            guests = _receive(cluster, server, connections)
            server.close()  # from here on the port is TensorFlow's
            with _answered(guests):
                _compare(cluster, described, {i: said for i, (_, said) in guests.items()})
                yield
    else:
        server.close()
        _call(cluster, described)
        yield


def _listen(cluster):
    """Open this host's port."""
    name = cluster.hosts[cluster.index]
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", address(name)[1]), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise Refused(
            f"TF_CONFIG's host {name}, this one: {os.strerror(error.errno)}; choose another port"
        ) from None


def _receive(cluster, server, connections):
    """Wait until all others have called: {number: (connection, what it described)}."""
    guests = {}
    server.settimeout(1)
    while len(guests) < len(cluster.others):
        try:
            connection = connections.enter_context(server.accept()[0])
        except TimeoutError:
            connection = None
        for i in [i for i, (guest, _) in guests.items() if _has_left(guest)]:
            del guests[i]
            print(f"{cluster.hosts[i]} has left: waiting for it")
        said = _read(connection, "described") if connection else None
        i = said.get("host") if said else None
        if i not in cluster.others or not isinstance(said["described"], dict):
            continue  # nobody, or another program
        if i in guests:
            _answer(connection, f"TF_CONFIG's index {i} is another host's, too")
            continue
        guests[i] = connection, said["described"]
        missing = [cluster.hosts[i] for i in cluster.others if i not in guests]
        rest = f"; waiting for {', '.join(missing)}" if missing else ""
        print(f"{cluster.hosts[i]} is here{rest}")
    return guests


@contextlib.contextmanager
def _answered(guests):
    """Tell the others how the body ended."""
    refusal = "the first host failed: see what it says"
    try:
        yield
        refusal = ""
    except (Refused, Failed) as error:
        refusal = str(error)
        raise
    finally:
        for connection, _ in guests.values():
            _answer(connection, refusal)


def _answer(connection, refusal):
    with contextlib.suppress(OSError):  # it has gone; TensorFlow will miss it
        connection.sendall(_message({"refusal": refusal}))


def _call(cluster, described):
    """Tell the first host what this one is about to train, and wait for its word."""
    message = _message({"host": cluster.index, "described": described})
    said = None
    while said is None:
        with (
            contextlib.suppress(OSError),  # it is not there yet
            socket.create_connection(address(cluster.hosts[0]), PATIENCE) as connection,
        ):
            connection.sendall(message)
            said = _read(connection, "refusal", patience=None)
        time.sleep(0.2)
    if said["refusal"]:
        raise Refused(said["refusal"])


def _compare(cluster, mine, theirs):
    """Refuse hosts that would train something else."""
    found = [
        f"{name} is {mine.get(name)} on {cluster.hosts[0]} and {said.get(name)} on"
        f" {cluster.hosts[i]}"
        for i, said in theirs.items()
        for name in sorted(mine | said)
        if mine.get(name) != said.get(name)
    ]
    if found:
        raise Refused(f"the hosts differ: {'; '.join(found)}; give all the same")


def _message(content):
    return json.dumps(content).encode() + b"\n"


def _read(connection, key, patience=PATIENCE):
    """Read one message with `key`; None where the other end has gone or is another program."""
    connection.settimeout(patience)
    try:
        with connection.makefile("rb") as stream:
            said = json.loads(stream.readline(LONGEST))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and key in said else None


def _has_left(connection):
    """Tell whether the other end, which has nothing more to say, is closed."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
