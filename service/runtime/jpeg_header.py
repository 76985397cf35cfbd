"""What a JPEG says before its pixels: its size, its channels and which way up it is.

Reads where the segments lie and passes over what is in them: 5 us where Pillow, which parses every one, takes 90.
Answers None for whatever is not as the specifications' common case has it: then Pillow decides what it is, and finds
the words if it is broken. Decodes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\xff\xd8\xff"

# Start of frame: baseline, extended, progressive (ITU-T T.81, table B.1). Others are rare; Pillow knows which it takes.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_NO_FRAMES = frozenset({0xC4, *range(0xDB, 0xF0), 0xFE})
"""Segments that may come before: tables, restart interval, applications' own, comments."""
_NOTES = 0xE1  # APP1, which EXIF and XMP are in
_SCAN = 0xDA
_SEGMENTS_MAX = 64
_FRAME = struct.Struct(">BHHB")

_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_SILENT = 0  # no value that is defined
_SHORT = 3
_ENDIAN = {b"II*\0": "<", b"MM\0*": ">"}
# TIFF 6.0, section 2 (1 to 12): the type of an entry to the bytes of one value.
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size in pixels, as stored; `channels` 1 (grey), 3 or 4 (for print).

    `notes`: where its APP1 segments lie. `end`: where the frame header ends.
    """

    width: int
    height: int
    channels: int
    notes: tuple[slice, ...]
    end: int


def read(data: bytes) -> JpegHeader | None:
    """Find the frame header (ITU-T T.81, sections B.1.1 and B.2.2), passing over the segments before it."""
    if not data.startswith(SIGNATURE):
        return None
    notes: tuple[slice, ...] = ()
    for marker, start, end in _segments(data, 2):
        if marker in _FRAMES:
            if len(data) < start + _FRAME.size:
                return None
            precision, height, width, channels = _FRAME.unpack_from(data, start)
            is_common = precision == 8 and channels in {1, 3, 4} and height and width
            return JpegHeader(width, height, channels, notes, end) if is_common else None
        if marker not in _NO_FRAMES:
            return None
        if marker == _NOTES:
            notes = (*notes, slice(start, end))
    return None


def leads_to_a_scan(data: bytes, header: JpegHeader) -> bool:
    """Whether nothing but tables and comments is between the frame header and the first scan."""
    for marker, _, _ in _segments(data, header.end):
        if marker == _SCAN:
            return True
        if marker not in _NO_FRAMES or marker == _NOTES:
            return False
    return False


def orientation(data: bytes, header: JpegHeader) -> int | None:
    """EXIF orientation of `data`, whose header is given; 1 (upright) where nothing says otherwise.

    None where Pillow has to say: the block is malformed or in several parts, or is silent and XMP is not.
    """
    exif = [data[note] for note in header.notes if data.startswith(_EXIF, note.start)]
    if len(exif) > 1:
        return None
    found = _of_exif(exif[0][len(_EXIF) :]) if exif else _SILENT
    if found != _SILENT:
        return found
    is_in_xmp = any(data.find(b"Orientation", note.start, note.stop) >= 0 for note in header.notes)
    return None if is_in_xmp else 1


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Marker, and where what follows its length begins and ends, as far as one segment follows another."""
    for _ in range(_SEGMENTS_MAX):
        if len(data) < at + 4 or data[at] != 0xFF:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at + 4, end
        at = end


def _of_exif(tiff: bytes) -> int | None:
    try:
        return _of_first_directory(tiff)
    except (struct.error, KeyError):
        return None


def _of_first_directory(tiff: bytes) -> int | None:
    """The tag's value (TIFF 6.0, section 2), if it is there; like Pillow, giving up at a value that is not there.

    Raises:
        struct.error: the directory is cut off.
        KeyError: no TIFF, or an entry of a type that it does not have.
    """
    endian = _ENDIAN[tiff[:4]]
    (start,) = struct.unpack_from(endian + "I", tiff, 4)
    (count,) = struct.unpack_from(endian + "H", tiff, start)
    end = start + 2 + 12 * count
    struct.unpack_from(endian + "I", tiff, end)  # the place of the next one: this one is whole
    elsewhere = 0
    for tag, kind, values, field in struct.iter_unpack(endian + "HHII", tiff[start + 2 : end]):
        if tag == _ORIENTATION:
            # A short is the two bytes at the left of the field's four.
            value: int = field & 0xFFFF if endian == "<" else field >> 16
            return value if (kind, values) == (_SHORT, 1) else None
        size = values * _TYPE_BYTES[kind]
        if size > 4:
            elsewhere += size
            if field + size > len(tiff) or elsewhere > len(tiff):
                return None
    return _SILENT
