"""python -m benchmarks measures the real steps and the real program, and prints a line per row."""

import json
import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, make_config, make_data, make_facts, make_gan

import config
import networks
from benchmarks import __main__ as page
from benchmarks import card, peer_keras, program, steps
from kernels import processor
from system import device

SMALL = {"arch": "symmetric", "output_height": 8, "batch_size": 8}


@pytest.mark.parametrize("name", steps.ROWS)
def test_a_rows_name_says_what_its_settings_are(name):
    row = dict(steps.ROWS[name])
    plain, classes = row.pop("plain", False), row.pop("classes", 0)
    flags = config.Config(**row)
    config.check(flags)
    words = [flags.arch, str(flags.output_height), flags.mode, flags.precision]
    more = {"plain": plain, "labels": classes > 0, "unlabelled": flags.conditional is False}
    more["none"] = flags.critic_norm == "none" and not plain
    assert name == "-".join([*words, *(word for word, is_so in more.items() if is_so)])


def test_an_iteration_of_a_row_is_one_of_the_algorithm(monkeypatch):
    monkeypatch.chdir(ROOT)
    gan, iterate = steps.prepare(**SMALL, mode="regular", critic_num=3)
    assert (gan.config.arch, gan.config.mode, gan.shape) == ("symmetric", "regular", (8, 8, 3))
    before = [int(gan.critic_optimizer.iterations), int(gan.generator_optimizer.iterations)]
    iterate()
    after = [int(gan.critic_optimizer.iterations), int(gan.generator_optimizer.iterations)]
    assert [a - b for a, b in zip(after, before, strict=True)] == [3, 1]


def test_a_plain_rows_steps_are_traced_while_kernels_are_plain(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(processor, "PLAIN", False)  # as it is without a GPU
    kinds = []
    for plain in (False, True):
        gan, iterate = steps.prepare(**SMALL, plain=plain)
        iterate()
        assert gan.critic_step.experimental_get_tracing_count() == 1
        data = steps.load_data(8)
        graph = gan.critic_step.get_concrete_function(*gan.inputs.critic(data, 0)).graph
        kinds.append([operation.type for operation in graph.get_operations()])
    assert len(kinds[0]) != len(kinds[1])
    assert processor.PLAIN is False


def test_colour_images_have_classes_where_a_row_asks_for_them(monkeypatch):
    monkeypatch.chdir(ROOT)
    data = steps.load_data(8, classes=10)
    assert (data.images.shape, data.facts.shape) == ((1000, 8, 8, 3), (8, 8, 3))
    assert np.bincount(data.labels).tolist() == list(data.facts.label_counts) == [100] * 10
    assert steps.load_data(8).labels is None


def test_a_row_has_its_time_and_its_operations(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(steps.ROWS, "small", SMALL)
    monkeypatch.setattr(steps, "median_ms", lambda function: 1234.5)
    gan = make_gan(make_data((8, 8, 3)), conditional=False)
    critic, generator = steps.needed_flops(gan)
    page.print_row("small")
    shown = f"{float(f'{(5 * critic + generator) / 1e9:.3g}'):g}"
    assert capsys.readouterr().out == f"| `small` | 1,230 | {shown} |\n"


def test_a_median_leaves_two_calls_out():
    calls = []
    assert steps.median_ms(lambda: calls.append(1), repeats=3) >= 0
    assert len(calls) == 5


def test_the_page_measures_each_row_once_in_a_process_of_its_own(monkeypatch, capsys):
    words = []
    monkeypatch.setattr(page.subprocess, "run", lambda typed, check: words.append(typed))
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    page.main()
    start = [sys.executable, "-m", "benchmarks", "--rows"]
    assert words == [[*start, name] for name in [*steps.ROWS, *page.PARTS]]
    heads = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert heads == ["| row | ms | GFLOP |", "|---|---|---|", "| what | |", "|---|---|"]


def test_the_page_of_a_gpu_has_two_more_columns_and_no_plain_rows(monkeypatch, capsys):
    names = []
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(page.subprocess, "run", lambda typed, check: names.append(typed[-1]))
    monkeypatch.setattr(sys, "argv", ["benchmarks"])
    page.main()
    assert names == [name for name in [*steps.ROWS, *page.PARTS] if "plain" not in name]
    screen = capsys.readouterr().out
    assert "| row | ms | GFLOP | of the card's product rate, % | idle, % |" in screen
    assert f"tensorflow {tf.__version__}" in screen
    monkeypatch.setattr(card, "measure", lambda name: (21.34, 34.12, 5.678, 30.0))
    page.print_row("dcgan-28-gp-float32")
    assert capsys.readouterr().out == "| `dcgan-28-gp-float32` | 21.3 | 34.1 | 5.68 | 30 |\n"


def test_idle_is_what_the_same_steps_do_not_take_with_inputs_at_hand(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(steps.ROWS, "small", SMALL)
    monkeypatch.setattr(card, "seconds_each", lambda iterate: float(iterate(11)) * 0 + times.pop())
    monkeypatch.setattr(card, "product_rate", lambda precision: 1000.0)
    times = [0.015, 0.020]
    ms, gflop, share, idle = card.measure("small")
    assert (ms, idle) == (pytest.approx(20), pytest.approx(25)) and gflop > 0
    assert share == pytest.approx(100 * gflop / 0.020 / 1000)


def test_iterations_that_are_not_boosted_are_timed_without_waiting():
    asked = []
    each = card.seconds_each(lambda i: asked.append(i) or tf.constant(1.0), count=100)
    assert asked == list(range(1, 111)) and 0 < each < 1
    updates = make_gan(make_data(), mode="regular").config.updates_before
    assert {updates(i + 1) - updates(i) for i in asked[10:]} == {5}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_rate_of_a_product_counts_two_operations_for_a_multiplication(monkeypatch, precision):
    monkeypatch.setattr(steps, "median_ms", lambda function: 2.0 * (function() == 12.5))
    assert card.product_rate(precision, size=100) == pytest.approx(1.0)


def test_rows_that_are_asked_for_are_printed_alone(monkeypatch, capsys):
    monkeypatch.setattr(steps, "measure", lambda name: (213.4, 34.12))
    monkeypatch.setitem(page.PARTS, "loop", lambda: {"an iteration, ms": 330.4, "MB": 1123.0})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--rows", "dcgan-28-gp-float32", "loop"])
    page.main()
    assert capsys.readouterr().out.splitlines() == [
        "| `dcgan-28-gp-float32` | 213 | 34.1 |",
        "| an iteration, ms | 330 |",
        "| MB | 1,120 |",
    ]


def test_parts_of_the_program_are_not_compared_with_another_commits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--against", "HEAD", "--rows", "loop"])
    with pytest.raises(SystemExit):
        page.main()
    assert "--against: not with start, loop, growth, peer;" in capsys.readouterr().err


def fake_program(calls):
    """Leave what a default run leaves, as far as it is looked at."""

    def call(*words):
        calls.append(words)
        if "--train" in words:
            flags = config.parse(list(words))
            Path(flags.run_dir).mkdir(exist_ok=True)
            Path(flags.sample_dir, "real.png").touch()
            rows = [{"iteration": i, "seconds": 0.3 * i + 7} for i in range(50, 451, 50)]
            log = "".join(json.dumps(row) + "\n" for row in rows)
            Path(flags.run_dir, "log.jsonl").write_text(log)

    return call


def test_the_start_is_timed_by_what_runs_write(monkeypatch):
    calls = []
    monkeypatch.setattr(program, "call", fake_program(calls))
    row = program.measure_start()
    assert calls[:22] == [("--help",)] * 22
    first, again = ([word for word in words if "/" not in word] for words in calls[22:])
    assert (first[-1], again[-1]) == ("1", "2") and first[:-1] == again[:-1]
    assert [name.split(", ")[-2] for name in row][1:] == [
        "real.png",
        "first iteration",
        "first iteration of a resume",
    ]
    assert all(-0.1 < seconds < 60 for seconds in row.values())


def test_the_loop_is_timed_by_its_log(monkeypatch):
    monkeypatch.setattr(program, "call", fake_program([]))
    row = program.measure_loop()
    assert row["default run, an iteration with its outputs, ms"] == pytest.approx(300)


def test_what_others_would_use_does_the_same_work():
    config = make_config(make_facts((28, 28, 1)), arch="dcgan", output_height=28)
    sizes = config.arch, (28, 28, 1)
    generator = networks.build_generator(*sizes, config.z_dim, 0)
    critic = networks.build_critic(*sizes, 0, config.critic_norm)
    example = peer_keras.Example()
    losses = example.train_step(tf.zeros((peer_keras.BATCH, 28, 28, 1)))
    assert all(np.isfinite(value) for value in losses.values())
    for ours, theirs in ((generator, example.generator), (critic, example.critic)):
        shapes = [sorted(tuple(v.shape) for v in net.trainable_variables) for net in (ours, theirs)]
        assert shapes[0] == shapes[1]


def test_memory_that_an_iteration_keeps_is_growth(monkeypatch):
    kept = []

    class Leaky:
        def train_iteration(self, data, iteration):
            if iteration % 50 == 0:
                kept.append(mmap.mmap(-1, 2**20))  # 1 MB that nobody has freed before
                kept[-1].write(bytes(2**20))
            return {"g_loss": 0.0}

    monkeypatch.setattr(steps, "load_data", lambda size: np.ones(2**26 // 8).size)  # for a while
    monkeypatch.setattr(steps, "prepare", lambda **row: (Leaky(), None))
    (growth,) = program.measure_growth().values()
    assert growth == pytest.approx(40, abs=4)
