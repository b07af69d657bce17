"""Hosts of one training meet before TensorFlow connects them; here they are threads."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT

import hosts
import meeting
from benchmark_replicas import free_port
from errors import Failed, Refused

SEEN = {"seed": 0, "arch": "dcgan"}


@pytest.fixture
def cluster():
    """Make three hosts on this machine: called with a number, that host's view."""
    names = tuple(f"127.0.0.1:{free_port()}" for _ in range(3))
    return lambda index: hosts.Cluster(names, index)


def attend(cluster, described=SEEN, body=lambda: None):
    """Take part in a meeting; returns what is refused, or 'together'."""
    try:
        with meeting.meet(cluster, described) as connecting:
            body()
            with connecting():
                return "together"
    except (Refused, Failed) as error:
        return str(error)


def attend_all(*parts):
    """Take part in a meeting as several hosts at once."""
    with ThreadPoolExecutor(len(parts)) as pool:
        return [future.result(30) for future in [pool.submit(attend, *part) for part in parts]]


def call(cluster, words):
    """Call the first host by hand, as soon as it listens."""
    while True:
        try:
            guest = socket.create_connection(hosts.address(cluster.hosts[0]))
            guest.sendall(words)
            return guest
        except ConnectionRefusedError:
            time.sleep(0.01)


def test_hosts_that_agree_start_together(cluster, capsys):
    assert attend_all(*[(cluster(i),) for i in range(3)]) == ["together"] * 3
    screen = capsys.readouterr().out
    assert "Host 1 of 3: waiting for 127.0.0.1" in screen
    assert screen.count(" is here") == 2 and screen.count("; waiting for ") == 1


def test_hosts_that_differ_are_told_in_what(cluster):
    odd = {"seed": 1, "arch": "dcgan", "keras": "3"}
    texts = attend_all((cluster(0), SEEN), (cluster(1), odd), (cluster(2), SEEN))
    first, second, _ = cluster(0).hosts
    said = texts[0]
    assert said.startswith(
        f"the hosts differ: keras is None on {first} and 3 on {second};"
        f" seed is 0 on {first} and 1 on {second}; give all the same"
    )
    assert texts == [said, f"the first host: {said}", f"the first host: {said}"]


def test_the_others_are_let_go_after_the_first_hosts_body_and_share_its_refusal(cluster):
    began = threading.Event()

    def refuse():
        assert not began.wait(0.5)
        raise Refused("the folder is in use")

    texts = attend_all(
        (cluster(0), SEEN, refuse), (cluster(1), SEEN, began.set), (cluster(2), SEEN, began.set)
    )
    assert texts == ["the folder is in use", *["the first host: the folder is in use"] * 2]


def test_an_unforeseen_failure_of_the_first_host_ends_the_others(cluster):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(attend, cluster(0), SEEN, lambda: 1 / 0)
        others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
        ends = [other.result(30) for other in others]
        assert ends == ["the first host: it failed, see what it says"] * 2
        with pytest.raises(ZeroDivisionError):
            first.result(30)


@pytest.mark.parametrize(
    "words",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n",
        b"[" * 90_000 + b"\n",
        b"silence",
        b'{"host": 1}\n',
        b'{"host": 7, "described": {}}\n',
        b'{"host": 1.0, "described": {}}\n',
    ],
)
def test_strangers_at_the_port_are_left_alone(cluster, words):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(attend, cluster(0))
        with call(cluster(0), words):
            others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
            assert [end.result(30) for end in (first, *others)] == ["together"] * 3


def test_a_host_that_leaves_may_come_again(cluster, capsys):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(attend, cluster(0))
        call(cluster(0), json.dumps({"host": 1, "described": {}}).encode() + b"\n").close()
        others = [pool.submit(attend, cluster(i)) for i in (2, 1)]
        assert [end.result(30) for end in (first, *others)] == ["together"] * 3
    assert f"{cluster(0).hosts[1]} has left: waiting for it" in capsys.readouterr().out


def test_the_others_wait_on_when_the_first_host_starts_again(cluster, capsys):
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
        with meeting._listen(cluster(0)) as server:
            server.accept()[0].close()
        assert attend(cluster(0)) == "together"
        assert [other.result(30) for other in others] == ["together"] * 2
    assert capsys.readouterr().out.count("broke off, began without this host") in (1, 2)


def test_two_hosts_with_one_index(cluster):
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(attend, cluster(0))
        message = json.dumps({"host": 1, "described": {n: str(v) for n, v in SEEN.items()}})
        with call(cluster(0), message.encode() + b"\n") as guest:
            with call(cluster(0), message.encode() + b"\n") as twin:
                assert "index 1 is another host's" in twin.makefile().readline()
            last = pool.submit(attend, cluster(2))
            assert json.loads(guest.makefile().readline()) == {"refusal": ""}
            guest.sendall(meeting.TOGETHER)
        assert first.result(30) == last.result(30) == "together"


def test_a_waiting_host_holds_its_port(cluster):
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
        with meeting._listen(cluster(0)) as server:
            server.accept()[0].close()  # by now one of them listens and calls
            server.accept()[0].close()
            server.accept()[0].close()
        for i in (1, 2):
            with pytest.raises(OSError, match="in use"):
                socket.create_server(hosts.address(cluster(0).hosts[i])).close()
        assert attend(cluster(0)) == "together"
        assert [other.result(30) for other in others] == ["together"] * 2


CONNECTS = """
import sys, time
sys.path.insert(0, {root!r})
import hosts, meeting
meeting.CONNECT_SECONDS = {seconds}
with meeting.meet(hosts.Cluster({names!r}, {index}), {{}}) as connecting:
    with connecting():
        time.sleep({sleep})
    print("connected")
"""


def start(cluster, sleep=60, seconds=60):
    """Start a process that takes some seconds for connecting."""
    values = {"names": cluster.hosts[:2], "index": cluster.index, "root": str(ROOT)}
    text = CONNECTS.format(**values, sleep=sleep, seconds=seconds)
    return subprocess.Popen(
        [sys.executable, "-uc", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_first_host_that_loses_another_while_connecting_ends(cluster):
    first = start(cluster(0))
    with call(cluster(0), b'{"host": 1, "described": {}}\n') as guest:
        assert json.loads(guest.makefile().readline()) == {"refusal": ""}
    _, errors = first.communicate(timeout=10)
    assert first.returncode == -signal.SIGKILL
    assert errors == f"main.py: {meeting.LOST}\n"


def test_a_host_that_loses_the_first_one_while_connecting_ends(cluster):
    with meeting._listen(cluster(0)) as server:
        other = start(cluster(1))
        with server.accept()[0] as connection:
            connection.sendall(b'{"refusal": ""}\n')
            time.sleep(1)
    _, errors = other.communicate(timeout=10)
    assert other.returncode == -signal.SIGKILL
    assert errors == f"main.py: {meeting.LOST}\n"


def test_hosts_that_cannot_connect_end(cluster):
    started = [start(cluster(i), seconds=1) for i in (0, 1)]
    for host in started:
        _, errors = host.communicate(timeout=10)
        assert host.returncode == -signal.SIGKILL
        assert errors in (f"main.py: {meeting.LATE.format(1)}\n", f"main.py: {meeting.LOST}\n")


def test_a_host_that_connects_faster_than_the_others_is_not_missed(cluster):
    started = [start(cluster(0), sleep=0), start(cluster(1), sleep=3)]
    for host in started:
        screen, errors = host.communicate(timeout=10)
        assert (host.returncode, errors) == (0, "") and screen.endswith("connected\n")


def test_both_ends_notice_a_machine_that_is_gone(cluster):
    names = hosts.Cluster(cluster(0).hosts[:2], 0), hosts.Cluster(cluster(0).hosts[:2], 1)
    with meeting._listen(names[0]) as server, ThreadPoolExecutor(1) as pool:
        calling = pool.submit(meeting._call, names[1], {})
        with contextlib.ExitStack() as open_ones:
            ((accepted, _),) = meeting._receive(names[0], server, open_ones).values()
            meeting._answer(accepted, "")
            with calling.result(10) as called:
                for end in (accepted, called):
                    assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_in_use_is_refused(cluster, index):
    with socket.create_server(hosts.address(cluster(index).hosts[index])):
        text = attend(cluster(index))
    assert text.endswith("this one: Address already in use; choose another port")


def test_a_host_alone_meets_nobody(cluster):
    assert attend(hosts.Cluster(cluster(0).hosts[:1], 0)) == "together"
