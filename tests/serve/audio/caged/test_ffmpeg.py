"""The leash on the ffmpeg child."""

import io
import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged.ffmpeg import ChildLimits, ffmpeg_binary, open_with_ffmpeg
from serve.audio.container import CAF, MATROSKA, MP4, WAV
from serve.audio.decode import AudioLimits, decode_audio
from serve.audio.samples import SAMPLE_RATE
from serve.errors import AudioTooLong, UndecodableAudio

LIMITS = ChildLimits(timeout_s=60.0, memory_bytes=1 << 30)


def wav_bytes(duration_s: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(int(duration_s * SAMPLE_RATE)), SAMPLE_RATE, format="WAV")
    return file.getvalue()


def webm_bytes(duration_s: float) -> bytes:
    command = [ffmpeg_binary(), "-v", "error", "-f", "wav", "-i", "pipe:0", "-f", "webm", "pipe:1"]
    return subprocess.run(command, input=wav_bytes(duration_s), capture_output=True, check=True).stdout


def children() -> set[str]:
    """Return the processes that any thread of this one has started and not yet buried."""
    tasks = Path("/proc/self/task").iterdir()
    return {child for task in tasks for child in (task / "children").read_text().split()}


def n_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_blocks_hold_every_frame_of_every_channel() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (300_000, 3)).astype("f4")
    file = io.BytesIO()
    soundfile.write(file, samples, 22_050, format="WAV", subtype="FLOAT")

    with open_with_ffmpeg(file.getvalue(), WAV, LIMITS) as output:
        decoded = np.concatenate(list(output.blocks))

    assert (output.sample_rate, output.layout.n_channels) == (22_050, 3)
    np.testing.assert_array_equal(decoded, samples)


def test_a_child_that_takes_too_long_is_killed() -> None:
    before = children()

    with pytest.raises(UndecodableAudio, match=r"within 0\.001 s"):
        decode_audio(webm_bytes(2), AudioLimits(ffmpeg_timeout_s=0.001))

    assert children() == before


def test_a_child_is_killed_when_nobody_wants_the_rest() -> None:
    before, n_files = children(), n_open_files()

    with pytest.raises(AudioTooLong):
        decode_audio(webm_bytes(60), AudioLimits(max_audio_s=1.0))

    assert children() == before
    assert n_open_files() == n_files


def test_a_child_that_may_not_have_memory_gives_a_sentence() -> None:
    with pytest.raises(UndecodableAudio):
        decode_audio(webm_bytes(2), AudioLimits(ffmpeg_memory_bytes=30 << 20))


def test_the_child_sees_neither_secrets_nor_any_protocol_but_its_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    os.mkfifo(told)  # the child may write no files
    reader = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    spy = tmp_path / "ffmpeg"
    spy.write_text(f'#!/bin/sh\nexec 3> {told}\nenv >&3\necho "$@" >&3\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")

    with pytest.raises(UndecodableAudio):
        decode_audio(b"\x1a\x45\xdf\xa3" + bytes(64), AudioLimits())

    seen = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "PATH=" in seen and "do-not-tell" not in seen
    assert "-nostdin" in seen and "-protocol_whitelist pipe " in seen


@pytest.mark.parametrize("container", [WAV, MATROSKA, MP4, CAF])
@pytest.mark.parametrize("body", [b"#EXTM3U\n#EXTINF:1,\n{}\n", b"ffconcat version 1.0\nfile {}\n"])
def test_even_a_playlist_taken_for_something_else_opens_no_file(
    container: object, body: bytes, tmp_path: Path
) -> None:
    bait = tmp_path / "bait.wav"
    bait.write_bytes(wav_bytes(1))

    with (
        pytest.raises(UndecodableAudio),
        open_with_ffmpeg(body.replace(b"{}", str(bait).encode()), container, LIMITS) as output,
    ):
        list(output.blocks)


def test_recordings_decode_side_by_side() -> None:
    body = webm_bytes(2)
    lengths: list[int] = []

    def decode() -> None:
        lengths.append(len(decode_audio(body, AudioLimits())))

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lengths) == 6 and len(set(lengths)) == 1
