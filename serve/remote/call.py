"""A recording to be transcribed by a service elsewhere: the flags, the request body, and calls of a URL."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serve.config.reader import read_pairs
from serve.errors import ClientError, ConfigError
from serve.remote.requests import s3_faults

DEFAULT_URL = "http://localhost:8080"
NDJSON = "application/x-ndjson"
RAW = "application/octet-stream"
_PART_BYTES = 65_536
_HEADER_SAFE = re.compile(r"[\x21-\x3a\x3c-\x7e]+")  # visible ASCII; a semicolon ends a value


@dataclass(frozen=True, kw_only=True)
class Call:
    """The flags of `shrota client`: a recording, and where to have it transcribed."""

    recording: Path
    """File to transcribe, in any format; the flag may be omitted if the file comes first. With --mode live,
    - is the microphone."""
    mode: Literal["plain", "stream", "async", "live", "bidirectional"] = "plain"
    """plain (one response), stream (text as it comes), async (through S3, for long recordings; endpoints
    only), live (words as they are spoken; URLs only), bidirectional (the same in SageMaker's protocol)."""
    url: str | None = None
    """URL of the service; http://localhost:8080 by default."""
    endpoint: str | None = None
    """Name of a SageMaker endpoint, instead of a URL."""
    option: tuple[str, ...] = ()
    """Transcription option, KEY=VALUE, such as language=mr."""
    accept: str | None = None
    """Media type of the response; by default plain text, or for a stream, events that are shown as text."""
    component: str | None = None
    """Inference component of the endpoint, such as an adapter."""
    target_model: str | None = None
    """Artifact of a multi-model endpoint, such as marathi.tar.gz."""
    input: str | None = None
    """S3 prefix to upload the recording to (async)."""
    timeout_s: float = 900.0
    """Longest wait for a response."""
    pace: float = 1.0
    """Speed of sending relative to real time; 0 sends the recording at once (live,
    bidirectional)."""
    region: str | None = None
    """AWS region; the environment's by default."""

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ConfigError: Lists every fault.
        """
        faults: list[str] = []
        read_pairs(self.option, "--option", faults)
        faults += s3_faults({"--input": self.input})
        on_endpoint = self.endpoint is not None
        rules = (
            (
                self.recording.is_file() or (self.mode == "live" and self.recording == Path("-")),
                f"there is no file {self.recording}",
            ),
            (self.mode != "live" or not on_endpoint, "--mode live needs a --url: endpoints have no /live"),
            (not (on_endpoint and self.url), "--url and --endpoint exclude each other"),
            (self.mode != "async" or on_endpoint, "--mode async is for an --endpoint"),
            (self.mode != "async" or self.input is not None, "--mode async needs --input, a place in S3"),
            (
                self.mode != "bidirectional" or not on_endpoint,
                "--mode bidirectional needs a --url: boto3 cannot call InvokeEndpointWithBidirectionalStream",
            ),
            (
                on_endpoint or not (self.component or self.target_model),
                "--component and --target-model need --endpoint",
            ),
            (
                self.url is None or bool(re.match(r"https?://", self.url)),
                "--url begins with http:// or https://",
            ),
            (self.timeout_s > 0, "--timeout-s is above 0"),
            (self.pace >= 0, "--pace is 0 or more"),
        )
        faults += [fault for holds, fault in rules if not holds]
        if faults:
            raise ConfigError(faults)

    @property
    def media_type(self) -> str:
        """Media type to request."""
        return self.accept or (NDJSON if self.mode == "stream" else "text/plain")

    @property
    def options(self) -> dict[str, str]:
        """Transcription options by name."""
        return read_pairs(self.option, "--option", [])


@dataclass(frozen=True, kw_only=True)
class Payload:
    """The body of a call, and its headers."""

    body: bytes
    content_type: str
    attributes: str
    """Value of `X-Amzn-SageMaker-Custom-Attributes`; empty where the options are in the body."""


def build_payload(call: Call) -> Payload:
    """Return the recording with its options: in a header if they fit, otherwise everything as JSON."""
    audio = call.recording.read_bytes()
    if all(_HEADER_SAFE.fullmatch(value) for value in call.options.values()):
        attributes = ";".join(f"{name}={value}" for name, value in call.options.items())
        return Payload(body=audio, content_type=RAW, attributes=attributes)
    body = {"audio": base64.b64encode(audio).decode(), **call.options}
    return Payload(
        body=json.dumps(body, ensure_ascii=False).encode(), content_type="application/json", attributes=""
    )


def error_sentence(body: Any, status: int | None = None) -> str:
    """Return the service's error message as one sentence."""
    error = body.get("error") if isinstance(body, dict) else None
    said = f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) else str(body)[:500]
    return f"status {status}, {said}" if status else said


def call_url(call: Call) -> Iterator[bytes]:
    """Yield the parts of a response from a URL.

    Raises:
        ClientError: The service does not answer, or responds with an error status.
    """
    payload = build_payload(call)
    headers = {"Content-Type": payload.content_type, "Accept": call.media_type}
    if payload.attributes:
        headers["X-Amzn-SageMaker-Custom-Attributes"] = payload.attributes
    url = f"{(call.url or DEFAULT_URL).rstrip('/')}/invocations"
    request = urllib.request.Request(url, payload.body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=call.timeout_s) as answer:
            while part := answer.read1(_PART_BYTES):
                yield part
    except urllib.error.HTTPError as error:
        raise ClientError(error_sentence(_json_or_text(error.read()), error.code)) from error
    except OSError as error:
        raise ClientError(f"{url} does not answer: {getattr(error, 'reason', error)}") from error


def _json_or_text(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
