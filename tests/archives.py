"""Data sets of grey images for tests: as folders, as zip archives, as databases."""

import io
import shutil
import zipfile
from pathlib import Path

import lmdb
from PIL import Image

import config as flags
from datasets import dataset


def source(data_dir, **values):
    values = {"dataset": "photos", "output_height": 8} | values
    return dataset.source_of(flags.Config(data_dir=str(data_dir), **values))


def load(data_dir, **values):
    return dataset.load(source(data_dir, **values))


def jpg(shade=100, size=(12, 12)):
    """Return a JPEG file of one grey."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade,) * 3).save(file, "JPEG")
    return file.getvalue()


def files(count=30, name="{:03d}.jpg"):
    """Return {name: JPEG}, each of another grey."""
    return {name.format(i): jpg(i * 3) for i in range(count)}


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_folder(path, members):
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)


def bad_files(data_dir):
    (path,) = (data_dir / ".cache").glob("photos-*/bad_files.txt")
    return path.read_text()


def zip_folder(folder, place, prefix=""):
    """Write a zip archive of what is in a folder, and remove that; members are in no order."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_file():
                archive.write(path, f"{prefix}{path.relative_to(folder).as_posix()}")
    shutil.rmtree(folder)


def write_database(folder, values):
    """Write a database as LSUN's: {key: encoded image}."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        lmdb.open(str(folder), map_size=1 << 24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in values.items():
            transaction.put(key.encode(), value)


def pack(folder, kind):
    """Turn a folder of images into a zip archive or into databases, or leave it a folder."""
    if kind == "zip":
        zip_folder(folder, Path(f"{folder}.zip"))
    if kind == "lmdb":
        values = {}
        for path in filter(Path.is_file, folder.rglob("*")):
            inner = f"{path.parent.name}_train_lmdb" if path.parent != folder else ""
            values.setdefault(inner, {})[path.name] = path.read_bytes()
        shutil.rmtree(folder)
        for inner, images in values.items():
            write_database(folder / inner, images)
