"""A zip archive of image files, read in place, as a Listing. Nothing is unpacked to disk."""

import contextlib
import io
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

import numpy as np

from datasets import listing
from system.errors import Refused

MEMBER_MAX = 2**28  # bytes of a member, packed or not; it is read into memory whole
END_MAX = 2**16 + 2**10  # bytes in which the end of an archive lies, with its comment
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of name and extra field
ENCRYPTED, UTF8 = 0x1, 0x800  # flags
FROM_DOS = 0  # a system that may write names with backslashes
DAMAGE = (BadZipFile, NotImplementedError, OSError, ValueError, OverflowError, struct.error)


@dataclass(frozen=True)
class ZipArchive:
    """The members of the archive `path` whose names match `pattern`, without hidden ones."""

    path: Path
    pattern: str

    format = "zip"

    @property
    def stamp(self):
        """Return the size and the time of the archive, which is not read."""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    @contextlib.contextmanager
    def listed(self):
        """Give the Listing, which can be read while the context is open. Raises Refused."""
        with open(self.path, "rb") as file:
            number = file.fileno()
            members = {}
            found = listing.pick(list_files(file, self.path), self.pattern, self.path)
            for name, (member, start) in found:
                check_member(member, name, members, self.path)
                sizes = member.compress_size, member.file_size
                members[name] = start, *sizes, member.CRC, member.compress_type

            names, labels, class_names = listing.arrange(
                members, self.path, lambda name: read_member(number, *members[name])
            )
            check_case(names, self.path)
            places = np.array([members[name] for name in names], np.uint64)
            members.clear()  # the array takes a tenth of the memory
            yield listing.Listing(
                names,
                places[:, 2].tolist(),
                labels,
                class_names,
                lambda i: io.BytesIO(read_member(number, *places[i].tolist())),
            )


def list_files(file, path):
    """Yield (name, (ZipInfo, offset of its content)) of an archive's files, without hidden ones.

    Names that no flag marks as UTF-8 are UTF-8, as macOS writes them, or else in DOS' code page.
    Raises Refused.
    """
    try:
        try:
            archive, encoding = ZipFile(file, metadata_encoding="utf-8"), "utf-8"
        except UnicodeDecodeError:
            archive, encoding = ZipFile(file), "cp437"
        members = archive.infolist()
        check_count(file, len(members))
        starts = [find_content(file.fileno(), member, encoding) for member in members]
    except DAMAGE as error:
        raise Refused(f"{path}: not a whole zip archive ({error}); fetch it again") from None
    for member, start in zip(members, starts, strict=True):
        name = member.filename
        if member.create_system == FROM_DOS:
            name = name.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        hidden = any(listing.is_hidden(part) for part in parts if part != "..")
        if not name.endswith("/") and not hidden:
            yield "/" * name.startswith("/") + "/".join(parts), (member, start)


def check_count(file, found):
    """Raise BadZipFile unless the archive's end gives `found` as the number of entries.

    zipfile does not look, and may skip the entries after a damaged one. The end has 16 bits for the
    number; a zip64 record before it has 64.
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - END_MAX))
    before, _, end = file.read().rpartition(b"PK\5\6")
    (expected,) = struct.unpack_from("<H", end, 6)
    if expected == 2**16 - 1 and b"PK\6\6" in before:
        (expected,) = struct.unpack_from("<Q", before.rpartition(b"PK\6\6")[2], 28)
    if (found - expected) % 2**16:  # some programs write the last 16 bits of a larger number
        raise BadZipFile(f"{found} of {expected} entries")


def find_content(number, member, encoding):
    """Return the offset of a member's content in an open archive, file `number`.

    Raises BadZipFile unless the header before the content has the name that the directory gives. A
    damaged name in the directory could otherwise skip an image or add a class without a message.
    """
    utf8 = member.flag_bits & UTF8
    name = member.orig_filename.encode("utf-8" if utf8 else encoding)
    header = os.pread(number, LOCAL_HEADER.size + len(name), member.header_offset)
    if len(header) == LOCAL_HEADER.size + len(name) and header.endswith(name):
        signature, length, extra = LOCAL_HEADER.unpack_from(header)
        if signature == b"PK\3\4" and length == len(name):
            return member.header_offset + len(header) + extra
    raise BadZipFile(f"{member.orig_filename} is not at its place")


def check_member(member, name, names, path):
    """Refuse a member that cannot be read, or whose name leads elsewhere or is in `names`."""
    fault = None
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        fault = "leads out of the archive"
    elif name in names:
        fault = "is there twice"
    elif member.flag_bits & ENCRYPTED:
        fault = "is encrypted"
    elif member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        fault = f"is packed by method {member.compress_type}; expected deflated or stored"
    if fault:
        raise Refused(f"{path}: {name} {fault}; make the archive anew")


def check_case(names, path):
    """Refuse files or folders whose names differ only in case: not every system can hold both."""
    places = set()
    for name in names:
        parts = name.split("/")
        places.update("/".join(parts[: k + 1]) for k in range(len(parts)))
    listing.check_twins(places, str.casefold, "case", path)


def read_member(number, start, packed, size, checksum, method):
    """Return the bytes of a member of an open archive, file `number`, in any thread.

    Raises ValueError or zlib.error where it is damaged or too large.
    """
    if max(packed, size) > MEMBER_MAX:
        raise ValueError(f"{max(packed, size)} bytes, at most {MEMBER_MAX} are read")
    content = os.pread(number, packed, start)
    if method == ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if len(content) != size:
        raise ValueError("cut short" if len(content) < size else f"more than its {size} bytes")
    if zlib.crc32(content) != checksum:
        raise ValueError("bad checksum")
    return content
