"""Recognise a container by its first bytes alone; names and content types are not trusted.

The table is an allow-list. Playlists and other formats that refer to further files (HLS, DASH, concat, SDP)
are not in it, so no decoder ever opens such files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Container:
    name: str
    """Name shown to people."""
    demuxer: str
    """The only ffmpeg demuxer that may read it."""
    in_libsndfile: bool = False
    """Whether libsndfile reads its usual codecs, which is faster than a child process."""
    needs_seeking: bool = False
    """Whether its index may lie at the end, so that a pipe will not do."""
    has_clock: bool = False
    """Whether its tracks have timestamps, so that sound may start late or have gaps."""
    starts_anywhere: bool = False
    """Whether its clock may have any value at the start."""


WAV = Container(name="WAV", demuxer="wav", in_libsndfile=True)
W64 = Container(name="Wave64", demuxer="w64", in_libsndfile=True)
FLAC = Container(name="FLAC", demuxer="flac", in_libsndfile=True)
OGG = Container(name="Ogg", demuxer="ogg", in_libsndfile=True)
MP3 = Container(name="MP3", demuxer="mp3", in_libsndfile=True)
AIFF = Container(name="AIFF", demuxer="aiff", in_libsndfile=True)
AU = Container(name="AU", demuxer="au", in_libsndfile=True)
CAF = Container(name="CAF", demuxer="caf", needs_seeking=True)
MP4 = Container(name="MP4", demuxer="mov", needs_seeking=True, has_clock=True)
MATROSKA = Container(name="Matroska or WebM", demuxer="matroska", has_clock=True)
AVI = Container(name="AVI", demuxer="avi", needs_seeking=True, has_clock=True)
AAC = Container(name="AAC", demuxer="aac")
AMR = Container(name="AMR", demuxer="amr")
ASF = Container(name="ASF or WMA", demuxer="asf", has_clock=True, starts_anywhere=True)
MPEG_TS = Container(name="MPEG transport stream", demuxer="mpegts", has_clock=True, starts_anywhere=True)

EBML_HEAD = b"\x1a\x45\xdf\xa3"
"""First bytes of Matroska and WebM."""

_SIGNATURES: tuple[tuple[re.Pattern[bytes], Container], ...] = tuple(
    (re.compile(pattern, re.DOTALL), container)
    for pattern, container in (
        (rb"(RIFF|RF64|BW64|RIFX)....WAVE", WAV),
        (rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", W64),
        (rb"RIFF....AVI ", AVI),
        (rb"fLaC", FLAC),
        (rb"OggS", OGG),
        (rb"FORM....AIF[FC]", AIFF),
        (rb"\.snd", AU),
        (rb"caff\x00\x01", CAF),
        (rb"\x00...(ftyp|moov|wide|free|skip)|....mdat", MP4),
        (re.escape(EBML_HEAD), MATROSKA),
        (rb"#!AMR(-WB)?\n", AMR),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ASF),
        (rb"\x47.{187}\x47.{187}\x47", MPEG_TS),
        (rb"\xff[\xf0\xf1\xf8\xf9]", AAC),  # ADTS: twelve set bits, layer 0
        (rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]", MP3),  # eleven set bits, layer 1 to 3
    )
)


MAX_TAGS = 64
"""ID3v2 tags that are skipped, one after another."""


def sniff_container(data: bytes) -> Container | None:
    """Return the container; None where it is not supported."""
    start = id3v2_end(data)
    for signature, container in _SIGNATURES:
        if signature.match(data, start):
            return container
    return MP3 if start else None


def id3v2_end(data: bytes, offset: int = 0) -> int:
    """Return the offset after the ID3v2 tags at `offset`; `offset` itself where there are none."""
    for _ in range(MAX_TAGS):
        if len(data) < offset + 10 or data[offset : offset + 3] != b"ID3":
            break
        size = 0
        for byte in data[offset + 6 : offset + 10]:  # "synchsafe": seven bits per byte
            size = size << 7 | byte & 0x7F
        has_footer = data[offset + 5] & 0x10
        offset += 10 + size + (10 if has_footer else 0)
    return min(offset, len(data))
