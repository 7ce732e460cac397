"""The frames of an MP3 (and of its elders, layers I and II): where they lie, and whether all are there.

By hand, because decoders skip missing frames without a word.

An MP3 has no container. Each frame begins with four bytes that tell its length; the first one may hold, in
place of sound, how many follow (Xing, Info, VBRI). Tags of other kinds lie before and behind, and are passed
over. Knows nothing of the sound inside the frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from serve.audio.container import id3v2_end
from serve.errors import AudioTooLong, UndecodableAudio

HEADER_BYTES = 4
KBPS = {  # (is MPEG 1, layer) -> kbit/s by index; 0 stands for "free", which nobody uses for speech
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz
VARYING_BITS = 0x1_F3FF  # of a header: all but sync, version, layer and sample rate
MAX_PADDING = 5  # frames a decoder may cut away: the one with the count, the encoder's delay, and the end


@dataclass(frozen=True, kw_only=True)
class MpegFrames:
    """Where the frames of a recording lie."""

    start: int
    """Offset of the first frame."""
    end: int
    """Offset after the last frame."""
    fewest_samples: int
    """What a decoder gives at the least, a channel."""
    is_intact: bool
    """Whether the frames follow one another without a gap, in the number that is announced."""


@dataclass(frozen=True)
class _Header:
    n_bytes: int  # of the frame, header included
    n_samples: int  # a channel
    sample_rate: int  # Hz
    kind: int  # the bits that stay the same all through a stream


def find_mpeg_frames(data: bytes, max_audio_s: float) -> MpegFrames:
    """Walk the frames of an MP3.

    Raises:
        UndecodableAudio: there is no whole frame, or the recording is cut off: its last frame is not whole,
            or there are fewer than announced.
        AudioTooLong: there are frames for longer than `max_audio_s`.
    """
    start = _next_frame(data, id3v2_end(data))
    first = None if start is None else _header_at(data, start)
    if start is None or first is None:
        raise UndecodableAudio("the MP3 recording holds no whole frame")
    n_announced = _announced_frames(data[start : start + first.n_bytes])
    max_frames = max_audio_s * first.sample_rate / first.n_samples + MAX_PADDING
    n_frames = 0
    end, has_gap = start, False
    offset: int | None = start
    while offset is not None and (header := _header_at(data, offset)) is not None:
        has_gap |= offset != end
        end = offset = offset + header.n_bytes
        n_frames += 1
        if n_frames > max_frames:
            raise AudioTooLong(n_frames * first.n_samples / first.sample_rate, max_audio_s)
        if _header_at(data, offset) is None:
            offset = _next_frame(data, offset)  # past damage, or tags at the end
    is_torn = end > len(data) or (len(data) - end < HEADER_BYTES and data.startswith(b"\xff", end))
    if is_torn or n_frames < n_announced:
        raise UndecodableAudio("the MP3 recording is cut off: it announces more than was sent")
    return MpegFrames(
        start=start,
        end=end,
        fewest_samples=max(0, n_frames - (MAX_PADDING if n_announced else 1)) * first.n_samples,
        is_intact=not has_gap and (not n_announced or n_frames <= n_announced + 1),
    )


def _next_frame(data: bytes, offset: int) -> int | None:
    """Return where the next frame begins that another of its kind follows, or that ends the body."""
    while (offset := data.find(b"\xff", offset)) >= 0:
        header = _header_at(data, offset)
        if header is not None:
            end = offset + header.n_bytes
            following = _header_at(data, end)
            if end == len(data) or (following is not None and following.kind == header.kind):
                return offset
        offset += 1
    return None


def _header_at(data: bytes, offset: int) -> _Header | None:
    return _read_header(data[offset : offset + HEADER_BYTES])


@lru_cache(maxsize=1024)
def _read_header(header: bytes) -> _Header | None:
    """Read a frame's header; None where it is none, or does not tell the frame's length."""
    word = int.from_bytes(header, "big")
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    kbps_index, rate_index = word >> 12 & 15, word >> 10 & 3
    if len(header) < HEADER_BYTES or word >> 21 != 0x7FF or version == 1 or layer == 4:
        return None
    if kbps_index in (0, 15) or rate_index == 3:
        return None
    sample_rate = SAMPLE_RATES[version][rate_index]
    bits_per_s = 1000 * KBPS[version == 3, layer][kbps_index]
    padding = word >> 9 & 1
    if layer == 1:
        n_samples = 384
        n_bytes = (12 * bits_per_s // sample_rate + padding) * 4
    else:
        n_samples = 576 if layer == 3 and version != 3 else 1152
        n_bytes = n_samples // 8 * bits_per_s // sample_rate + padding
    return _Header(n_bytes, n_samples, sample_rate, word & ~VARYING_BITS)


def _announced_frames(frame: bytes) -> int:
    """Return how many frames the first one announces, itself left out; 0 where it announces none."""
    for tag, count_at in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = frame.find(tag, HEADER_BYTES, 64)
        if at < 0 or at + count_at + 4 > len(frame):
            continue
        if tag == b"VBRI" or frame[at + 7] & 1:  # the last of Xing's four bytes of flags
            return int.from_bytes(frame[at + count_at : at + count_at + 4], "big")
    return 0
