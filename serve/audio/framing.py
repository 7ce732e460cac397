"""Whether a recording ends before its own framing says so: the sign of an upload that broke off.

Half a transcript that looks whole is worse than an error, so such bodies are refused. The rule: what a
header announces must be there. Recordings that were streamed announce nothing (a WAV whose sizes are 0 or all
ones, a WebM of unknown size) and are taken as they are; so is a shortfall of a header's length, which some
recorders count by mistake. MP3 is looked at in `serve.audio.mpeg`, and FLAC's total where it is decoded.

By hand, because decoders return what is left of a cut recording without a word.

Formats: RIFF and RF64 (EBU Tech 3306), ISO 14496-12 boxes, EBML (RFC 8794) and Ogg pages (RFC 3533).
"""

from __future__ import annotations

import re
import struct

from serve.audio.container import MATROSKA, MP4, OGG, WAV, Container
from serve.errors import UndecodableAudio

WAV_SLACK_BYTES = 256
WAV_UNKNOWN_BYTES = 0x7FFF_0000  # recorders that cannot seek back write a size near 2 or 4 GiB


def check_whole(data: bytes, container: Container) -> None:
    """Refuse a WAV, MP4, Matroska or Ogg recording that is cut off.

    Raises:
        UndecodableAudio: the body ends before its framing says so.
    """
    is_cut = {WAV: _wav_is_cut, MP4: _mp4_is_cut, MATROSKA: _matroska_is_cut, OGG: _ogg_is_cut}.get(container)
    if is_cut is not None and is_cut(data):
        raise UndecodableAudio(f"the {container.name} recording is cut off: it announces more than was sent")


def _wav_is_cut(data: bytes) -> bool:
    announced = _wav_data(data)
    return announced is not None and announced[1] > len(data) - announced[0] + WAV_SLACK_BYTES


def has_hidden_size(data: bytes) -> bool:
    """Tell whether a WAV announces no samples and yet holds some, as an interrupted recorder leaves it."""
    announced = _wav_data(data)
    if announced is None or announced[1] != 0 or len(data) < announced[0] + 8:
        return False
    name, size = struct.unpack_from("<4sI", data, announced[0])
    is_chunk = name.strip().isalnum() and announced[0] + 8 + size <= len(data)
    return not is_chunk


def _wav_data(data: bytes) -> tuple[int, int] | None:
    """Return where a WAV's samples begin and how many bytes are announced; None where nothing is."""
    byte_order = ">" if data.startswith(b"RIFX") else "<"
    size_64 = None
    offset = 12
    while offset + 8 <= len(data):
        name, size = struct.unpack_from(f"{byte_order}4sI", data, offset)
        offset += 8
        if name == b"ds64" and offset + 16 <= len(data):
            size_64 = struct.unpack_from("<8xQ", data, offset)[0]
        if name == b"data":
            if size == 0xFFFF_FFFF and size_64 is not None:
                return offset, size_64
            return None if size >= WAV_UNKNOWN_BYTES else (offset, size)
        offset += size + size % 2
    return None


def _mp4_is_cut(data: bytes) -> bool:
    offset = 0
    has_index = False
    while offset + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, offset)
        if size == 1 and offset + 16 <= len(data):
            size = struct.unpack_from(">Q", data, offset + 8)[0]
        if name in (b"moov", b"moof", b"mdat") and offset + size > len(data):
            return True
        has_index |= name == b"moov"
        if size < 8:  # 0 means "to the end", less is no box
            break
        offset += size
    return not has_index


def _matroska_is_cut(data: bytes) -> bool:
    offset = 0
    for wanted in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # EBML header, Segment
        if not data.startswith(wanted, offset):
            return False  # padding, or an order that we do not know: the decoder decides
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


def has_several_streams(data: bytes) -> bool:
    """Tell whether an Ogg body holds several streams, one after another or side by side."""
    return len(re.findall(rb"OggS\x00[\x02\x03\x06\x07]", data)) > 1
