"""How the hosts of a training meet before TensorFlow connects them. Knows no TensorFlow.

TensorFlow waits for a host that is late or lost without a word, deaf to SIGTERM, and does not tell
in what two hosts differ. So all meet at the first one's address, compare what they are about to
train, and start together or not at all.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

from errors import Failed, Refused
from hosts import address

MESSAGE_SECONDS = 3
LONGEST = 100_000  # bytes of one message
CONNECT_SECONDS = 120
TOGETHER = b"together\n"
LOST = "another host was lost while the hosts connected: see what it says, then start all again"
LATE = "the hosts could not connect in {} s: are their ports open to each other?"


@contextlib.contextmanager
def meet(cluster, described):
    """Wait until all hosts are here and found to be about to train the same.

    `described` is {what: value} of this host. The body runs on the first host while the others
    still wait: a Refused or Failed of it is theirs, too. It is given a context in which it is to
    connect the hosts; that ends the process, exit code 137, where one is lost. Raises Refused where
    hosts differ.
    """
    if not cluster.others:
        yield contextlib.nullcontext
        return
    described = {name: str(value) for name, value in described.items()}
    with _listen(cluster) as server, contextlib.ExitStack() as open_ones:
        missing = ", ".join(cluster.hosts[i] for i in cluster.others)
        number = f"Host {cluster.index + 1} of {len(cluster.hosts)}"
        print(f"{number}: waiting for {missing} (Ctrl-C ends it)")
        if not cluster.is_chief:
            first = open_ones.enter_context(_call(cluster, described))
            server.close()  # from here on the port is TensorFlow's
            yield lambda: _watched([first])
            return
        guests = _receive(cluster, server, open_ones)
        server.close()
        connections = [connection for connection, _ in guests.values()]
        with _refusals_shared(connections):
            _compare(cluster, described, {i: said for i, (_, said) in guests.items()})
            yield lambda: _watched(connections, _message({"refusal": ""}))


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


def _receive(cluster, server, open_ones):
    """Wait until all others have called: {number: (connection, what it described)}."""
    guests = {}
    server.settimeout(1)
    while len(guests) < len(cluster.others):
        with contextlib.ExitStack() as this_one:
            said = None
            with contextlib.suppress(TimeoutError):
                connection = this_one.enter_context(_kept_alive(server.accept()[0]))
                said = _read(connection, "described", MESSAGE_SECONDS)
            for i in [i for i, (guest, _) in guests.items() if _has_left(guest)]:
                del guests[i]
                print(f"{cluster.hosts[i]} has left: waiting for it")
            i = said.get("host") if said else None
            if type(i) is not int or i not in cluster.others or type(said["described"]) is not dict:
                continue  # nobody, or another program
            if i in guests:
                _answer(connection, f"TF_CONFIG's index {i} is another host's, too")
                continue
            guests[i] = connection, said["described"]
            open_ones.push(this_one.pop_all())
        missing = [cluster.hosts[i] for i in cluster.others if i not in guests]
        rest = f"; waiting for {', '.join(missing)}" if missing else ""
        print(f"{cluster.hosts[i]} is here{rest}")
    return guests


@contextlib.contextmanager
def _refusals_shared(connections):
    """Tell the others why the body gives up."""
    refusal = "it failed, see what it says"
    try:
        yield
        refusal = None
    except (Refused, Failed) as error:
        refusal = str(error)
        raise
    finally:
        for connection in connections if refusal else ():
            _answer(connection, refusal)


def _answer(connection, refusal):
    with contextlib.suppress(OSError):  # it has gone
        connection.sendall(_message({"refusal": refusal}))


def _call(cluster, described):
    """Tell the first host what this one is about to train, and wait until it lets it go."""
    message = _message({"host": cluster.index, "described": described})
    first, warned = cluster.hosts[0], False
    while True:
        with contextlib.ExitStack() as this_one, contextlib.suppress(OSError):
            connection = socket.create_connection(address(first), MESSAGE_SECONDS)
            this_one.enter_context(_kept_alive(connection))
            connection.sendall(message)
            said = _read(connection, "refusal", None)
            if said and said["refusal"]:
                raise Refused(f"the first host: {said['refusal']}")
            if said:
                this_one.pop_all()
                return connection
            if not warned:
                print(f"{first} broke off, began without this host, or is another program: waiting")
            warned = True
        time.sleep(0.2)  # it is not there yet


def _kept_alive(connection):
    """Notice when the other machine is gone without having said so."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), 10)
    return connection


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


def _read(connection, key, seconds):
    """Read one message with `key`; None where the other end has gone or is another program."""
    end, text = seconds and time.monotonic() + seconds, b""
    try:
        while not text.endswith(b"\n") and len(text) < LONGEST:
            connection.settimeout(end and max(0.001, end - time.monotonic()))
            part = connection.recv(LONGEST)
            if not part:
                return None
            text += part
        said = json.loads(text)
    except (OSError, ValueError, RecursionError):
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


@contextlib.contextmanager
def _watched(connections, first_words=b""):
    """End this process where another host is lost in the body, or where that takes too long.

    While TensorFlow connects hosts it lets no other thread run, so another process watches.
    """
    for connection in connections:
        connection.setblocking(True)
        with contextlib.suppress(OSError):  # it has gone: the watcher will tell
            connection.sendall(first_words)
    numbers = [connection.fileno() for connection in connections]
    words = [sys.executable, __file__, *map(str, (os.getpid(), CONNECT_SECONDS, *numbers))]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, pass_fds=numbers, start_new_session=True
    ) as watcher:
        try:
            yield
        finally:
            watcher.stdin.close()
    for connection in connections:
        with contextlib.suppress(OSError):  # TensorFlow will miss it
            connection.sendall(TOGETHER)


def watch(process, seconds, numbers):
    """Kill a process with a line on stderr when a connection breaks off too early, or time is up.

    Ends when standard input does.
    """
    watched = {0: None} | {number: socket.socket(fileno=number) for number in numbers}
    end = time.monotonic() + seconds
    while True:
        ready = select.select(watched, [], [], max(0, end - time.monotonic()))[0]
        if 0 in ready:
            return
        lost = [number for number in ready if _is_lost(watched[number])]
        if lost or not ready:
            os.write(2, f"main.py: {LOST if lost else LATE.format(seconds)}\n".encode())
            os.kill(process, signal.SIGKILL)
            return
        for number in ready:  # there it is done
            del watched[number]


def _is_lost(connection):
    try:
        return connection.recv(len(TOGETHER), socket.MSG_WAITALL) != TOGETHER
    except OSError:
        return True


if __name__ == "__main__":
    own, limit, *others = map(int, sys.argv[1:])
    watch(own, limit, others)
