"""A run of an older version goes on: with its pictures, and with flags that it does not know."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT

import config as flags
import model
import utils
from run import description
from system.flags import flag

OLD = (
    "--train --data_dir data --dataset squares --input_fname_pattern *.bmp --output_height 4"
    " --batch_size 4 --arch symmetric --sample_every 2 --save_every 4 --log_every 2"
)


def bmp(pixels):
    """Return the bytes of a BMP file of uint8 pixels [H, W, 3], W a multiple of 4."""
    height, width, _ = pixels.shape
    sizes = np.array([40, width, height, 1 + (24 << 16)], "<u4").tobytes()
    offset = np.array([0, 54], "<u4").tobytes()
    body = pixels[::-1, :, ::-1].tobytes()
    return b"BM" + (54 + len(body)).to_bytes(4, "little") + offset + sizes + bytes(24) + body


@pytest.fixture
def old_run(tmp_path):
    """A copy of the run that version 1.0 left at iteration 4, with its data."""
    shutil.copytree(ROOT / "tests/run/run_of_1.0", tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "data/squares"
    folder.mkdir(parents=True)
    for i in range(24):
        pixels = (np.arange(48) * 37 + i * 101) % 256
        (folder / f"{i:02d}.bmp").write_bytes(bmp(pixels.astype(np.uint8).reshape(4, 4, 3)))
    return tmp_path


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_of_the_first_version_goes_on_with_its_pictures(here, old_run, monkeypatch, number):
    monkeypatch.setattr(model, "ARITHMETIC", number)
    code, screen, errors = here(f"{OLD} --max_iterations 6")
    assert (code, errors) == (0, "") and "Going on from iteration 4 of 6" in screen
    changed = re.findall("another version of this program.*: it goes on, with other", screen)
    assert len(changed) == number - 1
    grids = [path.name for _, path in utils.list_grids(old_run / "samples")]
    assert grids == [f"train_{epoch:02d}_0000.png" for epoch in range(4)]
    described = json.loads((old_run / "checkpoint/squares_4_4_4/config.json").read_text())
    assert described["environment"]["arithmetic"] == number
    assert "it goes on, with other" not in here(f"{OLD} --max_iterations 8")[1]


@pytest.fixture
def spice(monkeypatch):
    """A flag that a later version adds."""
    field = flag(0.5, flags.ALGORITHM, "how much of it", before=0.0)
    later = dataclasses.make_dataclass(
        "Config", [("spice", float, field)], bases=(flags.Config,), frozen=True
    )
    for module in (flags, description):
        monkeypatch.setattr(module, "Config", later)
    monkeypatch.setitem(flags.FLAGS, "spice", later.__dataclass_fields__["spice"])


def test_a_later_flag_does_not_make_another_run_of_an_older_one(here, old_run, spice):
    for end in (6, 8):
        code, _, errors = here(f"{OLD} --max_iterations {end}")
        assert code == 2 and "spice is 0.0 in the run and 0.5 here" in errors
        code, screen, errors = here(f"{OLD} --max_iterations {end} --spice 0")
        assert (code, errors) == (0, "") and "of another run" not in screen
    assert len(utils.list_grids(old_run / "samples")) == 5
