"""libsndfile in its cage: what happens to it happens to one file."""

import io
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from serve.audio.caged import sndfile
from serve.audio.caged.ffmpeg import ChildLimits
from serve.audio.caged.sndfile import open_with_sndfile
from serve.audio.decode import AudioLimits, decode_audio
from serve.errors import NotReady, UndecodableAudio
from tests.waiting import wait_until

LIMITS = ChildLimits(timeout_s=60.0, memory_bytes=1 << 30)
RATE = 16_000


def flac(seconds: float) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * RATE))
    soundfile.write(out := io.BytesIO(), noise, RATE, format="FLAC")
    return out.getvalue()


def forks() -> list[int]:
    """Return the processes that the cage has forked, and that have not ended."""
    cage = sndfile._CAGE._process.pid
    listed = Path(f"/proc/{cage}/task/{cage}/children").read_text().split()
    return [int(pid) for pid in listed if "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()]


def test_samples_arrive_as_they_are():
    samples = np.random.default_rng(1).uniform(-1, 1, (3 * RATE, 2)).astype(np.float32)
    soundfile.write(out := io.BytesIO(), samples, RATE, format="WAV", subtype="FLOAT")
    with open_with_sndfile(out.getvalue(), LIMITS, 1.0) as file:
        assert (file.sample_rate, file.n_channels, file.n_frames) == (RATE, 2, len(samples))
        blocks = list(file.blocks)
    assert np.array_equal(np.concatenate(blocks), samples)
    assert {len(block) for block in blocks} == {RATE // 2}


def test_what_libsndfile_does_not_know_is_left_to_others():
    with open_with_sndfile(b"no recording at all" * 100, LIMITS, 10.0) as file:
        assert file is None


@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGKILL])
def test_a_fault_ends_one_file_and_no_other(fault):
    with (
        open_with_sndfile(flac(300.0), LIMITS, 10.0) as hit,
        open_with_sndfile(flac(300.0), LIMITS, 10.0) as other,
    ):
        os.kill(forks()[0], fault)
        with pytest.raises(UndecodableAudio, match="damaged"):
            list(hit.blocks)
        assert sum(map(len, other.blocks)) == 300 * RATE
    assert len(decode_audio(flac(1.0), AudioLimits())) == RATE


def test_a_cage_that_has_ended_is_started_again():
    decode_audio(flac(1.0), AudioLimits())
    sndfile._CAGE._process.kill()
    sndfile._CAGE._process.wait()
    assert len(decode_audio(flac(1.0), AudioLimits())) == RATE


def test_the_process_can_open_nothing_and_write_nothing():
    with open_with_sndfile(flac(300.0), LIMITS, 10.0):
        (pid,) = forks()
        told = Path(f"/proc/{pid}/limits").read_text().splitlines()
        limits = {line[:26].strip(): line[26:].split()[:2] for line in told[1:]}
    assert limits["Max open files"] == limits["Max file size"] == ["0", "0"]
    assert limits["Max address space"] == [str(sndfile.MEMORY_BYTES)] * 2
    assert limits["Max cpu time"] == ["60", "60"]


def test_a_file_that_nobody_reads_any_more_has_no_process():
    with open_with_sndfile(flac(300.0), LIMITS, 10.0):
        assert len(forks()) == 1
    wait_until(lambda: not forks())


def test_a_file_ends_with_its_request():
    n = 0

    def check() -> None:
        nonlocal n
        n += 1
        if n > 20:
            raise NotReady("nobody waits")

    with pytest.raises(NotReady), open_with_sndfile(flac(300.0), LIMITS, 10.0, check) as file:
        list(file.blocks)
    wait_until(lambda: not forks())


def test_a_fork_of_the_service_has_a_cage_of_its_own():
    decode_audio(flac(1.0), AudioLimits())
    pid = os.fork()
    if pid == 0:
        os._exit(0 if len(decode_audio(flac(1.0), AudioLimits())) == RATE else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(decode_audio(flac(1.0), AudioLimits())) == RATE
