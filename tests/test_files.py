"""Pictures, gif, plot, log, lock and configuration of a run, each by itself."""

import json
import os
import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import ROOT, make_config, make_facts
from numpy.testing import assert_array_equal
from PIL import Image

import config as flags
import log
import runs
import settings
import utils
from errors import Failed, Refused


def test_a_grid_shows_each_image_once_row_by_row():
    images = np.arange(1, 6, dtype=np.uint8).reshape(5, 1, 1, 1) * np.ones((5, 3, 4, 1), np.uint8)
    sheet = utils.grid(images, 3)
    assert sheet.shape == (2 * 5 + 2, 3 * 6 + 2, 1)
    for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        top, left = 2 + 5 * row, 2 + 6 * column
        assert_array_equal(sheet[top : top + 3, left : left + 4], images[i])
    assert sheet.astype(int).sum() == images.astype(int).sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_keep_every_pixel(tmp_path, channels):
    image = np.random.default_rng(0).integers(0, 256, (7, 5, channels), dtype=np.uint8)
    utils.save_png(tmp_path / "x.png", image)
    assert_array_equal(np.atleast_3d(np.asarray(Image.open(tmp_path / "x.png"))), image)


def test_grids_are_named_by_epoch_and_position_and_sorted_by_number(tmp_path):
    names = [utils.grid_name(state, 937) for state in (0, 200, 937, 100 * 937 + 5, 3)]
    assert names == [
        "train_00_0000.png",
        "train_00_0200.png",
        "train_01_0000.png",
        "train_100_0005.png",
        "train_00_0003.png",
    ]
    for name in [*names, "train_x.png", "train_99.png"]:
        (tmp_path / name).touch()
    found = [path.name for _, path in utils.list_grids(tmp_path)]
    assert found == [names[0], names[4], names[1], names[2], names[3]]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gif_has_at_most_60_frames_of_at_most_400_pixels_the_last_longer(tmp_path, channels):
    for state in range(100):
        shade = np.full((40, 500, channels), state * 2, np.uint8)
        utils.save_png(tmp_path / utils.grid_name(state, 1000), shade)
    path, count = utils.write_training_gif(tmp_path)
    assert count == 100
    frames = imageio.imread(path, index=None)
    assert frames.shape[:3] == (60, 32, 400)
    shades = frames[:, 0, 0].reshape(60, -1)[:, 0].astype(int)
    assert shades[0] == 0 and shades[-1] == 198 and np.all(np.diff(shades) > 0)
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        times = []
        for i in range(60):
            gif.seek(i)
            times.append(gif.info["duration"])
    assert times == [200] * 59 + [2000]


@pytest.mark.parametrize("shades, frames", [([7], 1), ([7, 7], 1), ([7, 7, 9], 2)])
def test_a_gif_can_be_made_of_one_grid_or_of_equal_ones(tmp_path, shades, frames):
    for state, shade in enumerate(shades):
        image = np.full((8, 8, 1), shade, np.uint8)
        utils.save_png(tmp_path / utils.grid_name(state, 1000), image)
    path, _ = utils.write_training_gif(tmp_path)
    with Image.open(path) as gif:
        assert gif.n_frames == frames


def test_a_gif_of_nothing_or_of_mixed_sizes_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"no train_\*.png"):
        utils.write_training_gif(tmp_path)
    utils.save_png(tmp_path / "train_00_0000.png", np.zeros((4, 4, 1), np.uint8))
    utils.save_png(tmp_path / "train_00_0001.png", np.zeros((4, 5, 1), np.uint8))
    with pytest.raises(Refused, match="differ in size"):
        utils.write_training_gif(tmp_path)


def row(iteration, **values):
    names = dict.fromkeys(log.MEASURED, 1.0)
    return {
        "iteration": iteration,
        "epoch": 0,
        **names,
        "seconds": 1.0,
        "images_per_second": 9.0,
    } | values


@pytest.mark.parametrize("rows", [[], [row(1)], [row(1, penalty=None), row(2, penalty=None)]])
def test_the_plot_is_made_of_any_number_of_rows_and_repeats(tmp_path, rows):
    utils.plot_log(tmp_path / "a.png", rows)
    utils.plot_log(tmp_path / "b.png", rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_going_on_cuts_rows_beyond_the_checkpoint_and_a_last_line_cut_short(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row(i)) + "\n" for i in (10, 20, 30)) + '{"iteration": 4')
    assert [r["iteration"] for r in log.read_rows(path, 20)] == [10, 20]
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [10, 20]


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(row(10)) + "\nnonsense\n" + json.dumps(row(30)) + "\n")
    with pytest.raises(Failed, match=r"log.jsonl: line 2 is damaged"):
        log.read_rows(path, 30)


@pytest.mark.parametrize("name, value", [("seconds", None), ("g_loss", '"x"'), ("epoch", "[]")])
def test_a_row_without_all_its_numbers_is_damage(tmp_path, name, value):
    line = json.dumps(dict.fromkeys(log.COLUMNS, 1))
    new = (
        line.replace(f'"{name}"', '"x"')
        if value is None
        else line.replace(f'"{name}": 1', f'"{name}": {value}')
    )
    (tmp_path / "log.jsonl").write_text(f"{line}\n{new}\n")
    with pytest.raises(Failed, match=r"log\.jsonl: line 2 is damaged"):
        log.read_rows(tmp_path / "log.jsonl", 9)


def test_a_log_of_bytes_that_are_no_text_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(Failed, match=r"log.jsonl: line 1 is damaged"):
        log.read_rows(tmp_path / "log.jsonl", 30)


def test_a_number_that_is_none_stops_the_run_by_name(tmp_path):
    book = log.Log(tmp_path, 0, make_config())
    measured = dict.fromkeys(log.MEASURED, 0.5)
    assert book.write(50, 0, measured)["penalty"] == 0.5
    with pytest.raises(Failed, match="g_loss is nan at iteration 100"):
        book.write(100, 0, measured | {"g_loss": float("nan")})
    assert len(log.read_rows(tmp_path / "log.jsonl", 100)) == 1


def test_seconds_go_on_over_a_restart_and_speed_counts_critic_images(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(row(10, seconds=500.0)) + "\n")
    config = make_config(critic_num=5, batch_size=8)
    book = log.Log(tmp_path, 10, config)
    book.last -= 10
    written = book.write(30, 0, dict.fromkeys(log.MEASURED, 0.0))
    assert 500 <= written["seconds"] < 505
    assert written["images_per_second"] == pytest.approx(20 * 5 * 8 / 10, rel=0.05)


def test_tensorboard_events_tell_what_the_log_tells(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    book = log.Log(tmp_path, 0, make_config())
    for i in (10, 20, 30):
        book.write(i, 0, dict.fromkeys(log.MEASURED, float(i)))
    log.Log(tmp_path, 20, make_config())  # a restart from state 20
    events = EventAccumulator(str(tmp_path), size_guidance={"tensors": 0}).Reload()
    assert [event.step for event in events.Tensors("w_distance")] == [10, 20]
    assert "slope" in events.Tags()["tensors"] and "iteration" not in events.Tags()["tensors"]


def test_without_tensorboard_the_log_is_written_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    log.Log(tmp_path, 0, make_config()).write(10, 0, dict.fromkeys(log.MEASURED, 0.0))
    assert "TensorBoard is not installed" in capsys.readouterr().out
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert not list(tmp_path.glob("events*"))


HOLD = """
import runs, sys, time
with runs.claim(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_training_in_a_folder_is_refused_and_a_dead_one_leaves_no_lock(tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(Refused, match=f"in use by another training, process {holder.pid}"),
            runs.claim(tmp_path / "new", folder),
        ):
            pass
        assert not (tmp_path / "new").exists()
        holder.kill()
    with runs.claim(folder):
        assert (folder / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(Refused, match="choose another folder"),
        runs.claim(tmp_path / "a" / "b", tmp_path / "file" / "c"),
    ):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path):
    with pytest.raises(Refused, match="File name too long; choose another folder"):
        runs.check_folder(tmp_path / ("x" * 300), flags.Config())


def test_one_folder_may_hold_the_run_and_its_pictures(tmp_path):
    with runs.claim(tmp_path / "both", f"{tmp_path}/./both"):
        assert (tmp_path / "both/.lock").exists()


def test_the_configuration_survives_its_file(tmp_path):
    facts = make_facts(classes=3)
    config = make_config(facts, noise=0.1)
    runs.write_config(tmp_path / "config.json", config, facts, {"threads": 2})
    stored, same_facts, environment = runs.read_config(tmp_path / "config.json")
    assert same_facts == facts and environment == {"threads": 2}
    assert stored == settings.kept(config)
    assert not {"train", "generate", "label", "data_dir"} & set(stored)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"settings": {}}', '{"settings": 3, "data": 4}']
)
def test_a_damaged_configuration_is_refused_by_name(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(Refused, match=r"config.json: damaged"):
        runs.read_config(tmp_path / "config.json")


def test_going_on_with_other_settings_lists_every_difference(tmp_path):
    facts = make_facts()
    runs.write_config(tmp_path / "config.json", make_config(facts), facts, {})
    runs.check_same(make_config(facts, epoch=99, log_every=7, max_iterations=3), facts, tmp_path)
    runs.check_same(make_config(facts, clip_up=0.5), facts, tmp_path)  # no effect in gp
    other = make_config(facts, learning_rate=0.1, noise=0.2)
    with pytest.raises(Refused) as refusal:
        runs.check_same(other, facts, tmp_path)
    for part in ("learning_rate is 0.0002 in the run and 0.1 here", "noise is 0.0", str(tmp_path)):
        assert part in str(refusal.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pixels": "other"}, "images or labels are not those it was started with"),
        ({}, "images are the same, but their files have other names"),
        ({"pixels": "other", "available": 63}, "available was 64 and is 63; its images or labels"),
        ({"class_names": ("a", "b")}, r"class_names was \(\) and is \('a', 'b'\); its images"),
    ],
)
def test_going_on_with_other_data_is_refused_with_the_difference(tmp_path, changes, message):
    facts = make_facts()
    runs.write_config(tmp_path / "config.json", make_config(facts), facts, {})
    changed = flags.dataclasses.replace(facts, fingerprint="other", **changes)
    with pytest.raises(Refused, match=message):
        runs.check_same(make_config(facts), changed, tmp_path)


def test_the_newest_three_checkpoints_are_kept_and_named_as_tensorflow_does(tmp_path):
    import tensorflow as tf

    for state in (9, 100, 20, 3):
        for ending in ("index", "data-00000-of-00001"):
            (tmp_path / f"ckpt-{state}.{ending}").touch()
    (tmp_path / "ckpt-5.index.damaged").touch()
    runs.keep_newest(tmp_path, 3)
    assert [state for state, _ in runs.list_checkpoints(tmp_path)] == [100, 20, 9]
    assert not list(tmp_path.glob("ckpt-3.*"))
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "ckpt-100")
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert [os.path.basename(p) for p in state.all_model_checkpoint_paths] == [
        "ckpt-9",
        "ckpt-20",
        "ckpt-100",
    ]
