"""python -m benchmarks times the real steps, and its page has a line per row."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from benchmarks import __main__ as page
from benchmarks import peer_keras, steps


def test_a_row_has_what_its_name_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(steps, "median_ms", functools.partial(steps.median_ms, repeats=1))
    row = steps.measure("symmetric-8-regular-float32")
    named = ["`symmetric` 8x8", "regular", "batch", "float32"]
    assert [row[column] for column in ("networks", "mode", "norm", "precision")] == named
    assert row[steps.SECONDS] == pytest.approx(2 * row["ms"])  # 2,000 iterations, in seconds
    assert row["GFLOP"] > 0 and row["%"] > 0


def test_the_page_has_a_line_per_row_and_the_headline(monkeypatch, capsys):
    measured = []

    def measure(name):
        measured.append(name)
        if name in steps.ROWS:
            return {"networks": name, steps.SECONDS: 519.2 + len(measured)}
        return {f"the {name}": 0.12345}

    monkeypatch.setattr(page, "measure", measure)
    page.print_all()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("**520 s for 10,000 critic") for line in lines)
    assert f"| networks | {steps.SECONDS} |" in lines and "| the start | 0.123 |" in lines
    for name in (*steps.ROWS, *(f"the {part}" for part in page.PARTS)):
        assert sum(line.startswith(f"| {name} |") for line in lines) == 1


def test_what_others_would_use_does_the_same_work():
    gan, _ = steps.prepare("dcgan-28-gp-float32-unlabelled")
    example = peer_keras.Example()
    for ours, theirs in ((gan.generator, example.generator), (gan.critic, example.critic)):
        shapes = [sorted(tuple(v.shape) for v in net.trainable_variables) for net in (ours, theirs)]
        assert shapes[0] == shapes[1]
    losses = example.train_step(tf.zeros((peer_keras.BATCH, 28, 28, 1)))
    assert all(np.isfinite(value) for value in losses.values())
