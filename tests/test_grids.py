"""Grids of a training that are none are refused before they are opened."""

import os
import subprocess
import sys
import zlib

import pytest
from conftest import ROOT
from PIL import Image


def write_bomb(path):
    """Write a PNG that says it has 3.6 thousand million pixels."""
    Image.new("L", (8, 8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (60000).to_bytes(4) * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    path.write_bytes(content)


@pytest.mark.parametrize("make", [os.mkfifo, write_bomb])
def test_a_grid_that_is_a_pipe_or_a_bomb_is_refused(tmp_path, make):
    make(tmp_path / "train_00_0000.png")
    words = [sys.executable, ROOT / "main.py", "--gif", "--sample_dir", tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "train_00_0000.png: cannot be read" in done.stderr
