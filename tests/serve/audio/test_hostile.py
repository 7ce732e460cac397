"""Recordings that are made to cost much: walks over them are bounded, and end once nobody waits."""

import io
import itertools
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile

from serve.audio.decode import AudioLimits, decode_audio, open_audio
from serve.audio.framing import (
    MAX_BOXES,
    MAX_CHUNKS,
    MAX_DAMAGES,
    MAX_EMPTY_PAGES,
    REVERSED_BITS,
    mp4_sound_s,
    walk_ogg,
)
from serve.audio.mpeg import MAX_FALSE_STARTS, find_mpeg_frames
from serve.errors import AudioError, AudioTooLong, NotReady, UndecodableAudio, UnsupportedOption

LIMITS = AudioLimits()
MIB = 1 << 20


class Calls:
    """A check that counts, and raises from the n-th call on."""

    def __init__(self, n: int | None = None) -> None:
        self.n, self.limit = 0, n

    def __call__(self) -> None:
        self.n += 1
        if self.limit is not None and self.n >= self.limit:
            raise NotReady("nobody waits")


def encode(samples: np.ndarray, *, sample_rate=16_000, **form) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, sample_rate, **form)
    return out.getvalue()


def ogg(seconds: float = 3.0) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * 16_000)).astype(np.float32)
    return encode(noise, format="OGG", subtype="OPUS")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 40 * MIB,
        b"\xff\xfb" + b"\xff" * 40 * MIB,
        b"\xff\xfb\x90\x00" * 10 * MIB,
        b"\xff\xfb\x90\x00" + bytes(40 * MIB),
        b"ID3\x04\x00\x00\x00\x00\x00\x00" * 2 * MIB,
        b"OggS" * 10 * MIB,
        b"OggS\x00" * 4 * MIB,
        (b"OggS\x00" + bytes(21) + b"\xff" + b"\xff" * 255) * 10_000,
        b"RIFF\xff\xff\xff\xffWAVE" + bytes(8 * 2 * MIB),
        b"RIFF\xff\xff\xff\xffWAVE" + (b"LIST" + bytes(4)) * MIB,
        b"FORM\xff\xff\xff\xffAIFF" + (b"NAME" + bytes(4)) * MIB,
        b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00" + bytes(24 * MIB),
        struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", 8, b"free") * 2 * MIB,
        b"fLaC" + b"\xff\xf8" * 2 * MIB,
    ],
    ids=(
        *("ones", "ones after a frame", "false starts", "one frame", "tags", "capture patterns", "pages"),
        *("pages of 64 KiB", "empty chunks", "chunks", "AIFF", "Wave64", "boxes", "FLAC"),
    ),
)
def test_what_is_no_sound_is_refused_after_few_steps(body):
    calls = Calls()
    with pytest.raises(AudioError), open_audio(body, LIMITS, check=calls) as recording:
        list(recording.blocks())
    assert calls.n < 3_000


def test_false_starts_of_frames_are_counted():
    with pytest.raises(UndecodableAudio):
        find_mpeg_frames(b"\xff\xfb\x90\x00" * MAX_FALSE_STARTS * 2, 60.0)


@pytest.mark.parametrize("body", [b"\xff\xfb" + b"\xff" * 40 * MIB, b"\xff\xfb\x90\x00" * 10 * MIB])
def test_a_search_ends_once_nobody_waits(body):
    calls = Calls(3)
    with pytest.raises(NotReady):
        find_mpeg_frames(body, 60.0, calls)
    assert calls.n == 3


def test_an_intact_ogg_is_walked_page_by_page():
    whole = ogg()
    pages = walk_ogg(whole)
    assert (pages.n_streams, pages.is_intact) == (1, True)
    assert walk_ogg(whole + whole).n_streams == 2
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    assert not walk_ogg(bytes(damaged)).is_intact
    assert not walk_ogg(whole + b"garbage").is_intact


def test_a_damaged_ogg_is_heard_as_far_as_it_can_be():
    whole = bytearray(ogg(20.0))
    whole[len(whole) // 2] ^= 1
    assert 5 * 16_000 < len(decode_audio(bytes(whole), LIMITS)) <= 20 * 16_000


def test_an_ogg_of_garbage_or_of_empty_pages_is_refused():
    empty = b"OggS\x00\x00" + bytes(20) + b"\x00"
    summed = next(
        page
        for number in itertools.count()
        if (page := with_checksum(empty[:18] + number.to_bytes(4, "little") + empty[22:]))
    )
    assert walk_ogg(summed * MAX_EMPTY_PAGES).is_intact
    with pytest.raises(UndecodableAudio):
        walk_ogg(summed * (MAX_EMPTY_PAGES + 1))
    with pytest.raises(UndecodableAudio):
        walk_ogg(b"OggS" * (MAX_DAMAGES + 2))


def with_checksum(page: bytes) -> bytes:
    """Return a page with Ogg's checksum, computed bit by bit as RFC 3533 has it."""
    summed = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        summed ^= byte << 24
        for _ in range(8):
            summed = (summed << 1 ^ (0x04C1_1DB7 if summed >> 31 else 0)) & 0xFFFF_FFFF
    return page[:22] + summed.to_bytes(4, "little") + page[26:]


def test_a_usual_number_of_chunks_is_read():
    wav = encode(np.zeros(16_000), format="WAV")
    many = wav[:12] + (b"junk" + bytes(4)) * (MAX_CHUNKS - 10) + wav[12:]
    assert len(decode_audio(many, LIMITS)) == 16_000


def test_reading_stops_once_nobody_waits():
    flac = encode(np.zeros(60 * 16_000), format="FLAC")
    with pytest.raises(NotReady), open_audio(flac, LIMITS, check=Calls(1)) as recording:
        list(recording.blocks())


def test_many_channels_are_not_resampled_to_be_refused(monkeypatch):
    monkeypatch.setattr("serve.audio.samples.Resampler.push", None)  # calling it raises TypeError
    body = encode(np.zeros((4_001, 16)), sample_rate=4_001, format="WAV")
    with pytest.raises(UnsupportedOption), open_audio(body, LIMITS, split=True):
        pass


def test_a_stated_duration_over_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    import subprocess

    from serve.audio.caged.ffmpeg import Child, ffmpeg_binary

    target = tmp_path / "long.m4a"
    source = ("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono:d=600", "-c:a", "aac", "-b:a", "8k")
    subprocess.run([ffmpeg_binary(), "-v", "error", *source, str(target)], check=True)
    monkeypatch.setattr(Child, "blocks", None)
    with pytest.raises(AudioTooLong):
        decode_audio(target.read_bytes(), AudioLimits(max_audio_s=500.0))


def silent_opus(n_bytes: int, position: int | None = None) -> bytes:
    """Return an Ogg of packets of one byte that hold 0.12 s of silence each: half an hour in 32 kB.

    `position` is what all pages state instead of the truth.
    """

    def page(kind: int, at: int, number: int, packets: list[bytes]) -> bytes:
        table = bytes(map(len, packets))
        head = b"OggS\0" + bytes([kind]) + struct.pack("<qIII", at, 1, number, 0) + bytes([len(table)])
        return with_checksum_of_zlib(head + table + b"".join(packets))

    start = b"OpusHead\x01\x01" + struct.pack("<HIhB", 312, 48_000, 0, 0)
    pages = [page(2, 0, 0, [start]), page(0, 0, 1, [b"OpusTags" + bytes(8)])]
    n_pages = n_bytes // 537
    for number in range(2, n_pages + 2):
        stated = (number - 1) * 255 * 5_760 if position is None else position
        pages.append(page(0, stated, number, [bytes([3 << 3 | 1])] * 255))
    return b"".join(pages)


def with_checksum_of_zlib(page: bytes) -> bytes:
    """Return the same as `with_checksum`, for pages by the thousand."""
    blank = page[:22] + bytes(4) + page[26:]
    summed = zlib.crc32(blank.translate(REVERSED_BITS), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return page[:22] + summed.to_bytes(4, "big").translate(REVERSED_BITS) + page[26:]


@pytest.fixture
def no_decoder(monkeypatch):
    """Make every decoder a fault."""
    monkeypatch.setattr("serve.audio.decode.open_with_sndfile", None)
    monkeypatch.setattr("serve.audio.decode.open_with_ffmpeg", None)


@pytest.mark.parametrize("n_bytes", [3_000_000, 25_000_000])
def test_days_of_silence_in_an_opus_are_refused_before_a_decoder_is_started(n_bytes, no_decoder):
    body = silent_opus(n_bytes)
    with pytest.raises(AudioTooLong, match=r"at least \d{6,7}\.\d s"):
        decode_audio(body, LIMITS)


def test_joined_opus_files_count_together(no_decoder):
    one = silent_opus(100_000)
    alone_s = walk_ogg(one).stated_s
    assert alone_s == pytest.approx(185 * 30.6)
    assert walk_ogg(one + one).stated_s == pytest.approx(2 * alone_s)
    with pytest.raises(AudioTooLong):
        decode_audio(one * 3, LIMITS)


def test_an_opus_that_states_less_than_it_holds_is_given_up_at_the_limit():
    liar = silent_opus(300_000, position=48_000 * 100)  # 16,000 s in truth
    with pytest.raises(AudioError):
        decode_audio(liar, AudioLimits(max_audio_s=50.0))


def test_an_opus_cut_out_of_a_longer_one_counts_what_it_holds():
    assert walk_ogg(ogg(10.0)).stated_s == pytest.approx(10.0, abs=1.1)
    body = silent_opus(50_000)
    far = 10**12  # of a stream that has run for 240 days
    moved = b"".join(
        with_checksum_of_zlib(page[:6] + struct.pack("<q", far + number * 255 * 5_760) + page[14:])
        if number > 1
        else page
        for number, page in enumerate(re.split(b"(?=OggS)", body)[1:])
    )
    assert walk_ogg(moved).is_intact
    assert walk_ogg(moved).stated_s == pytest.approx(walk_ogg(body).stated_s, abs=31.0)


@pytest.mark.parametrize("options", [(), ("-movflags", "+faststart")])
@pytest.mark.parametrize("sample_rate", [8_000, 44_100])
def test_silence_in_an_m4a_is_refused_by_its_index(options, sample_rate, no_decoder, tmp_path):
    import subprocess

    from serve.audio.caged.ffmpeg import ffmpeg_binary

    target = tmp_path / "long.m4a"
    source = ("-f", "lavfi", "-i", f"anullsrc=r={sample_rate}:cl=mono:d=600", "-c:a", "aac", "-b:a", "8k")
    subprocess.run([ffmpeg_binary(), "-v", "error", *source, *options, str(target)], check=True)
    assert mp4_sound_s(target.read_bytes()) == pytest.approx(600.0, abs=0.3)
    with pytest.raises(AudioTooLong):
        decode_audio(target.read_bytes(), AudioLimits(max_audio_s=500.0))


@pytest.mark.parametrize("seed", range(20))
def test_an_index_of_anything_is_read_within_bounds(seed):
    rng = np.random.default_rng(seed)
    names = [b"moov", b"trak", b"mdia", b"mdhd", b"hdlr", b"minf", b"stbl", b"stts", b"free"]
    body = b"".join(
        struct.pack(">I4s", int(rng.choice([0, 1, 7, 8, 16, 40, 2**32 - 1])), names[rng.integers(9)])
        for _ in range(2_000)
    )
    assert mp4_sound_s(body) >= 0.0


def test_a_long_table_of_an_index_takes_no_memory_for_what_is_not_read():
    def box(name, content):
        return struct.pack(">I4s", 8 + len(content), name) + content

    table = box(b"stts", bytes(8) + struct.pack(">II", 1, 20) * (20 * MIB // 8))
    head = box(b"mdhd", bytes(12) + struct.pack(">I", 1_000)) + box(b"hdlr", bytes(8) + b"soun")
    media = box(b"mdia", head + box(b"minf", box(b"stbl", table)))
    body = box(b"moov", box(b"trak", media))
    tracemalloc.start()
    try:
        assert mp4_sound_s(body) == pytest.approx(0.02 * MAX_BOXES)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 60 * MIB
