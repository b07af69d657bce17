"""Another commit's rows are timed in turn with this one's, by the same code."""

import io
import json
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import against, steps


class Side:
    """A process that answers with its numbers, and notes that it was asked."""

    def __init__(self, name, numbers, asked):
        self.stdin, self.stdout, self.args = self, self, name
        self.numbers, self.asked = numbers, asked

    def write(self, line):
        assert line == b"\n"
        self.asked.append(self.args)

    def readline(self):
        return json.dumps(self.numbers).encode() + b"\n" if self.numbers else b""

    def wait(self):
        return 3


def test_each_side_begins_every_other_pair():
    asked = []
    sides = [Side("before", [100.0, 180.0], asked), Side("now", [50.0, 90.0], asked)]
    for backwards in (False, True):
        assert against.ask(sides, backwards) == [[100.0, 180.0], [50.0, 90.0]]
    assert asked == ["before", "now", "now", "before"]


def test_a_side_that_ends_is_an_error():
    with pytest.raises(
        subprocess.CalledProcessError, match="'now' returned non-zero exit status 3"
    ):
        against.ask([Side("before", [1.0, 1.0], []), Side("now", None, [])])


def test_a_ratio_has_its_median_and_what_that_may_be():
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert against.show(values) == "0.50 (0.20 to 0.80)"  # of nine the second and the eighth


def test_a_row_is_measured_once_per_line(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(steps, "prepare", lambda **row: (row, lambda: calls.append(row)))
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n\n"))
    against.answer("dcgan-28-regular-float32")
    assert calls == [{"mode": "regular"}] * 3
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(answers) == 3 and all(ms >= 0 for pair in answers for ms in pair)


@pytest.mark.slow
def test_a_commit_is_timed_against_itself(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(against, "PAIRS", 6)
    against.compare("HEAD", ["symmetric-28-gp-float32"])
    *_, line = capsys.readouterr().out.splitlines()
    _, row, ratio, processor, before, now, _ = line.split("|")
    assert row.strip() == "`symmetric-28-gp-float32`"
    assert 0.2 < float(ratio.split()[0]) < 5 and 0.2 < float(processor.split()[0]) < 5
    assert float(before.replace(",", "")) > 0 and float(now.replace(",", "")) > 0
