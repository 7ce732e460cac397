"""Tell by a recording's own framing whether it is truncated, as by an interrupted upload, and how long it is.

Half a transcript that looks complete is worse than an error, so truncated recordings are refused. The rule:
what a header declares must be there. Streamed recordings declare no size, or a placeholder (a WAV of size 0,
all ones or two billion bytes, a WebM of unknown size), and are accepted as they are. So is a shortfall of a
header's length, which some recorders count by mistake. MP3 is checked in `serve.audio.mpeg`, and FLAC while
it is decoded.

Written by hand, because decoders return the rest of a truncated recording without an error, and spend
minutes on headers or pages that are made for it. So every walk here is linear and has a bound on its steps.

Formats: RIFF and RF64 (EBU Tech 3306), ISO 14496-12 boxes, EBML (RFC 8794) and Ogg pages (RFC 3533).
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from serve.audio.container import AIFF, MATROSKA, MP4, OGG, W64, WAV, Container
from serve.errors import UndecodableAudio

WAV_SLACK_BYTES = 256
WAV_UNKNOWN_BYTES = 0x7FFF_0000  # recorders that cannot seek back write a size near 2 or 4 GiB,
WAV_LARGE_BYTES = 100_000_000  # or another round number from here on
WAV_HEADER_BYTES = 128
WAV_EXTENSIBLE = 0xFFFE
MAX_CHUNKS = 1_024  # of a WAV, Wave64 or AIFF, up to its samples
MAX_BOXES = 200_000  # of an MP4: four hours in fragments of a sixth of a second
MAX_DAMAGES = 64  # places in an Ogg file that are no page
MAX_EMPTY_PAGES = 4_096
OGG_HEAD_BYTES = 27
OPUS_HZ = 48_000  # the clock of Opus in Ogg, whatever the sound was sampled at
PAGES_BETWEEN_CHECKS = 1_024
FLAC_COMMENT_BYTES = 1 << 16  # searched for comments
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
FLAC_SPEAKER_MASKS = {3: 0x007, 4: 0x033, 5: 0x037, 6: 0x03F, 7: 0x70F, 8: 0x63F}


def check_whole(data: bytes, container: Container) -> None:
    """Refuse a truncated WAV, Wave64, MP4, Matroska or Ogg recording, and an AIFF of countless chunks.

    Raises:
        UndecodableAudio: The file ends before its framing says so, or has too many parts.
    """
    is_cut = {
        WAV: _wav_is_cut,
        W64: _w64_is_cut,
        MP4: _mp4_is_cut,
        MATROSKA: _matroska_is_cut,
        OGG: _ogg_is_cut,
        AIFF: _has_too_many_chunks,
    }.get(container)
    if is_cut is not None and is_cut(data):
        raise UndecodableAudio(f"the {container.name} recording is cut off: it announces more than was sent")


def _wav_is_cut(data: bytes) -> bool:
    header = read_wav_header(data)
    if header is None or header.data_bytes is None:
        return False
    is_short = header.data_bytes > len(data) - header.data_offset + WAV_SLACK_BYTES
    # If the file has the declared RIFF size, only the size of the samples is wrong.
    return is_short and abs(header.riff_bytes + 8 - len(data)) > WAV_SLACK_BYTES


def has_hidden_size(data: bytes) -> bool:
    """Tell whether a WAV declares 0 samples but holds some, as after an interrupted recording."""
    header = read_wav_header(data)
    if header is None or header.data_bytes != 0 or len(data) < header.data_offset + 8:
        return False
    name, size = struct.unpack_from("<4sI", data, header.data_offset)
    is_chunk = name.strip().isalnum() and header.data_offset + 8 + size <= len(data)
    return not is_chunk


def with_size_filled_in(data: bytes, container: Container) -> bytes:
    """Fill in a missing 64-bit size of a WAV or Wave64, so that decoders read the whole file."""
    if container is WAV and data.startswith((b"RF64", b"BW64")):
        header = read_wav_header(data)
        return (
            data if header is None or header.data_bytes else b"RIFF" + data[4:]
        )  # size of all ones: unknown
    if container is W64 and (at := _w64_data(data)) is not None:
        (size,) = struct.unpack_from("<16xQ", data, at)
        if size <= 24 or _stands_for_unknown(size):
            return data[: at + 16] + struct.pack("<Q", len(data) - at) + data[at + 24 :]
    return data


@dataclass(frozen=True, kw_only=True)
class WavHeader:
    """The header of a WAV file."""

    riff_bytes: int
    """Declared size of what follows the first eight bytes."""
    sample_rate: int
    """Hz."""
    n_channels: int
    speaker_mask: int
    """Speaker mask of WAVEFORMATEXTENSIBLE; 0 where there is none."""
    data_offset: int
    """Offset of the first sample."""
    data_bytes: int | None
    """Declared size of the samples; None where it is a placeholder."""


def read_wav_header(data: bytes) -> WavHeader | None:
    """Read a WAV header; None where these bytes do not reach the samples."""
    byte_order = ">" if data.startswith(b"RIFX") else "<"
    (riff_bytes,) = struct.unpack_from(f"{byte_order}I", data, 4) if len(data) >= 8 else (0,)
    size_64 = None
    tag = n_channels = sample_rate = speaker_mask = 0
    offset, n_chunks = 12, 0
    while offset + 8 <= len(data):
        name, size = struct.unpack_from(f"{byte_order}4sI", data, offset)
        offset += 8
        n_chunks = _counted(n_chunks, MAX_CHUNKS)
        if name == b"ds64" and offset + 16 <= len(data):
            size_64 = struct.unpack_from("<8xQ", data, offset)[0]
        if name == b"fmt " and size >= 16 and offset + 16 <= len(data):
            tag, n_channels, sample_rate = struct.unpack_from(f"{byte_order}HHI", data, offset)
            if tag == WAV_EXTENSIBLE and size >= 24 and offset + 24 <= len(data):
                (speaker_mask,) = struct.unpack_from(f"{byte_order}I", data, offset + 20)
        if name == b"data":
            announced = size_64 if size == 0xFFFF_FFFF and size_64 is not None else size
            return WavHeader(
                riff_bytes=riff_bytes,
                sample_rate=sample_rate,
                n_channels=n_channels,
                speaker_mask=speaker_mask,
                data_offset=offset,
                data_bytes=None if _stands_for_unknown(announced) else announced,
            )
        offset += size + size % 2
    return None


def _counted(n: int, limit: int) -> int:
    """Count a part of a file.

    Raises:
        UndecodableAudio: There are too many.
    """
    if n >= limit:
        raise UndecodableAudio(f"the recording has more than {limit} parts before its sound")
    return n + 1


def _has_too_many_chunks(data: bytes) -> bool:
    """Walk an AIFF up to its samples; return False."""
    offset, n_chunks = 12, 0
    while offset + 8 <= len(data) and not data.startswith(b"SSND", offset):
        (size,) = struct.unpack_from(">4xI", data, offset)
        offset += 8 + size + size % 2
        n_chunks = _counted(n_chunks, MAX_CHUNKS)
    return False


def _stands_for_unknown(n_bytes: int) -> bool:
    """Tell whether a size is a placeholder: near 2 or 4 GiB, or large and round.

    Round is a multiple of a million or of a MiB, minus at most the header, which some recorders count in.
    """
    if n_bytes >= WAV_LARGE_BYTES and any(-n_bytes % unit <= WAV_HEADER_BYTES for unit in (10**6, 1 << 20)):
        return True
    return WAV_UNKNOWN_BYTES <= n_bytes <= 0xFFFF_FFFF or n_bytes >= 1 << 62


def _w64_is_cut(data: bytes) -> bool:
    at = _w64_data(data)
    return at is not None and at + struct.unpack_from("<16xQ", data, at)[0] > len(data) + WAV_SLACK_BYTES


def _w64_data(data: bytes) -> int | None:
    """Return the offset of a Wave64's data chunk."""
    offset, n_chunks = 40, 0  # after the GUIDs of file and format, and the file's size
    while offset + 24 <= len(data):
        n_chunks = _counted(n_chunks, MAX_CHUNKS)
        if data.startswith(b"data", offset):
            return offset
        (size,) = struct.unpack_from("<16xQ", data, offset)
        offset += max(24, size + -size % 8)
    return None


def _mp4_is_cut(data: bytes) -> bool:
    offset = n_boxes = 0
    has_index = False
    while offset + 8 <= len(data):
        n_boxes = _counted(n_boxes, MAX_BOXES)
        size, name = struct.unpack_from(">I4s", data, offset)
        if size == 1 and offset + 16 <= len(data):
            size = struct.unpack_from(">Q", data, offset + 8)[0]
        if name in (b"moov", b"moof", b"mdat") and offset + size > len(data):
            return True
        has_index |= name == b"moov"
        if size < 8:  # 0 means "to the end"; less than 8 is no box
            break
        offset += size
    return not has_index


def mp4_sound_s(data: bytes) -> float:
    """Return how much sound the index of an MP4 lists, in seconds: the least of its audio tracks, 0 for none.

    A gap between two packets does not count, so a packet counts for a second at most.
    """
    found = []
    for track in _boxes(data, 0, len(data), (b"moov", b"trak")):
        media = list(_boxes(data, *track, (b"mdia",)))
        kinds = [box for part in media for box in _boxes(data, *part, (b"hdlr",))]
        heads = [box for part in media for box in _boxes(data, *part, (b"mdhd",))]
        if not heads or not any(data[start + 8 : start + 12] == b"soun" for start, _ in kinds):
            continue
        start, end = heads[0]
        at = start + (20 if data[start : start + 1] == b"\x01" else 12)
        per_s = int.from_bytes(data[at : min(end, at + 4)], "big")
        tables = [box for part in media for box in _boxes(data, *part, (b"minf", b"stbl", b"stts"))]
        counted = sum(_counted_units(memoryview(data)[start + 8 : end], per_s) for start, end in tables)
        found.append(counted / max(1, per_s))
    return min(found, default=0.0)


def _counted_units(table: memoryview, longest: int) -> int:
    """Return the sum of packets times their length, from (packets, length) pairs."""
    n_pairs = min(len(table) // 8, MAX_BOXES)
    pairs = np.frombuffer(table[: 8 * n_pairs], ">u4").reshape(-1, 2).astype(object)
    return sum(packets * min(length, longest) for packets, length in pairs)


def _boxes(data: bytes, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Yield where the contents of all boxes with this path begin and end."""
    n_boxes = 0
    while start + 8 <= end:
        n_boxes = _counted(n_boxes, MAX_BOXES)
        size, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        last = end if size == 0 else min(end, start + size)
        if last < start + head:
            return
        if name == path[0]:
            inside = (start + head, last)
            yield from _boxes(data, *inside, path[1:]) if path[1:] else (inside,)
        start = last


def _matroska_is_cut(data: bytes) -> bool:
    offset = 0
    for wanted in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, Segment
        if not data.startswith(wanted, offset):
            return False  # padding or an unknown order: let the decoder decide
        offset += 4
        if offset >= len(data):
            return True
        n_bytes = 9 - data[offset].bit_length()
        mask = (1 << 7 * n_bytes) - 1
        size = int.from_bytes(data[offset : offset + n_bytes], "big") & mask
        if size == mask:
            return False  # unknown size: streamed
        offset += n_bytes + size
    return offset > len(data)


def _ogg_is_cut(data: bytes) -> bool:
    page = data.rfind(b"OggS")
    if page + 27 > len(data):
        return True
    body = page + 27 + data[page + 26]
    return body + sum(data[page + 27 : body]) > len(data)


@dataclass(frozen=True)
class OggPages:
    """What a walk over the pages of an Ogg file found."""

    n_streams: int
    """Streams that begin, chained or multiplexed."""
    is_intact: bool
    """Whether page follows page, each with the checksum that it states."""
    stated_s: float
    """Seconds of Opus or Vorbis by the pages' clock, from the first page to the last; 0 for other codecs."""


def walk_ogg(data: bytes, check: Callable[[], None] = lambda: None) -> OggPages:
    """Walk the pages of an Ogg file.

    A decoder that meets damage looks for the next page at every byte, and sums up to 64 KiB at each: minutes
    for a file that is made for it.

    Raises:
        UndecodableAudio: Too much of it is no page, or pages without content are too many.
        Exception: What `check` raises.
    """
    offset = n_pages = n_streams = n_damages = n_empty = 0
    clock = _OggClock()
    while 0 <= offset < len(data):
        n_pages += 1
        if n_pages % PAGES_BETWEEN_CHECKS == 0:
            check()
        end = _ogg_page_end(data, offset)
        if end is None:
            n_damages += 1
            offset = data.find(b"OggS", offset + 1)
        else:
            n_streams += data[offset + 5] >> 1 & 1
            n_empty += end == offset + OGG_HEAD_BYTES + data[offset + 26]
            clock.read(data, offset)
            offset = end
        if n_damages > MAX_DAMAGES or n_empty > MAX_EMPTY_PAGES:
            raise UndecodableAudio("the Ogg recording is damaged: too much of it is no sound")
    return OggPages(n_streams, n_damages == 0, clock.stated_s)


class _OggClock:
    """Adds up how long the streams of an Ogg file last that follow each other."""

    def __init__(self) -> None:
        self._over_s = self._link_s = 0.0  # of the streams before, and of those that run side by side now
        self._is_start = True
        self._rates: dict[int, int] = {}  # Hz by stream
        self._first: dict[int, int] = {}  # position by stream: one may have been cut out of a longer one

    @property
    def stated_s(self) -> float:
        return self._over_s + self._link_s

    def read(self, data: bytes, page: int) -> None:
        """Take a page's position in its stream, or a new stream's sample rate."""
        position, stream = struct.unpack_from("<qI", data, page + 6)
        is_start = bool(data[page + 5] & 2)
        if is_start:
            if not self._is_start:
                self._over_s, self._link_s = self.stated_s, 0.0
            packet = page + OGG_HEAD_BYTES + data[page + 26]
            self._rates.pop(stream, None)
            self._first.pop(stream, None)
            if data.startswith(b"OpusHead", packet):
                self._rates[stream] = OPUS_HZ
            elif data.startswith(b"\x01vorbis", packet) and packet + 16 <= len(data):
                self._rates[stream] = max(1, struct.unpack_from("<12xI", data, packet)[0])
        elif position > 0 and stream in self._rates:
            first = self._first.setdefault(stream, position)
            self._link_s = max(self._link_s, (position - first) / self._rates[stream])
        self._is_start = is_start


def _ogg_page_end(data: bytes, offset: int) -> int | None:
    """Return the offset after an Ogg page; None where there is none with the checksum that it states."""
    body = offset + OGG_HEAD_BYTES + (data[offset + 26] if len(data) > offset + 26 else 0)
    if not data.startswith(b"OggS\x00", offset) or body > len(data):
        return None
    end = body + sum(data[offset + OGG_HEAD_BYTES : body])
    # Ogg's checksum is zlib's with the bits of every byte in reverse, and nothing inverted.
    page = data[offset:end].translate(REVERSED_BITS)
    summed = zlib.crc32(page[:22], 0xFFFF_FFFF)
    summed = zlib.crc32(page[26:], zlib.crc32(bytes(4), summed)) ^ 0xFFFF_FFFF
    return end if summed == int.from_bytes(page[22:26], "big") and end <= len(data) else None


def flac_speaker_mask(data: bytes, n_channels: int) -> int:
    """Return a FLAC's speaker mask, from its comments or else by RFC 9639's channel order."""
    stated = re.search(rb"WAVEFORMATEXTENSIBLE_CHANNEL_MASK=0x([0-9a-fA-F]{1,8})", data[:FLAC_COMMENT_BYTES])
    return int(stated[1], 16) if stated else FLAC_SPEAKER_MASKS.get(n_channels, 0)
