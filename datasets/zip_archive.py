"""A zip archive of image files, read in place, as a Listing. Nothing is ever unpacked to disk."""

import contextlib
import io
import os
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets import listing
from system.errors import Refused

MEMBER_MAX = 2**28  # bytes of a member, packed or not; it is read into memory whole
END_MAX = 2**16 + 2**10  # bytes in which the end of an archive lies, with its comment
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of name and extra field
ENCRYPTED, UTF8 = 0x1, 0x800  # flags
FROM_DOS = 0  # a system that may write names with backslashes
DAMAGE = (
    *(zipfile.BadZipFile, NotImplementedError, OSError),
    *(ValueError, OverflowError, struct.error),
)


@dataclass(frozen=True)
class ZipArchive:
    """The members of the archive `path` that match `pattern`; hidden ones are left out."""

    path: Path
    pattern: str

    format = "zip"

    @property
    def stamp(self):
        """Name the state of the archive, without reading it: its size and time."""
        status = self.path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    @contextlib.contextmanager
    def listed(self):
        """Give the Listing, which can be read as long as the context is open. Raises Refused."""
        with open(self.path, "rb") as file:
            number = file.fileno()
            members = {}
            found = listing.pick(entries(file, self.path), self.pattern, self.path)
            for name, (member, start) in found:
                check_member(member, name, members, self.path)
                members[name] = where_it_is(member, start)

            def read_table(name):
                try:
                    return read_member(number, *members[name])
                except (OSError, ValueError, zlib.error) as error:
                    raise Refused(f"{self.path / name}: {error}; make the archive anew") from None

            names, labels, class_names = listing.arrange(members, self.path, read_table)
            check_case(names, self.path)
            places = np.array([members[name] for name in names], np.int64)
            members.clear()  # the array takes a tenth of the memory
            yield listing.Listing(
                names,
                places[:, 2].tolist(),
                labels,
                class_names,
                lambda i: io.BytesIO(read_member(number, *places[i].tolist())),
            )


def entries(file, path):
    """Yield (name, (ZipInfo, offset of the content)) of an archive's files, but for hidden ones."""
    for member, start in open_archive(file, path):
        name = member.filename
        if member.create_system == FROM_DOS:
            name = name.replace("\\", "/")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        hidden = any(listing.is_hidden(part) for part in parts if part != "..")
        if not name.endswith("/") and not hidden:
            yield "/" * name.startswith("/") + "/".join(parts), (member, start)


def open_archive(file, path):
    """Return [(ZipInfo, offset of the content)] of all that an archive holds. Raises Refused.

    Names without a mark are UTF-8, as macOS writes them, or else DOS' own.
    """
    try:
        try:
            archive = zipfile.ZipFile(file, metadata_encoding="utf-8")
        except UnicodeDecodeError:
            archive = zipfile.ZipFile(file)
        members, encoding = archive.infolist(), archive.metadata_encoding or "cp437"
        check_count(file, len(members))
        return [(member, find_content(file.fileno(), member, encoding)) for member in members]
    except DAMAGE as error:
        raise Refused(f"{path}: not a whole zip archive ({error}); fetch it again") from None


def check_count(file, found):
    """Raise BadZipFile unless as many entries were found as the end of an archive tells.

    zipfile does not look, and may leave out those after a damaged one. The end has 16 bits for the
    number; programs that count further write it once more, in 64 bits, before that.
    """
    file.seek(max(0, file.seek(0, io.SEEK_END) - END_MAX))
    end, _, last = file.read().rpartition(b"PK\5\6")
    (told,) = struct.unpack_from("<H", last, 6)
    if told == 2**16 - 1 and b"PK\6\6" in end:
        (told,) = struct.unpack_from("<Q", end.rpartition(b"PK\6\6")[2], 28)
    if (found - told) % 2**16:
        raise zipfile.BadZipFile(f"{found} of {told} entries")


def find_content(number, member, encoding):
    """Return the offset of a member's content in an open archive, file `number`.

    Raises BadZipFile unless the header before it has the name that the directory gives. A damaged
    name in the directory could otherwise leave an image out, or add a class, without a message.
    """
    utf8 = member.flag_bits & UTF8
    name = member.orig_filename.encode("utf-8" if utf8 else encoding)
    header = os.pread(number, LOCAL_HEADER.size + len(name), member.header_offset)
    if len(header) == LOCAL_HEADER.size + len(name) and header.endswith(name):
        signature, length, extra = LOCAL_HEADER.unpack_from(header)
        if signature == b"PK\3\4" and length == len(name):
            return member.header_offset + len(header) + extra
    raise zipfile.BadZipFile(f"{member.orig_filename} is not at its place")


def check_member(member, name, known, path):
    """Refuse a member that cannot be read, or whose name is strange or in `known`."""
    fault = None
    if name.startswith("/") or re.match("[A-Za-z]:", name) or ".." in name.split("/"):
        fault = "leads out of the archive"
    elif name in known:
        fault = "is there twice"
    elif member.flag_bits & ENCRYPTED:
        fault = "is encrypted"
    elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        fault = f"is packed by method {member.compress_type}; expected deflated or stored"
    if fault:
        raise Refused(f"{path}: {name} {fault}; make the archive anew")


def check_case(names, path):
    """Refuse names of which a folder could not hold both on every system."""
    known, places = {}, set(names)
    for folder in {name.rpartition("/")[0] for name in names}:
        while folder:
            places.add(folder)
            folder = folder.rpartition("/")[0]
    for name in sorted(places):
        twin = known.setdefault(name.casefold(), name)
        if twin != name:
            raise Refused(f"{path}: {twin} and {name} differ only in case; rename one")


def where_it_is(member, start):
    """Return what `read_member` takes for a member; sizes beyond any file stay beyond."""
    sizes = member.compress_size, member.file_size
    return start, *(min(size, 2**62) for size in sizes), member.CRC, member.compress_type


def read_member(number, start, packed, size, checksum, method):
    """Return the bytes of a member of an open archive, file `number`; works in any thread.

    Raises ValueError or zlib.error where it is damaged or too large.
    """
    if max(packed, size) > MEMBER_MAX:
        raise ValueError(f"{max(packed, size)} bytes, at most {MEMBER_MAX} are read")
    content = os.pread(number, packed, start)
    if method == zipfile.ZIP_DEFLATED:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if len(content) != size:
        raise ValueError("cut short" if len(content) < size else f"more than its {size} bytes")
    if zlib.crc32(content) != checksum:
        raise ValueError("bad checksum")
    return content
