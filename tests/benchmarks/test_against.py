"""Another commit's rows are timed in turn with this one's, by the same code."""

import subprocess

import pytest
from conftest import ROOT

from benchmarks import against


def test_each_side_begins_every_other_pair(monkeypatch):
    asked = []

    def ask(side):
        asked.append(side)
        return {"before": [100.0, 180.0], "now": [50.0, 90.0]}[side]

    monkeypatch.setattr(against, "ask", ask)
    both = ["before", "now"]
    for backwards in (False, True):
        assert against.alternate(both, backwards) == [(100.0, 50.0), (180.0, 90.0)]
    assert asked == ["before", "now", "now", "before"]


def test_a_ratio_has_its_median_and_what_that_may_be():
    values = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert against.show(values) == "0.50 (0.20 to 0.80)"  # of nine the second and the eighth


@pytest.mark.parametrize(
    "instructions, asked", [({"avx2", "avx512f"}, ["all", "AVX2"]), ({"avx2"}, ["all"])]
)
def test_avx512_is_measured_with_and_without(instructions, asked, monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(against.device, "_instructions", lambda: instructions)
    assert against.instructions() == asked


@pytest.mark.slow
def test_a_commit_is_timed_against_itself(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(against, "PAIRS", 6)
    monkeypatch.setattr(against, "instructions", lambda: ["all"])
    trees = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True)
    against.compare("HEAD", ["symmetric-8-regular-float32"])
    *_, line = capsys.readouterr().out.splitlines()
    _, row, allowed, ratio, processor, before, now, _ = line.split("|")
    assert (row.strip(), allowed.strip()) == ("`symmetric-8-regular-float32`", "all")
    assert 0.2 < float(ratio.split()[0]) < 5 and 0.2 < float(processor.split()[0]) < 5
    assert float(before) > 0 and float(now) > 0
    after = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True)
    assert after.stdout == trees.stdout
