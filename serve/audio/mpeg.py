"""Find the frames of an MP3 (layers I to III), and check that none are missing.

Written by hand, because decoders skip missing frames without an error.

An MP3 has no container. Each frame starts with four bytes that give its length; the first frame may hold the
number of frames instead of sound (Xing, Info, VBRI). Tags before and after are skipped, and so is a partial
frame at the start, where a recording was cut from a longer one. Bare AAC (ADTS) has the same structure and is
found in the same way. Knows nothing of the sound inside the frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from serve.audio.container import AAC, MP3, Container, id3v2_end
from serve.errors import AudioTooLong, UndecodableAudio

HEADER_BYTES = 4
KBPS = {  # (is MPEG 1, layer) -> kbit/s by index; 0 means "free", which is not used for speech
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
SAMPLE_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # Hz
VARYING_BITS = 0x1_F3FF  # header bits other than sync, version, layer and sample rate
STRAY_BYTES = 8_192  # allowed before the first whole frame: longer than any frame, so that one may be partial
FRAMES_TO_BELIEVE = 4  # consecutive frames of one kind that identify bytes without a signature
ADTS_SAME_BITS = 0xFFFE_FDC0  # of a header's first four bytes: those that are constant within a stream
FRAMES_BETWEEN_CHECKS = 4_096
FRAME_START = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")  # as far as bytes alone tell
SEARCHED_BYTES = 1 << 16  # at a time
MAX_SEARCHED_BYTES = 32 << 20  # of a recording: pictures in its tags, and damage
MAX_FALSE_STARTS = 100_000
MAX_PADDING = 5  # frames that a decoder may drop: the one with the count, the encoder's delay, and the end


@dataclass(frozen=True, kw_only=True)
class MpegFrames:
    """Location of a recording's frames."""

    start: int
    """Offset of the first frame."""
    end: int
    """Offset after the last frame."""
    fewest_samples: int
    """Fewest samples per channel that a decoder will return."""
    is_intact: bool
    """Whether nothing lies before or between the frames, and their number is as declared."""


@dataclass(frozen=True)
class _Header:
    n_bytes: int  # of the frame, header included
    n_samples: int  # per channel
    sample_rate: int  # Hz
    kind: int  # the bits that are constant within a stream


def find_bare_stream(data: bytes) -> tuple[Container, int] | None:
    """Find MP3 or ADTS frames near the start of a file, after stray bytes and tags.

    Returns:
        The container, and the offset of the stream's first tag or frame; None where there are not several
        consecutive frames.
    """
    tag = data.find(b"ID3", 0, STRAY_BYTES)
    start = max(0, tag)
    frames_from = id3v2_end(data, start)
    if frames_from == start:
        start = frames_from = 0
    offset = frames_from - 1
    while 0 <= (offset := data.find(b"\xff", offset + 1)) <= frames_from + STRAY_BYTES:
        for container, kind_and_length in ((MP3, _mpeg_frame_at), (AAC, _adts_frame_at)):
            if _has_frames_in_a_row(data, offset, kind_and_length):
                is_tagged = frames_from > start and container is MP3
                return container, start if is_tagged else offset
    return None


def _has_frames_in_a_row(
    data: bytes, offset: int, kind_and_length: Callable[[bytes, int], tuple[int, int] | None]
) -> bool:
    kinds = set()
    for _ in range(FRAMES_TO_BELIEVE):
        if (frame := kind_and_length(data, offset)) is None:
            return False
        kinds.add(frame[0])
        offset += frame[1]
    return len(kinds) == 1


def _mpeg_frame_at(data: bytes, offset: int) -> tuple[int, int] | None:
    header = _header_at(data, offset)
    return None if header is None else (header.kind, header.n_bytes)


def _adts_frame_at(data: bytes, offset: int) -> tuple[int, int] | None:
    """Return the kind and length of an ADTS frame (ISO 13818-7, 6.2); None where there is none."""
    header = data[offset : offset + 7]
    word = int.from_bytes(header[:4], "big")
    n_bytes = int.from_bytes(header[3:6], "big") >> 5 & 0x1FFF
    if len(header) < 7 or word >> 20 != 0xFFF or word >> 17 & 3 or word >> 10 & 15 > 12 or n_bytes < 8:
        return None
    return word & ADTS_SAME_BITS, n_bytes


def find_mpeg_frames(data: bytes, max_audio_s: float, check: Callable[[], None] = lambda: None) -> MpegFrames:
    """Walk the frames of an MP3.

    Args:
        check: Called every few milliseconds; raises once nobody waits for the recording any more.

    Raises:
        UndecodableAudio: There is no whole frame, or the recording is truncated: its last frame is partial,
            or there are fewer than declared; or too much of it is no frame.
        AudioTooLong: The frames last longer than `max_audio_s`.
        Exception: What `check` raises.
    """
    tags_end = id3v2_end(data)
    search = _Search(data, check)
    start = search.next_frame(tags_end)
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
        if n_frames % FRAMES_BETWEEN_CHECKS == 0:
            check()
        if n_frames > max_frames:
            raise AudioTooLong(n_frames * first.n_samples / first.sample_rate, max_audio_s)
        if _header_at(data, offset) is None:
            offset = search.next_frame(offset)  # after damage, or none after the tags at the end
    is_whole_at_start = start == tags_end
    is_torn = end > len(data) or (len(data) - end < HEADER_BYTES and data.startswith(b"\xff", end))
    # A recording that starts with a partial frame was cut from a longer one, and may end with one too.
    if (is_torn and is_whole_at_start) or n_frames < n_announced:
        raise UndecodableAudio("the MP3 recording is cut off: it announces more than was sent")
    return MpegFrames(
        start=start,
        end=end,
        fewest_samples=max(0, n_frames - (MAX_PADDING if n_announced else 1)) * first.n_samples,
        is_intact=is_whole_at_start and not has_gap and (not n_announced or n_frames <= n_announced + 1),
    )


class _Search:
    """A search for frames, bounded over the whole recording."""

    def __init__(self, data: bytes, check: Callable[[], None]) -> None:
        self._data = data
        self._check = check
        self._n_searched = self._n_false = 0

    def next_frame(self, offset: int) -> int | None:
        """Return the offset of the next frame that another of its kind follows, or that ends the file.

        Raises:
            UndecodableAudio: Too much was searched, or too much looks like a frame and is none.
        """
        data = self._data
        while offset < len(data):
            self._check()
            until = offset + SEARCHED_BYTES
            # The last two bytes of a piece begin the next, as a frame's start may lie across.
            for found in FRAME_START.finditer(data, offset, until + 2):
                if (place := found.start()) >= until:
                    break
                header = _header_at(data, place)
                if header is not None:
                    end = place + header.n_bytes
                    following = _header_at(data, end)
                    if end == len(data) or (following is not None and following.kind == header.kind):
                        self._n_searched += place - offset
                        return place
                self._n_false += 1
                if self._n_false > MAX_FALSE_STARTS:
                    break
            self._n_searched += SEARCHED_BYTES
            if self._n_searched > MAX_SEARCHED_BYTES or self._n_false > MAX_FALSE_STARTS:
                raise UndecodableAudio("the MP3 recording is damaged: too much of it is no sound")
            offset = until
        return None


def _header_at(data: bytes, offset: int) -> _Header | None:
    return _read_header(data[offset : offset + HEADER_BYTES])


@lru_cache(maxsize=1024)
def _read_header(header: bytes) -> _Header | None:
    """Parse a frame header; None where it is invalid or gives no length."""
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
    """Return the number of frames that the first one declares, itself excluded; 0 where it declares none."""
    for tag, count_at in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = frame.find(tag, HEADER_BYTES, 64)
        if at < 0 or at + count_at + 4 > len(frame):
            continue
        if tag == b"VBRI" or frame[at + 7] & 1:  # Xing's flag for a frame count
            return int.from_bytes(frame[at + count_at : at + count_at + 4], "big")
    return 0
