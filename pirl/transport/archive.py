"""Reads the container `torch.save` writes: a zip file of stored members, as data.

Owns the directory, its bounds and the CRCs; refuses to know what the members mean. Python's
`zipfile` is not used because it reads a whole directory before anybody can bound it. Read
`pirl.transport.stream` next.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

from pirl.errors import TransportError

_END = struct.Struct("<IHHHHIIH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_SATURATED = 0xFFFF
_ZIP64_RECORDS = 76
"""`torch.save` always adds both zip64 end records; they repeat the plain one and stay unread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Where one stored member's bytes lie in the message."""

    start: int
    size: int


def read_directory(message: bytearray, *, max_entries: int) -> dict[str, Member]:
    """Stored members by name without the top folder; checked against each other and their CRC.

    Raises:
        TransportError: not a plain zip file of stored members, or one of them is damaged.
    """
    end = len(message) - _END.size
    if end < 0:
        raise TransportError(f"archive of {len(message)} bytes is shorter than an empty one")
    signature, disk, cd_disk, here, count, cd_size, cd_start, comment = _END.unpack_from(
        message, end
    )
    if signature != 0x06054B50 or comment:
        raise TransportError("archive does not end with a plain end-of-directory record")
    gap = end - (cd_start + cd_size)
    if disk or cd_disk or here != count or count >= _SATURATED or gap not in (0, _ZIP64_RECORDS):
        raise TransportError(
            "archive directory is inconsistent (split, zip64-only or out of bounds)"
        )
    if count > max_entries:
        raise TransportError(f"archive has {count} members, at most {max_entries} may be")
    entries: dict[str, Member] = {}
    ranges: list[tuple[int, int]] = []
    position = cd_start
    for _ in range(count):
        if position + _CENTRAL.size > cd_start + cd_size:
            raise TransportError("archive directory is cut off")
        record = _CENTRAL.unpack_from(message, position)
        position += _CENTRAL.size + record[10] + record[11] + record[12]
        name_start = position - record[10] - record[11] - record[12]
        raw_name = bytes(message[name_start : name_start + record[10]])
        entry, header_start = _read_member(message, record, raw_name, data_end=cd_start)
        name = raw_name.decode("ascii", "replace").partition("/")[2]
        if name in entries:
            raise TransportError(f"archive names the member {name!r} twice")
        entries[name] = entry
        ranges.append((header_start, entry.start + entry.size))
    if position != cd_start + cd_size:
        raise TransportError("archive directory is longer than its members")
    ranges.sort()
    if any(first[1] > second[0] for first, second in pairwise(ranges)):
        raise TransportError("archive members overlap")
    return entries


def _read_member(
    message: bytearray, record: tuple[int, ...], raw_name: bytes, *, data_end: int
) -> tuple[Member, int]:
    """The member of one directory record and where its local header starts."""
    signature, flags, method = record[0], record[3], record[4]
    crc, packed, size, header = record[7], record[8], record[9], record[16]
    if signature != 0x02014B50:
        raise TransportError("archive directory record has a wrong signature")
    if method != 0 or packed != size:
        raise TransportError(
            f"archive member {raw_name[:80]!r} is compressed; only stored ones may be"
        )
    if flags & ~0x0808:
        raise TransportError(
            f"archive member {raw_name[:80]!r} has flags {flags:#x}; only 0x808 may be"
        )
    if header + _LOCAL.size > data_end:
        raise TransportError(f"archive member {raw_name[:80]!r} lies outside the archive")
    local = _LOCAL.unpack_from(message, header)
    start = header + _LOCAL.size + local[9] + local[10]
    if local[0] != 0x04034B50 or local[3] != 0 or start + size > data_end:
        raise TransportError(f"archive member {raw_name[:80]!r} lies outside the archive")
    name_start = header + _LOCAL.size
    if bytes(message[name_start : name_start + local[9]]) != raw_name:
        raise TransportError(f"archive member {raw_name[:80]!r} has two names")
    with memoryview(message) as view:
        if zlib.crc32(view[start : start + size]) != crc:
            raise TransportError(f"archive member {raw_name[:80]!r} is damaged (CRC differs)")
    return Member(start=start, size=size), header
