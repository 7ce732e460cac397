"""The whole line on real input: Marathi speech in, Marathi words out, by the service as it is started."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rapidfuzz import fuzz

from train.data.normalise import marathi
from train.evaluate.scoring import score

ROOT = Path(__file__).parents[1]
ARTIFACT = ROOT / "model_artifacts" / "whisper-base-mr"
SAMPLE = ROOT / "tests" / "data" / "sample-mr.flac"  # a sentence and a voice that training never met
SAMPLE_TEXT = "राजा असतो तर कर माफ करून टाकला असता"

ENCODINGS = {
    "wav": ("audio/wav", ["-f", "wav"]),
    "mp3": ("audio/mpeg", ["-f", "mp3", "-b:a", "96k"]),
    "ogg-vorbis": ("audio/ogg", ["-f", "ogg", "-c:a", "libvorbis"]),
    "m4a-aac": ("audio/mp4", ["-f", "mp4", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
    "webm-opus": ("video/webm", ["-f", "webm", "-c:a", "libopus"]),
    "wav-telephone": ("audio/wav", ["-f", "wav", "-c:a", "pcm_mulaw", "-ar", "8000"]),
    "wav-stereo-44k": ("audio/wav", ["-f", "wav", "-ar", "44100", "-ac", "2"]),
}


@pytest.fixture(scope="module")
def client(served):
    """A client of the service with the int8 base and the shipped adapter."""
    with served(ARTIFACT) as client:
        yield client


def encoded(name: str) -> tuple[str, bytes]:
    """Return the sample's content type and bytes in one of `ENCODINGS`, made by a real encoder."""
    content_type, arguments = ENCODINGS[name]
    command = ["ffmpeg", "-v", "error", "-i", str(SAMPLE), *arguments, "pipe:1"]
    return content_type, subprocess.run(command, capture_output=True, check=True).stdout


def character_error_rate(text: str) -> float:
    return score([SAMPLE_TEXT], [text], "marathi").cer


def turned_over() -> bytes:
    """Return the sample in two channels that cancel each other."""
    samples, sample_rate = soundfile.read(SAMPLE)
    file = io.BytesIO()
    soundfile.write(file, np.stack([samples, -samples], axis=1), sample_rate, format="FLAC")
    return file.getvalue()


def surrounded() -> bytes:
    """Return the sample in the centre of 5.1, with noise as loud as itself in the five others."""
    samples, sample_rate = soundfile.read(SAMPLE)
    noise = np.random.default_rng(0).normal(0, samples.std(), (len(samples), 6))
    noise[:, 2] = samples
    file = io.BytesIO()
    soundfile.write(file, noise / 4, sample_rate, format="WAVEX", subtype="PCM_16")
    return file.getvalue()


def begun_in_a_frame() -> bytes:
    """Return the sample as an MP3 whose beginning is lost."""
    command = ["ffmpeg", "-v", "error", "-i", str(SAMPLE), "-b:a", "64k", "-f", "mp3", "pipe:1"]
    return subprocess.run(command, capture_output=True, check=True).stdout[1_233:]


def two_billion_bytes_long() -> bytes:
    """Return the sample as a WAV that announces more than it holds."""
    samples, sample_rate = soundfile.read(SAMPLE)
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue().replace(
        b"data" + (2 * len(samples)).to_bytes(4, "little"), b"data\x00\x94\x35\x77"
    )


@pytest.mark.parametrize("made", [turned_over, surrounded, begun_in_a_frame, two_billion_bytes_long])
def test_a_recording_that_is_not_quite_what_it_seems_gives_its_words(client, made):
    answer = client.post("/invocations", content=made())
    assert answer.status_code == 200, answer.text
    transcript = answer.json()
    assert character_error_rate(transcript["text"]) < 0.2
    assert ("sound" in transcript) == (made in (turned_over, surrounded))


def test_a_film_whose_sound_begins_late_has_its_subtitles_late(client, tmp_path):
    film = tmp_path / "film.mp4"
    pictures = ["-f", "lavfi", "-i", "testsrc=size=32x32:rate=5:duration=9", "-c:v", "mpeg4"]
    sound = ["-itsoffset", "5", "-i", str(SAMPLE), "-map", "0:a", "-map", "1:v", "-c:a", "aac"]
    subprocess.run(
        ["ffmpeg", "-v", "error", *sound[:4], *pictures[:4], *sound[4:], *pictures[4:], str(film)], check=True
    )

    transcript = client.post("/invocations", content=film.read_bytes()).json()

    assert character_error_rate(transcript["text"]) < 0.2
    assert transcript["segments"][0]["start"] == pytest.approx(5.0, abs=0.2)
    assert transcript["duration_s"] == pytest.approx(8.3, abs=0.2)
    assert transcript["sound"]["clock"]["starts_at"] == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_recording_in_any_container_gives_its_words(client, name):
    content_type, body = encoded(name)
    answer = client.post("/invocations", content=body, headers={"content-type": content_type})
    assert answer.status_code == 200, answer.text
    transcript = answer.json()
    assert character_error_rate(transcript["text"]) < 0.2
    assert transcript["language"] == "mr"
    assert transcript["duration_s"] == pytest.approx(soundfile.info(SAMPLE).duration, abs=0.15)


def test_a_form_and_a_json_body_give_the_same_text_as_the_bytes(client):
    body = SAMPLE.read_bytes()
    plain = client.post("/invocations", content=body, headers={"content-type": "audio/flac"}).json()["text"]
    form = client.post("/invocations", files={"file": ("x.flac", body)}, data={"language": "mr"}).json()[
        "text"
    ]
    wrapped = {"audio": base64.b64encode(body).decode(), "language": "mr"}
    assert plain == form == client.post("/invocations", json=wrapped).json()["text"]


def test_a_text_does_not_depend_on_who_else_is_served(client):
    sample, sample_rate = soundfile.read(SAMPLE, dtype="float32")
    bodies = []
    for gain, n_samples in itertools.product((1.0, 0.5, 0.2), (len(sample), int(2.8 * sample_rate))):
        wav = io.BytesIO()
        soundfile.write(wav, gain * sample[:n_samples], sample_rate, format="WAV")
        bodies.append(wav.getvalue())

    def text_of(body):
        answer = client.post("/invocations", content=body, headers={"content-type": "audio/wav"})
        return answer.raise_for_status().json()["text"]

    alone = [text_of(body) for body in bodies]
    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(text_of, bodies * 4)) == alone * 4


def test_the_streamed_text_is_the_whole_text(client):
    # Three sentences with long pauses between them: three windows, sent one by one.
    samples, sample_rate = soundfile.read(SAMPLE, dtype="float32")
    pause = np.zeros(2 * sample_rate, np.float32)
    body = io.BytesIO()
    soundfile.write(
        body, np.concatenate([samples, pause, samples, pause, samples]), sample_rate, format="WAV"
    )
    whole = client.post("/invocations", content=body.getvalue()).json()
    headers = {"accept": "application/x-ndjson"}
    with client.stream("POST", "/invocations", content=body.getvalue(), headers=headers) as answer:
        events = [json.loads(line) for line in answer.iter_lines()]
    assert [event["type"] for event in events] == ["start", "segment", "segment", "segment", "end"]
    streamed = [event["text"] for event in events if event["type"] == "segment"]
    assert streamed == [segment["text"] for segment in whole["segments"]]
    assert marathi(" ".join(streamed)) == marathi(whole["text"])


@pytest.mark.parametrize(
    ("body", "statuses"),
    [(b"This is a text file.\n" * 100, {415, 422}), (b"", {400, 422})],
    ids=["text-file", "empty-body"],
)
def test_what_is_no_recording_is_refused_and_the_next_request_works(client, body, statuses):
    answer = client.post("/invocations", content=body, headers={"content-type": "audio/wav"})
    assert answer.status_code in statuses
    error = answer.json()["error"]
    assert error["code"] and len(error["message"]) > 10 and "Traceback" not in answer.text
    good = client.post("/invocations", content=SAMPLE.read_bytes())
    assert character_error_rate(good.json()["text"]) < 0.2


def test_a_truncated_mp3_is_refused(client):
    content_type, body = encoded("mp3")
    answer = client.post(
        "/invocations", content=body[: len(body) // 2 + 7], headers={"content-type": content_type}
    )
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["code"]


def test_silence_gives_an_empty_text(client):
    body = io.BytesIO()
    soundfile.write(body, np.zeros(48_000, np.float32), 16_000, format="WAV")
    transcript = client.post("/invocations", content=body.getvalue()).json()
    assert transcript["text"] == "" and transcript["segments"] == []


def test_the_words_of_a_recording_come_over_the_socket_as_from_invocations(client):
    headers = {"content-type": "audio/flac", "accept": "text/plain"}
    plain = client.post("/invocations", content=SAMPLE.read_bytes(), headers=headers).text
    command = [sys.executable, "-m", "train.command_line", "client", SAMPLE, "--url", str(client.base_url)]
    live = subprocess.run(
        [*command, "--mode", "bidirectional", "--pace", "4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    # The last word of a live stream is decoded with less silence behind it.
    assert live.stdout.split()[:-1] == plain.split()[:-1] and len(plain.split()) > 5
    assert fuzz.ratio(live.stdout.strip(), plain.strip()) > 90
