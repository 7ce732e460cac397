"""The bytes of every answer format, and which one an `Accept` header chooses."""

import contextlib
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import NotAcceptable
from serve.formats import (
    FORMATS,
    EndEvent,
    SegmentEvent,
    StartEvent,
    TranscriptBody,
    WireEvent,
    encode_error,
    encode_stream,
    negotiate_format,
)
from serve.transcript import End, Event, Failure, Segment, Start, build_transcript

FAILURE = Failure(code="engine_error", message="the engine failed")
BY_TYPE = {answer_format.media_type: answer_format for answer_format in FORMATS}
LINES = ("application/x-ndjson", "application/jsonlines")


def segment(number: int, text: str, start_s: float = 0.0, end_s: float = 1.0) -> Segment:
    return Segment(
        id=number,
        start_s=start_s,
        end_s=end_s,
        text=text,
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        language="mr",
    )


def whole_answer(*texts: str) -> list[Event]:
    segments = [segment(n, text, start_s=2.0 * n, end_s=2.0 * n + 1.5) for n, text in enumerate(texts)]
    transcript = build_transcript(segments, duration_s=9.5, language="mr")
    return [Start(duration_s=9.5, language="mr"), *segments, End(transcript=transcript, processing_s=0.5)]


def answer(media_type: str, events: list[Event]) -> str:
    return b"".join(encode_stream(events, BY_TYPE[media_type])).decode()


def test_json_is_one_document_with_text_and_segments() -> None:
    body = json.loads(answer("application/json", whole_answer("नमस्कार", "जग")))

    assert (body["text"], body["language"], body["duration_s"]) == ("नमस्कार जग", "mr", 9.5)
    assert body["segments"][1] == {
        "id": 1,
        "start": 2.0,
        "end": 3.5,
        "text": "जग",
        "language": "mr",
        "avg_logprob": -0.25,
        "no_speech_prob": 0.01,
    }


@pytest.mark.parametrize("media_type", LINES)
def test_each_event_is_one_line_of_json_with_its_type(media_type: str) -> None:
    text = answer(media_type, whole_answer("नमस्कार", "जग"))

    assert text.endswith("\n")
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["type"] for event in events] == ["start", "segment", "segment", "end"]
    assert (events[1]["start"], events[1]["end"], events[1]["text"]) == (0.0, 1.5, "नमस्कार")
    assert (events[-1]["text"], events[-1]["n_segments"]) == ("नमस्कार जग", 2)


def test_devanagari_is_sent_as_it_is() -> None:
    for media_type in BY_TYPE:
        assert "नमस्कार" in answer(media_type, whole_answer("नमस्कार"))


def test_lines_decode_to_the_published_types() -> None:
    lines = answer("application/x-ndjson", whole_answer("नमस्कार")).encode().splitlines()

    kinds = [type(msgspec.json.decode(line, type=WireEvent)) for line in lines]

    assert kinds == [StartEvent, SegmentEvent, EndEvent]
    msgspec.json.decode(answer("application/json", whole_answer("नमस्कार")).encode(), type=TranscriptBody)


def test_an_event_stream_names_its_events() -> None:
    blocks = answer("text/event-stream", [*whole_answer("नमस्कार")[:-1], FAILURE]).split("\n\n")

    assert blocks.pop() == ""
    names, data = zip(*(block.split("\n") for block in blocks), strict=True)
    assert names == ("event: start", "event: segment", "event: error")
    assert json.loads(data[2].removeprefix("data: ")) == {
        "type": "error",
        "error": {"code": "engine_error", "message": "the engine failed"},
    }


def test_plain_text_is_a_line_a_segment_and_silence_is_no_line() -> None:
    assert answer("text/plain", whole_answer("नमस्कार\nजग", " ", "बरं")) == "नमस्कार जग\nबरं\n"


def test_subrip_cues_are_numbered_without_gaps() -> None:
    assert answer("application/x-subrip", whole_answer("नमस्कार", "", "जग")) == (
        "1\n00:00:00,000 --> 00:00:01,500\nनमस्कार\n\n2\n00:00:04,000 --> 00:00:05,500\nजग\n\n"
    )


def test_webvtt_has_a_header_and_escapes_what_would_be_markup() -> None:
    assert answer("text/vtt", whole_answer("a < b && c --> d")) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b &amp;&amp; c --&gt; d\n\n"
    )


def test_times_past_an_hour_and_rounding_up_to_a_minute_are_written_right() -> None:
    late = segment(0, "जग", start_s=59.9996, end_s=3 * 3600 + 25 * 60 + 45.6789)

    assert "00:01:00,000 --> 03:25:45,679" in answer("application/x-subrip", [late])


def test_an_answer_without_speech_is_valid_in_every_format() -> None:
    nothing = whole_answer()

    assert json.loads(answer("application/json", nothing))["segments"] == []
    assert answer("text/plain", nothing) == ""
    assert answer("text/vtt", nothing) == "WEBVTT\n\n"
    assert answer("application/x-subrip", nothing) == ""


BROKEN_OFF = {
    "application/json": '{"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "application/x-ndjson": '"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "application/jsonlines": '"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "text/event-stream": "event: error\ndata: {",
    "text/plain": "जग\n[error: engine_error: the engine failed]\n",
    "text/vtt": "NOTE [error: engine_error: the engine failed]\n\n",
    "application/x-subrip": "2\n00:00:01,500 --> 00:00:03,500\n[error: engine_error: the engine failed]\n\n",
}


@pytest.mark.parametrize("media_type", BY_TYPE)
def test_an_answer_that_broke_off_says_so_in_every_format(media_type: str) -> None:
    assert BROKEN_OFF[media_type] in answer(media_type, [*whole_answer("जग")[:-1], FAILURE])


def test_only_json_waits_for_the_end() -> None:
    for answer_format in FORMATS:
        encoder = answer_format.new_encoder()
        early = b"".join(map(encoder.encode, whole_answer("जग")[:-1]))
        assert bool(early) == answer_format.streams


def test_an_error_body_has_a_code_and_a_message() -> None:
    assert json.loads(encode_error("empty_audio", "the body is empty")) == {
        "error": {"code": "empty_audio", "message": "the body is empty"}
    }


def test_what_is_not_a_number_is_null_and_not_broken_json() -> None:
    unsure = Segment(
        id=0,
        start_s=0,
        end_s=1,
        text="हं",
        avg_logprob=float("-inf"),
        no_speech_prob=float("nan"),
        language="mr",
    )

    body = json.loads(answer("application/x-ndjson", [unsure]))

    assert body["avg_logprob"] is None and body["no_speech_prob"] is None


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(), max_size=6))
def test_whatever_the_text_lines_stay_lines_and_cues_stay_cues(texts: list[str]) -> None:
    events = whole_answer(*texts)
    shown = [text for text in texts if text.strip()]

    lines = answer("application/x-ndjson", events).splitlines()  # splits at every Unicode line break
    assert [json.loads(line)["type"] for line in lines] == ["start", *["segment"] * len(texts), "end"]
    assert [json.loads(line)["text"] for line in lines[1:-1]] == texts
    assert answer("text/event-stream", events).count("\n\n") == len(texts) + 2
    for media_type in ("application/x-subrip", "text/vtt"):
        assert len(re.findall("-->", answer(media_type, events))) == len(shown)
    assert answer("text/plain", events).count("\n") == len(shown)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/event-stream", "text/event-stream"),
        ("text/*", "text/plain"),
        ("application/*", "application/json"),
        ("text/vtt, text/plain;q=0.9", "text/vtt"),
        ("text/plain;q=0.2, application/x-subrip;q=0.8", "application/x-subrip"),
        ("text/srt", "application/x-subrip"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/json"),
        ("application/json;q=0, */*", "application/x-ndjson"),
        ("text/*;q=0.3, text/vtt;q=0.1, text/plain;q=0", "text/event-stream"),
        ("text/plain;q=high, text/vtt;q=0.1", "text/vtt"),
        ("nonsense, text/vtt", "text/vtt"),
        ("text/vtt;q=0.5;charset=utf-8, */*;q=0.1", "text/vtt"),
    ],
)
def test_an_accept_header_chooses(accept: str | None, media_type: str) -> None:
    assert negotiate_format(accept).media_type == media_type


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "*/*;q=0", "text/html", "nonsense"])
def test_an_accept_header_that_nothing_meets_is_told_what_there_is(accept: str) -> None:
    with pytest.raises(NotAcceptable, match="application/json, application/x-ndjson"):
        negotiate_format(accept)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet='application/jsontext*;,q=0.15- "\\\t', max_size=60))
def test_any_accept_header_is_met_or_refused(accept: str) -> None:
    with contextlib.suppress(NotAcceptable):
        assert negotiate_format(accept) in FORMATS
