"""Whole inputs that mutations begin from: recordings of every container, forms, JSON, heads, frames."""

from __future__ import annotations

import base64
import io
import json
import subprocess
from pathlib import Path

import numpy as np
import soundfile

CONTAINERS = {
    "wav": ("-c:a", "pcm_s16le", "-f", "wav"),
    "w64": ("-c:a", "pcm_s24le", "-f", "w64"),
    "aiff": ("-c:a", "pcm_s16be", "-f", "aiff"),
    "au": ("-c:a", "pcm_mulaw", "-f", "au"),
    "flac": ("-c:a", "flac", "-f", "flac"),
    "ogg": ("-c:a", "libvorbis", "-f", "ogg"),
    "opus": ("-c:a", "libopus", "-f", "ogg"),
    "mp3": ("-c:a", "libmp3lame", "-f", "mp3"),
    "m4a": ("-c:a", "aac", "-f", "ipod"),
    "mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "webm": ("-c:a", "libopus", "-f", "webm"),
    "amr": ("-c:a", "libopencore_amrnb", "-ar", "8000", "-f", "amr"),
    "caf": ("-c:a", "alac", "-f", "caf"),
    "aac": ("-c:a", "aac", "-f", "adts"),
}
"""Container -> ffmpeg's options; those that this ffmpeg cannot write are left out."""


def recordings(clip: Path, seconds: float, strangers: Path | None) -> dict[str, bytes]:
    """Return a clip's first speech in every container, and the small files of a directory of strange ones."""
    samples, rate = soundfile.read(clip, dtype="float32")
    start = int(np.argmax(np.abs(samples) > 0.1))
    wav = io.BytesIO()
    soundfile.write(wav, samples[start : start + round(seconds * rate)], rate, format="WAV", subtype="PCM_16")
    found = {}
    for name, options in CONTAINERS.items():
        # m4a needs an output that can be sought: it is written to a file.
        command = ["ffmpeg", "-v", "error", "-i", "pipe:0", *options, "-y"]
        to_pipe = name != "m4a"
        out = "pipe:1" if to_pipe else f"{clip.stem}.fuzz.m4a"
        done = subprocess.run([*command, out], input=wav.getvalue(), capture_output=True, check=False)
        content = done.stdout if to_pipe else (Path(out).read_bytes() if done.returncode == 0 else b"")
        if not to_pipe:
            Path(out).unlink(missing_ok=True)
        if done.returncode == 0 and content:
            found[name] = content
    if strangers is not None:
        for path in sorted(strangers.rglob("*")):
            if path.is_file() and path.stat().st_size < 100_000:
                found[path.name] = path.read_bytes()
    return found


def form(sound: bytes, **fields: str) -> bytes:
    """Return a multipart body with the boundary `frontier`."""
    parts = [
        f'--frontier\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    name = b'Content-Disposition: form-data; name="file"; filename="a.wav"'
    head = b"--frontier\r\n" + name + b"\r\nContent-Type: audio/wav\r\n\r\n"
    return b"".join([*parts, head, sound, b"\r\n--frontier--\r\n"])


def forms(sound: bytes) -> list[bytes]:
    """Return forms of both kinds of routes."""
    return [
        form(sound),
        form(sound, model="whisper-1", response_format="verbose_json", language="mr"),
        form(sound, **{"timestamp_granularities[]": "word", "model": "whisper-1", "temperature": "0.2"}),
        form(sound, model="whisper-1", stream="true", prompt="नमस्कार", chunking_strategy="auto"),
        form(sound, language="auto", format="srt", word_timestamps="true", hotwords="श्रोता"),
        form(sound, language="en", prompt="Shrota listens"),  # loads the model that knows all tokens
    ]


def jsons(sound: bytes) -> list[bytes]:
    """Return JSON bodies."""
    audio = base64.b64encode(sound).decode()
    return [
        json.dumps(body).encode()
        for body in (
            {"audio": audio},
            {"audio": f"data:audio/wav;base64,{audio}", "language": "mr", "format": "json"},
            {"audio": audio, "beam_size": 2, "temperature": [0, 0.4], "word_timestamps": True},
            {"audio": audio, "prompt": "नमस्कार", "channels": "mix", "max_new_tokens": 12},
        )
    ]


HEADS = [
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain;q=0.5, */*\r\n\r\n",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: audio/wav\r\nContent-Length: 4\r\n\r\nRIFF",
    b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nRIFF\r\n0\r\n\r\n",
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"Content-Length: 5\r\nAuthorization: Bearer k\r\n\r\n--b--",
    b"GET /live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"OPTIONS /invocations HTTP/1.1\r\nHost: x\r\nOrigin: https://x\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n",
    b"GET /adapters/x HTTP/1.0\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nCookie: a=b\r\n\r\n",
]

LIVE_DOORS = {
    "/live?rate=16000": [b'{"type": "finalize"}', b'{"type": "keepalive"}', b'{"type": "close"}'],
    "/live?format=container": [b'{"type": "close"}'],
    "/v1/realtime?intent=transcription": [
        b'{"type": "session.update", "session": {"type": "transcription", "audio": {"input": {"format":'
        b' {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}}}}}',
        b'{"type": "input_audio_buffer.append", "audio": "AAAAAAAAAAAAAAAAAAAAAA=="}',
        b'{"type": "input_audio_buffer.commit"}',
        b'{"type": "input_audio_buffer.clear"}',
    ],
    "/v1/listen?encoding=linear16&sample_rate=16000": [b'{"type": "KeepAlive"}', b'{"type": "Finalize"}'],
    "/invocations-bidirectional-stream": [b'{"type": "config", "sample_rate": 16000}', b'{"type": "end"}'],
}
"""Address of a live door -> text frames that it knows."""

TRAINING = b"""name: fuzz
output_dir: runs/fuzz
base_model: openai/whisper-base
language: mr
train_data: ["a.jsonl?label=x&weight=2"]
valid_data: []
lora_rank: 8
encoder: {rank: 4, learning_rate: 1.0e-4}
augment: {speed: 0.5, speed_range: [0.9, 1.1], noise: 0.3}
max_steps: 10
batch_s: 24
learning_rate: 1e-3
window_margin_s: [0.3, 1.5]
"""
