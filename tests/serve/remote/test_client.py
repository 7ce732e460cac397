"""The client as a program: against a service that runs, an endpoint's wire format, S3, and a WebSocket."""

from __future__ import annotations

import binascii
import io
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from serve.config.command_line import run_command
from serve.errors import ClientError, ConfigError
from serve.remote.call import Call, build_payload
from serve.remote.client import command, show_events, whole_lines

ROOT = Path(__file__).parents[3]
TEXT = "घर लाल आहे"


@pytest.fixture
def recording(speech_wav, tmp_path):
    path = tmp_path / "speech.wav"
    path.write_bytes(speech_wav)
    return path


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    """Stand-ins: nothing here leaves this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


def test_lines_are_whole_wherever_the_parts_of_a_stream_are_cut():
    stream = "\n".join([TEXT, "", "दोन"]).encode()
    for size in range(1, 12):  # a Devanagari letter has three bytes
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [line.decode() for line in whole_lines(parts)] == [TEXT, "", "दोन"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [
                {"type": "start"},
                {"type": "error", "error": {"code": "engine_error", "message": "it is gone"}},
            ],
            "engine_error: it is gone",
        ),
        ([{"type": "start"}, {"type": "segment", "text": TEXT}], "broke off"),
        (["<html>"], "not a stream of events"),
    ],
)
def test_a_stream_that_ends_badly_is_an_error(lines, said):
    parts = [(line if isinstance(line, str) else json.dumps(line)).encode() + b"\n" for line in lines]
    with pytest.raises(ClientError, match=said):
        show_events(parts, io.StringIO())


def test_options_travel_in_the_header_where_they_fit_and_otherwise_in_the_body(recording):
    payload = build_payload(Call(recording=recording, option=("language=mr", "beam_size=5")))
    assert payload.attributes == "language=mr;beam_size=5" and payload.body == recording.read_bytes()
    payload = build_payload(Call(recording=recording, option=("language=mr", f"prompt={TEXT}")))
    assert payload.attributes == "" and payload.content_type == "application/json"
    assert json.loads(payload.body)["prompt"] == TEXT


def test_all_contradictions_are_named_together(tmp_path, capsys):
    wrong = ["--mode", "async", "--url", "ftp://x", "--endpoint", "e", "--pace", "-1", "--input", "bucket"]
    assert run_command(command, [str(tmp_path / "none.wav"), *wrong]) == 1
    said = capsys.readouterr().err
    for part in ("no such file", "exclude each other", "http://", "--pace", "s3://"):
        assert part in said
    with pytest.raises(ConfigError, match="boto3 cannot call"):
        Call(recording=Path(__file__), mode="bidirectional", endpoint="e")


def test_a_service_is_called_without_boto3_and_shows_the_same_text_plain_and_streamed(
    served, tiny_artifact_dir, recording
):
    without_boto3 = "import sys; sys.modules['boto3'] = None; from train.command_line import main; main()"

    def call(url, *flags):
        words = [sys.executable, "-c", without_boto3, "client", str(recording), "--url", url, *flags]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    with served(tiny_artifact_dir) as client:
        url = str(client.base_url)
        plain = call(url)
        streamed = call(url, "--mode", "stream", "--option", "language=mr")
        refused = call(url, "--option", "temperature=hot")
        subtitles = call(url, "--accept", "text/vtt")
        live = call(url, "--mode", "bidirectional", "--pace", "0")
        wrong = call(url, "--mode", "bidirectional", "--option", "colour=red")
    assert plain.returncode == 0 and plain.stdout.strip(), plain.stderr
    assert streamed.stdout.split() == plain.stdout.split()
    assert subtitles.stdout.startswith("WEBVTT")
    assert refused.returncode == 1 and "status 400" in refused.stderr and "temperature" in refused.stderr
    assert live.returncode == 0 and live.stdout.strip(), live.stderr
    assert wrong.returncode == 1 and "unsupported_option" in wrong.stderr and "colour" in wrong.stderr


def test_nobody_at_the_address_is_said_in_one_sentence(recording, capsys):
    assert run_command(command, [str(recording), "--url", "http://127.0.0.1:9"]) == 1
    assert "does not answer" in capsys.readouterr().err


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """Return a message of `application/vnd.amazon.eventstream`: lengths, headers, payload, two checksums."""
    packed = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(packed) + len(payload), len(packed))
    message = prelude + struct.pack(">I", binascii.crc32(prelude)) + packed + payload
    return message + struct.pack(">I", binascii.crc32(message))


def part(payload: bytes) -> bytes:
    return frame(
        {":message-type": "event", ":event-type": "PayloadPart", ":content-type": "application/octet-stream"},
        payload,
    )


@contextmanager
def runtime(
    status: int, content_type: str, body: bytes
) -> Iterator[tuple[str, list[tuple[str, dict[str, str]]]]]:
    """Stand in for SageMaker's runtime on loopback: one answer for every call."""
    seen: list[tuple[str, dict[str, str]]] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


def test_a_streaming_endpoint_is_read_off_the_wire_and_shown_as_text(recording, capsys, monkeypatch):
    events = [{"type": "start"}, {"type": "segment", "text": TEXT}, {"type": "end", "text": TEXT}]
    lines = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in events).encode()
    cut = lines.index("ल".encode()) + 1  # within a letter
    with runtime(200, "application/vnd.amazon.eventstream", part(lines[:cut]) + part(lines[cut:])) as (
        url,
        seen,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        flags = [
            "--endpoint",
            "marathi",
            "--mode",
            "stream",
            "--option",
            "language=mr",
            "--component",
            "base",
        ]
        assert run_command(command, [str(recording), *flags]) == 0
    assert capsys.readouterr().out == f"{TEXT}\n"
    ((path, headers),) = seen
    assert path == "/endpoints/marathi/invocations-response-stream"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "language=mr"
    assert headers["x-amzn-sagemaker-inference-component"] == "base"


def test_a_stream_that_sagemaker_breaks_off_is_told_in_its_words(recording, capsys, monkeypatch):
    failure = frame(
        {
            ":message-type": "exception",
            ":exception-type": "ModelStreamError",
            ":content-type": "application/json",
        },
        b'{"Message": "the container went away", "ErrorCode": "ModelInvocationTimeExceeded"}',
    )
    with runtime(200, "application/vnd.amazon.eventstream", part(b'{"type":"start"}\n') + failure) as (
        url,
        _,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        assert run_command(command, [str(recording), "--endpoint", "marathi", "--mode", "stream"]) == 1
    assert "the container went away" in capsys.readouterr().err


def test_the_containers_own_refusal_comes_through_an_endpoint(recording, capsys, monkeypatch):
    own = json.dumps({"error": {"code": "audio_too_long", "message": "audio lasts at least 7 s"}})
    body = {"Message": "Received client error", "OriginalMessage": own, "OriginalStatusCode": 413}
    with runtime(424, "application/json", json.dumps({"__type": "ModelError", **body}).encode()) as (url, _):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", url)
        assert run_command(command, [str(recording), "--endpoint", "marathi"]) == 1
    assert "status 413, audio_too_long: audio lasts" in capsys.readouterr().err


def test_an_asynchronous_call_goes_through_s3(recording, capsys):
    import boto3
    from moto import mock_aws

    with mock_aws():
        s3 = boto3.client("s3")
        s3.create_bucket(Bucket="speech")
        flags = ["--endpoint", "marathi", "--mode", "async", "--input", "s3://speech/in"]
        assert (
            run_command(command, [str(recording), *flags]) == 0
        )  # moto's endpoint answers every call at once
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket="speech")["Contents"]]
    (put,) = [key for key in keys if key.startswith("in/")]
    assert put.endswith("/speech.wav") and capsys.readouterr().out


def test_a_live_stream_sends_settings_then_pcm_then_the_end_and_prints_what_is_final(recording, capsys):
    from websockets.sync.server import serve

    frames: list[str | bytes] = []

    def answer(connection):
        for message in connection:
            frames.append(message)
            if isinstance(message, str) and "end" in message:
                for text, final in (("घर", False), (TEXT, True)):
                    connection.send(json.dumps({"text": text, "is_final": final}))
                return

    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        flags = ["--mode", "bidirectional", "--pace", "0", "--option", "language=mr"]
        assert run_command(command, [str(recording), "--url", url, *flags]) == 0
        server.shutdown()
    settings, *pcm, end = frames
    assert json.loads(settings) == {"sample_rate": 16_000, "encoding": "pcm_s16le", "language": "mr"}
    assert sum(len(piece) for piece in pcm) == 2 * 5 * 16_000 and json.loads(end) == {"type": "end"}
    assert capsys.readouterr().out == f"{TEXT}\n"
