"""Whether a recording ends before its own framing says so: the sign of an upload that broke off.

Half a transcript that looks whole is worse than an error, so such bodies are refused. The rule: what a
header announces must be there. Recordings that were streamed announce nothing (a WAV whose sizes are 0 or all
ones, a WebM of unknown size, FLAC without a total) and are taken as they are; so is a shortfall of a header's
length, which some recorders count by mistake. An MP3 announces the length of each frame, and often their
number. FLAC's total is checked where it is decoded.

Formats: RIFF and RF64 (EBU Tech 3306), ISO 14496-12 boxes, EBML (RFC 8794), Ogg pages (RFC 3533), and the
header of MPEG audio frames with its Xing, Info and VBRI extensions.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from serve.container import MATROSKA, MP3, MP4, OGG, WAV, Container, id3v2_end
from serve.errors import AudioTooLong, UndecodableAudio

WAV_SLACK_BYTES = 256
WAV_UNKNOWN_BYTES = 0x7FFF_0000  # recorders that cannot seek back write a size near 2 or 4 GiB

MPEG_KBPS = {  # (is MPEG 1, layer) -> kbit/s by index; 0 stands for "free", which nobody uses for speech
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz
MPEG_HEADER_BYTES = 4
MPEG_MAX_PADDING = 5  # frames that a decoder may cut away: the count's own, the encoder's delay, and the end


def check_whole(data: bytes, container: Container, max_audio_s: float) -> int | None:
    """Refuse a recording that is cut off.

    Args:
        data: the whole body.
        container: what it is.
        max_audio_s: where counting may stop.

    Returns:
        For MP3, the fewest samples a channel that its frames decode to, for a decoder may stop early; else
        None.

    Raises:
        UndecodableAudio: the body ends before its framing says so.
        AudioTooLong: an MP3 has frames for longer than `max_audio_s`.
    """
    if container is MP3:
        return _fewest_mpeg_samples(data, max_audio_s)
    is_cut = {WAV: _wav_is_cut, MP4: _mp4_is_cut, MATROSKA: _matroska_is_cut, OGG: _ogg_is_cut}.get(container)
    if is_cut is not None and is_cut(data):
        raise _cut_off(container)
    return None


def _cut_off(container: Container) -> UndecodableAudio:
    return UndecodableAudio(f"the {container.name} recording is cut off: it announces more than was sent")


def _wav_is_cut(data: bytes) -> bool:
    byte_order = ">" if data.startswith(b"RIFX") else "<"
    data_bytes_64 = None
    offset = 12
    while offset + 8 <= len(data):
        name, size = struct.unpack_from(f"{byte_order}4sI", data, offset)
        offset += 8
        if name == b"ds64" and offset + 16 <= len(data):
            data_bytes_64 = struct.unpack_from("<8xQ", data, offset)[0]
        if name == b"data":
            if size == 0xFFFF_FFFF and data_bytes_64 is not None:
                size = data_bytes_64
            elif size >= WAV_UNKNOWN_BYTES:
                return False
            return bool(size > len(data) - offset + WAV_SLACK_BYTES)
        offset += size + size % 2
    return False  # no data chunk: the decoder decides


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


@dataclass(frozen=True)
class _MpegHeader:
    """What the four bytes before every MPEG audio frame say."""

    n_bytes: int  # of the frame, header included
    n_samples: int  # a channel
    sample_rate: int  # Hz
    kind: int  # the bits that stay the same all through a stream


def _read_mpeg_header(data: bytes, offset: int) -> _MpegHeader | None:
    """Read the header at an offset; None where there is none that tells its frame's length."""
    if offset + MPEG_HEADER_BYTES > len(data):
        return None
    word = int.from_bytes(data[offset : offset + MPEG_HEADER_BYTES], "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    kbps_index, rate_index = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or kbps_index in (0, 15) or rate_index == 3:
        return None
    sample_rate = MPEG_RATES[version][rate_index]
    bits_per_s = 1000 * MPEG_KBPS[version == 3, layer][kbps_index]
    padding = word >> 9 & 1
    if layer == 1:
        return _MpegHeader(
            (12 * bits_per_s // sample_rate + padding) * 4, 384, sample_rate, word >> 10 & ~0x7C
        )
    n_samples = 576 if layer == 3 and version != 3 else 1152
    n_bytes = n_samples // 8 * bits_per_s // sample_rate + padding
    return _MpegHeader(n_bytes, n_samples, sample_rate, word >> 10 & ~0x7C)


def _fewest_mpeg_samples(data: bytes, max_audio_s: float) -> int:
    """Walk the frames of an MP3, and return the fewest samples a channel that they decode to."""
    offset = _next_mpeg_frame(data, id3v2_end(data))
    first = None if offset is None else _read_mpeg_header(data, offset)
    if offset is None or first is None:
        raise UndecodableAudio("the MP3 recording holds no whole frame")
    n_announced = _announced_frames(data[offset : offset + first.n_bytes])
    max_frames = max_audio_s * first.sample_rate / first.n_samples + MPEG_MAX_PADDING
    n_frames = 0
    while offset is not None and (header := _read_mpeg_header(data, offset)) is not None:
        if offset + header.n_bytes > len(data):
            raise _cut_off(MP3)
        n_frames += 1
        if n_frames > max_frames:
            raise AudioTooLong(n_frames * first.n_samples / first.sample_rate, max_audio_s)
        offset += header.n_bytes
        if _read_mpeg_header(data, offset) is None:
            if data[offset : offset + 1] == b"\xff" and len(data) - offset < MPEG_HEADER_BYTES:
                raise _cut_off(MP3)
            offset = _next_mpeg_frame(data, offset)  # past damage, or tags at the end
    if n_frames < n_announced:
        raise _cut_off(MP3)
    return max(0, n_frames - (MPEG_MAX_PADDING if n_announced else 1)) * first.n_samples


def _next_mpeg_frame(data: bytes, offset: int) -> int | None:
    """Return where the next frame begins that another of its kind follows, or that ends the body."""
    while (offset := data.find(b"\xff", offset)) >= 0:
        header = _read_mpeg_header(data, offset)
        if header is not None:
            end = offset + header.n_bytes
            following = _read_mpeg_header(data, end)
            if end == len(data) or (following is not None and following.kind == header.kind):
                return offset
        offset += 1
    return None


def _announced_frames(frame: bytes) -> int:
    """Return how many frames the first one announces, itself left out; 0 where it announces none."""
    for tag, flags_at, count_at in ((b"Xing", 4, 8), (b"Info", 4, 8), (b"VBRI", None, 14)):
        at = frame.find(tag, 4, 64)
        if at >= 0 and at + count_at + 4 <= len(frame) and (flags_at is None or frame[at + 7] & 1):
            return int.from_bytes(frame[at + count_at : at + count_at + 4], "big")
    return 0
