"""TF_CONFIG is read, or refused in words that say what is wrong; the page about hosts is true."""

import json
import re
import shlex

import pytest
from conftest import ROOT

import config as flags
from distributed import hosts
from system.errors import Refused


def describe(**changes):
    """Write a TF_CONFIG of two hosts, changed."""
    cluster = {"worker": ["127.0.0.1:1", "[::1]:2"]}
    return {"cluster": cluster, "task": {"type": "worker", "index": 1}} | changes


def test_tf_config_is_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps(describe()))
    assert hosts.read_cluster() == hosts.Cluster(("127.0.0.1:1", "[::1]:2"), 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "TF_CONFIG is not set"),
        ("{", "TF_CONFIG is not set or not JSON"),
        ("[]", "does not name hosts"),
        ('{"cluster": {"worker": ["127.0.0.1:1"]}}', "does not name hosts and which one this is"),
        (describe(task={"type": "ps", "index": 0}), "and which one this is"),
        (describe(task={"type": "worker", "index": 2}), "index 2 for 2 hosts"),
        (describe(task={"type": "worker", "index": "one"}), "index one for 2 hosts"),
        (describe(cluster={"worker": "a:1"}), "does not name hosts"),
        (describe(cluster={"worker": ["a:1"], "ps": ["b:1"]}), "other hosts than workers"),
        (describe(cluster={"worker": ["127.0.0.1:65536"]}), "has the host '127.0.0.1:65536'"),
        (
            describe(cluster={"worker": ["127.0.0.1"]}),
            "'127.0.0.1' (ValueError: no port)",
        ),
        (describe(cluster={"worker": ["127.0.0.1:1", "127.0.0.1:1"]}), "names a host twice"),
        (describe(cluster={"worker": ["a..b:1"]}), "has the host 'a..b:1'"),
        (
            describe(cluster={"worker": ["nobody.invalid:1"]}),
            "host 'nobody.invalid:1' (",
        ),
    ],
)
def test_a_wrong_tf_config_is_refused(monkeypatch, text, said):
    monkeypatch.setenv("TF_CONFIG", text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(Refused, match="TF_CONFIG") as refused:
        hosts.read_cluster()
    assert said in str(refused.value)


def test_the_pages_commands_parse_and_it_is_short():
    page = (ROOT / "docs/distributed.md").read_text()
    commands = re.findall(r"^python main\.py (.*)", page, re.MULTILINE)
    assert [flags.parse(shlex.split(words)).distribute for words in commands] == [
        "mirrored",
        "multiworker",
    ]
    assert len(page.encode()) <= 4096
