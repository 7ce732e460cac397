"""Have a recording transcribed by a SageMaker endpoint or any URL: `shrota client`.

A URL needs nothing but this package; an endpoint needs boto3. The text is printed as it comes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

from serve.config.command_line import Command, flags_of
from serve.config.reader import read_or_raise
from serve.config.sources import flag_layer
from serve.errors import ClientError
from serve.remote.call import DEFAULT_URL, Call, build_payload, call_url, error_sentence


def whole_lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines once they are complete; parts of a stream may end anywhere, even inside a letter."""
    waiting = b""
    for part in parts:
        *lines, waiting = (waiting + part).split(b"\n")
        yield from lines
    if waiting:
        yield waiting


def show_events(parts: Iterable[bytes], out: TextIO) -> None:
    """Print the text of a stream of JSON events as it comes, a segment per line.

    Raises:
        ClientError: The stream is malformed, ends early, or ends with an error.
    """
    ended = False
    for line in whole_lines(parts):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            kind = event["type"]
        except (ValueError, KeyError, TypeError) as error:
            raise ClientError(f"the answer is no stream of events: {line[:200]!r}") from error
        if kind == "segment":
            print(event["text"], file=out, flush=True)
        elif kind == "error":
            raise ClientError(error_sentence(event))
        ended = ended or kind == "end"
    if not ended:
        raise ClientError("the answer broke off before its end")


def transcribe(call: Call, out: TextIO) -> None:
    """Make the call and print its text.

    Raises:
        ClientError, AwsError: The call failed.
    """
    if call.mode in ("live", "bidirectional"):
        from serve.remote.live_client import speak, speak_live

        say = speak_live if call.mode == "live" else speak
        say(call.recording, call.url or DEFAULT_URL, call.options, call.pace, call.timeout_s, out)
        return
    if call.endpoint:
        from serve.remote.invoke import invoke_endpoint

        parts = invoke_endpoint(call, build_payload(call))
    else:
        parts = call_url(call)
    if call.mode == "stream" and call.accept is None:
        show_events(parts, out)
        return
    for part in parts:
        out.buffer.write(part)
        out.buffer.flush()


def read_call(flags: Mapping[str, Any]) -> Call:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Call, flag_layer(flags), {"recording": "a recording"})


def run(call: Call) -> int:
    transcribe(call, sys.stdout)
    return 0


command = Command(
    "client",
    read=read_call,
    run=run,
    about="Have a recording transcribed by a service elsewhere, and print its text.",
    examples="""\
shrota client clip.flac                                      # http://localhost:8080
shrota client clip.flac --mode stream --option language=mr
shrota client clip.flac --mode live                          # as if it were spoken now
shrota client - --mode live                                  # from the microphone
shrota client clip.flac --endpoint marathi --mode stream
shrota client talk.mp3 --endpoint marathi-async --mode async --input s3://bucket/recordings
""",
    flags=flags_of(Call, repeated=True),
    words="recording",
)
