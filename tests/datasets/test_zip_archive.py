"""Zip archives that are damaged, odd, or made to harm."""

import os
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from archives import bad_files, files, jpg, load, write_zip
from conftest import assert_refused

from datasets import zip_archive
from system import screen
from system.errors import Refused


def change(path, old, new):
    """Replace bytes in a file, each time."""
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def marked(name, flag=0x1):
    """Return a member that is called encrypted in the archive's directory."""

    def mark(path):
        write_zip(path, files())
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\1\2")
        content[at + 8] |= flag
        path.write_bytes(content)

    return mark


def flip_comment_length(path):
    """Have the 20th entry of an archive's directory swallow those after it."""
    content = bytearray(path.read_bytes())
    at = 0
    for _ in range(20):
        at = content.index(b"PK\1\2", at + 1)
    content[at + 33] |= 0x80
    path.write_bytes(content)


def spoil_header(path):
    content = write_zip(path, files()).read_bytes()
    path.write_bytes(b"XX" + content[2:])


def rename_in_directory(path):
    """Give the last member, in the archive's directory alone, a name that the pattern passes by."""
    head, _, tail = write_zip(path, files()).read_bytes().rpartition(b"029.jpg")
    path.write_bytes(head + b"029.jpq" + tail)


REFUSED = {
    "no archive": (lambda path: path.write_bytes(jpg()), "not a whole zip archive"),
    "empty": (lambda path: path.write_bytes(b""), "not a whole zip archive"),
    "cut short": (
        lambda path: path.write_bytes(write_zip(path, files()).read_bytes()[:-200]),
        "not a whole zip archive",
    ),
    "a bit flipped": (
        lambda path: flip_comment_length(write_zip(path, files())),
        r"not a whole zip archive \(20 of 30 entries\)",
    ),
    "header": (spoil_header, r"not a whole zip archive \(000\.jpg is not at its place\)"),
    "another name": (rename_in_directory, r"archive \(029\.jpq is not at its place\); fetch it"),
    "encrypted": (marked("000.jpg"), r"photos\.zip: 000\.jpg is encrypted; make the archive anew"),
    "absolute": (
        lambda path: write_zip(path, files(name="/tmp/{}.jpg")),
        r"/tmp/0\.jpg leads out of the archive",
    ),
    "drive": (lambda path: write_zip(path, files(name="C:/{}.jpg")), "leads out of the archive"),
    "above": (
        lambda path: write_zip(path, files(name="a/../../../{}.jpg")),
        r"a/\.\./\.\./\.\./0\.jpg leads out of the archive",
    ),
    "case": (
        lambda path: write_zip(
            path, files(name="c/{}.jpg") | dict.fromkeys(("a/B.jpg", "A/b.jpg"), jpg())
        ),
        r"A and a differ only in case; rename one",
    ),
    "case of a folder": (
        lambda path: write_zip(path, files(name="a/{}.jpg") | files(name="A/x{}.jpg")),
        "A and a differ only in case",
    ),
    "method": (
        lambda path: write_zip(path, files(), zipfile.ZIP_LZMA),
        "is packed by method 14; expected deflated or stored",
    ),
    "no images": (
        lambda path: write_zip(path, {"x/data.mdb": b""}),
        "unpack the folder of its data.mdb into",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_that_cannot_be_read_is_refused_in_one_line(here, tmp_path, name):
    write, message = REFUSED[name]
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/photos.zip")
    before = (tmp_path / "data/photos.zip").read_bytes()
    with pytest.raises(Refused, match=message):
        load(tmp_path / "data")
    assert_refused(here, "--train --dataset photos --output_height 8", "data/photos.zip")
    assert (tmp_path / "data/photos.zip").read_bytes() == before
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert {n for n in names if not n.endswith(".lock")} == {
        "data",
        "data/photos.zip",
        "data/.cache",
    }


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "photos.zip", files() | {"two.jpg": jpg()})
    change(path, b"two.jpg", b"000.jpg")
    with pytest.raises(Refused, match=r"000\.jpg is there twice"):
        load(tmp_path)


def swap_checksum(path):
    """Give the first member another checksum in the directory."""
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 16] ^= 1
    path.write_bytes(content)


def claim_size(size):
    def claim(path):
        content = bytearray(path.read_bytes())
        at = content.index(b"PK\1\2") + 24
        content[at : at + 4] = struct.pack("<I", size)
        path.write_bytes(content)

    return claim


def spoil_content(path):
    content = bytearray(path.read_bytes())
    content[37:90] = bytes(53)
    path.write_bytes(content)


BAD = {
    "checksum": (swap_checksum, "000.jpg: ValueError: bad checksum"),
    "gigabytes": (claim_size(3 << 30), "000.jpg: ValueError: 3221225472 bytes, at most 268435456"),
    "less": (claim_size(100), "000.jpg: ValueError: more than its 100 bytes"),
    "more": (claim_size(100_000), "000.jpg: ValueError: cut short"),
    "content": (spoil_content, "000.jpg: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_member_is_a_line_in_bad_files(tmp_path, name):
    spoil, message = BAD[name]
    path = write_zip(tmp_path / "photos.zip", files())
    spoil(path)
    data = load(tmp_path)
    assert len(data.images) == 29
    assert bad_files(tmp_path).startswith(message) and bad_files(tmp_path).count("\n") == 1


def test_a_member_is_not_unpacked_beyond_what_it_claims(tmp_path):
    members = files() | {"bomb.jpg": bytes(64 << 20)}
    path = write_zip(tmp_path / "photos.zip", members)
    assert path.stat().st_size < 200_000
    change(path, struct.pack("<I", 64 << 20), struct.pack("<I", 1000))
    tracemalloc.start()
    data = load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert len(data.images) == 30
    assert bad_files(tmp_path) == "bomb.jpg: ValueError: more than its 1000 bytes\n"


def test_rubbish_instead_of_an_archive_ends_in_refusals(tmp_path, capsys):
    rng, whole = np.random.default_rng(0), write_zip(tmp_path / "x", files(4)).read_bytes()
    directory = whole.index(b"PK\1\2")
    for _ in range(300):
        spoilt = bytearray(whole)
        for at in rng.integers(directory, len(whole), rng.integers(1, 20)):
            spoilt[at] = rng.integers(256)
        (tmp_path / "photos.zip").write_bytes(spoilt)
        try:
            assert len(load(tmp_path).images) <= 4
        except Refused as refusal:
            screen.complain(refusal)
            assert capsys.readouterr().err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {".cache", "photos.zip", "x"}


def test_a_changed_byte_in_the_directory_changes_no_image_and_no_class_in_silence(tmp_path, capsys):
    path = write_zip(
        tmp_path / "photos.zip", files(20, "cats/{:02d}.jpg") | files(20, "dogs/{:02d}.jpg")
    )
    rng, whole, facts = np.random.default_rng(0), path.read_bytes(), load(tmp_path).facts
    for i, at in enumerate(rng.integers(whole.index(b"PK\1\2"), len(whole), 100)):
        spoilt = bytearray(whole)
        spoilt[at] ^= rng.integers(1, 256)
        path.write_bytes(spoilt)
        os.utime(path, (i, i))
        try:
            found = load(tmp_path).facts
        except Refused:
            continue
        assert found == facts or "left out" in capsys.readouterr().out, at


def test_names_of_macos_and_of_old_windows_are_read(tmp_path):
    path = write_zip(tmp_path / "photos.zip", files(name="caf@/{}.jpg") | files(name="b^/{}.jpg"))
    change(path, b"caf@", b"caf\xe9")  # in DOS' own code
    assert load(tmp_path).facts.class_names == ("b^", "cafΘ")
    change(path, b"f\xe9", b"\xc3\xa9")  # UTF-8 without a mark, as macOS writes it
    assert load(tmp_path).facts.class_names == ("b^", "caé")
    path = write_zip(tmp_path / "photos.zip", files(name="a|{}.jpg") | files(name="b|{}.jpg"))
    change(path, b"|", b"\\")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\1\2\x14\x03", b"PK\1\2\x14\x00"))  # made by DOS
    assert load(tmp_path).facts.class_names == ("a", "b")


def test_an_archive_with_something_before_it_is_read(tmp_path):
    path = write_zip(tmp_path / "photos.zip", files(), zipfile.ZIP_STORED)
    whole = load(tmp_path).facts.pixels
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())
    assert load(tmp_path).facts.pixels == whole


def test_one_archive_serves_several_threads(tmp_path):
    path = write_zip(tmp_path / "photos.zip", files(500))
    with zip_archive.ZipArchive(path, "*.jpg").listed() as listed, ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: listed.read(i).read(), [*range(500)] * 4))
    assert read == [*files(500).values()] * 4
