"""Have a recording transcribed, by a SageMaker endpoint or any address that serves: text as it comes.

    python -m serve.remote.client clip.flac                                      # http://localhost:8080
    python -m serve.remote.client clip.flac --mode stream --option language=mr
    python -m serve.remote.client clip.flac --endpoint marathi --mode stream
    python -m serve.remote.client talk.mp3 --endpoint marathi-async --mode async --input s3://bucket/recordings
    python -m serve.remote.client clip.flac --mode bidirectional                # as if it were spoken now

An address needs nothing but this package; an endpoint needs boto3. Exit status: 0 with the text on standard
output, 1 with one sentence on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TextIO

from serve.config.flags import parse_flags
from serve.errors import AwsError, ClientError, ConfigError
from serve.remote.call import DEFAULT_URL, Call, build_payload, call_url, error_sentence


def whole_lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines as soon as they are whole: parts of a stream end anywhere, even within a letter."""
    waiting = b""
    for part in parts:
        *lines, waiting = (waiting + part).split(b"\n")
        yield from lines
    if waiting:
        yield waiting


def show_events(parts: Iterable[bytes], out: TextIO) -> None:
    """Print the text of a stream of JSON events, a segment a line, as it comes.

    Raises:
        ClientError: the stream ends with an error, in the middle, or is none.
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
        ClientError, AwsError: there is none; one sentence says why.
    """
    if call.mode == "bidirectional":
        from serve.remote.live_client import speak

        speak(call.recording, call.url or DEFAULT_URL, call.options, call.pace, call.timeout_s, out)
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


def main(arguments: Sequence[str]) -> int:
    """Parse the flags, make the call, and turn known errors into one sentence and exit status 1."""
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--recording", *arguments]
    try:
        call = parse_flags(
            Call,
            arguments,
            program="python -m serve.remote.client",
            about="Have a recording transcribed, and print its text.",
            examples=(__doc__ or "").partition("\n\n")[2],
        )
        transcribe(call, sys.stdout)
    except ConfigError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    except (ClientError, AwsError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
