"""Hosts of one training meet before TensorFlow connects them; here they are threads."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import hosts
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
        with hosts.meeting(cluster, described):
            body()
        return "together"
    except (Refused, Failed) as error:
        return str(error)


def attend_all(*parts):
    """Take part in a meeting as several hosts at once."""
    with ThreadPoolExecutor(len(parts)) as pool:
        return [future.result(30) for future in [pool.submit(attend, *part) for part in parts]]


def call(cluster, host):
    """Call the first host by hand, as soon as it listens."""
    while True:
        try:
            guest = socket.create_connection(hosts.address(cluster.hosts[0]))
            guest.sendall(host)
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
    assert texts[0].startswith(
        f"the hosts differ: keras is None on {first} and 3 on {second};"
        f" seed is 0 on {first} and 1 on {second}; give all the same"
    )
    assert texts == [texts[0]] * 3


def test_the_others_are_let_go_after_the_first_hosts_body_and_share_its_refusal(cluster):
    began = threading.Event()

    def refuse():
        assert not began.wait(0.5)
        raise Refused("the folder is in use")

    texts = attend_all(
        (cluster(0), SEEN, refuse), (cluster(1), SEEN, began.set), (cluster(2), SEEN, began.set)
    )
    assert texts == ["the folder is in use"] * 3


def test_an_unforeseen_failure_of_the_first_host_ends_the_others(cluster):
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(attend, cluster(0), SEEN, lambda: 1 / 0)
        others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
        assert [other.result(30) for other in others] == [
            "the first host failed: see what it says"
        ] * 2
        with pytest.raises(ZeroDivisionError):
            first.result(30)


@pytest.mark.parametrize(
    "words",
    [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b'{"host": 1}\n', b'{"host": 7, "described": {}}\n'],
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


def test_the_others_wait_on_when_the_first_host_starts_again(cluster):
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(attend, cluster(i)) for i in (1, 2)]
        with hosts._listen(cluster(0)) as server:
            server.accept()[0].close()
        assert attend(cluster(0)) == "together"
        assert [other.result(30) for other in others] == ["together"] * 2


def test_two_hosts_with_one_index(cluster):
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(attend, cluster(0))
        message = json.dumps({"host": 1, "described": {n: str(v) for n, v in SEEN.items()}})
        with call(cluster(0), message.encode() + b"\n") as guest:
            with call(cluster(0), message.encode() + b"\n") as twin:
                assert "index 1 is another host's" in twin.makefile().readline()
            last = pool.submit(attend, cluster(2))
            assert json.loads(guest.makefile().readline()) == {"refusal": ""}
        assert first.result(30) == last.result(30) == "together"


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_in_use_is_refused(cluster, index):
    with socket.create_server(hosts.address(cluster(index).hosts[index])):
        text = attend(cluster(index))
    assert text.endswith("this one: Address already in use; choose another port")


def test_a_host_alone_meets_nobody(cluster):
    assert attend(hosts.Cluster(cluster(0).hosts[:1], 0)) == "together"


def describe(**changes):
    """Write a TF_CONFIG of two hosts, changed."""
    cluster = {"worker": ["127.0.0.1:1", "[::1]:2"]}
    return {"cluster": cluster, "task": {"type": "worker", "index": 1}} | changes


def test_tf_config_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(describe()))
    assert hosts.read_cluster() == hosts.Cluster(("127.0.0.1:1", "[::1]:2"), 1)
    assert hosts.address("[::1]:2") == ("::1", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "TF_CONFIG is not set"),
        ("{", "TF_CONFIG is not JSON"),
        ("[]", "lacks hosts"),
        ('{"cluster": {"worker": ["127.0.0.1:1"]}}', "lacks hosts, the task's type"),
        (describe(task={"type": "ps", "index": 0}), "lacks hosts, the task's type"),
        (describe(task={"type": "worker", "index": 2}), "index 2 for 2 hosts"),
        (describe(task={"type": "worker", "index": "one"}), "index one for 2 hosts"),
        (describe(cluster={"worker": "a:1"}), "lacks hosts"),
        (describe(cluster={"worker": ["a:1"], "ps": ["b:1"]}), "hosts of other types: ps"),
        (describe(cluster={"worker": ["127.0.0.1:65536"]}), "has '127.0.0.1:65536' for a host"),
        (describe(cluster={"worker": ["127.0.0.1"]}), "has '127.0.0.1' for a host"),
        (describe(cluster={"worker": ["nobody.invalid:1"]}), "TF_CONFIG's host nobody.invalid:1: "),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, text, said):
    monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(Refused, match="TF_CONFIG") as refused:
        hosts.read_cluster()
    assert said in str(refused.value)
