"""The bytes of every answer format, and which one an `Accept` header chooses."""

import contextlib
import html
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.audio.recording import ClockReport, MixReport, SoundReport, Track
from serve.errors import NotAcceptable, UnsupportedOption
from serve.http.accept import negotiate_format
from serve.transcript.events import End, Event, Failure, Segment, Start, Transcript, Word, build_transcript
from serve.transcript.formats import FORMATS, named_format, take_format
from serve.transcript.wire import (
    EndEvent,
    SegmentEvent,
    StartEvent,
    TranscriptBody,
    VerboseBody,
    WireEvent,
    encode_error,
)

FAILURE = Failure(code="engine_error", message="the engine failed")
NAMES = [answer_format.name for answer_format in FORMATS]
LINES = ("ndjson", "jsonlines")


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


def answer(name: str, events: list[Event]) -> str:
    encoder = named_format(name).new_encoder()
    return b"".join(encoder.encode(event) for event in events).decode()


def test_json_is_one_document_with_text_and_segments() -> None:
    body = json.loads(answer("json", whole_answer("नमस्कार", "जग")))

    assert (body["text"], body["language"], body["duration_s"]) == ("नमस्कार जग", "mr", 9.5)
    assert body["segments"][1] == {
        "id": 1,
        "start": 2.0,
        "end": 3.5,
        "text": "जग",
        "language": "mr",
        "avg_logprob": -0.25,
        "no_speech_prob": 0.01,
        "temperature": 0.0,
        "compression_ratio": 1.0,
    }


@pytest.mark.parametrize("name", LINES)
def test_each_event_is_one_line_of_json_with_its_type(name: str) -> None:
    text = answer(name, whole_answer("नमस्कार", "जग"))

    assert text.endswith("\n")
    events = [json.loads(line) for line in text.splitlines()]
    assert [event["type"] for event in events] == ["start", "segment", "segment", "end"]
    assert (events[1]["start"], events[1]["end"], events[1]["text"]) == (0.0, 1.5, "नमस्कार")
    assert (events[-1]["text"], events[-1]["n_segments"]) == ("नमस्कार जग", 2)


SOUND = SoundReport(
    track=Track(number=2, language="mar", is_default=True, n_tracks=3),
    mix=MixReport(layout="stereo", weights=(0.5, 0.5), turned=(2,)),
    clock=ClockReport(starts_at_s=5.0, gaps_s=8.0, leap_s=90_000.0),
)


@pytest.mark.parametrize("name", ["json", "verbose_json", "ndjson"])
def test_what_was_done_to_the_sound_is_told_where_something_was(name: str) -> None:
    transcript = build_transcript([segment(0, "नमस्कार")], duration_s=9.5, language="mr", sound=SOUND)
    events = [Start(duration_s=9.5, sound=SOUND), End(transcript=transcript)]

    for line in answer(name, events).splitlines():
        assert json.loads(line)["sound"] == {
            "track": {"number": 2, "n_tracks": 3, "language": "mar", "is_default": True},
            "channels": {
                "layout": "stereo",
                "weights": [0.5, 0.5],
                "note": "channel 2 cancelled the others, and was inverted where it did",
            },
            "clock": {
                "starts_at": 5.0,
                "gaps": 8.0,
                "note": "the container's clock leaps by 90000 s; no silence was put there, so times are "
                "earlier than its own",
            },
        }


def test_of_a_usual_recording_nothing_is_told_of_its_sound() -> None:
    for name in NAMES:
        assert "sound" not in answer(name, whole_answer("नमस्कार"))


def test_devanagari_is_sent_as_it_is() -> None:
    for name in NAMES:
        assert "नमस्कार" in answer(name, whole_answer("नमस्कार"))


def test_lines_decode_to_the_published_types() -> None:
    lines = answer("ndjson", whole_answer("नमस्कार")).encode().splitlines()

    kinds = [type(msgspec.json.decode(line, type=WireEvent)) for line in lines]

    assert kinds == [StartEvent, SegmentEvent, EndEvent]
    msgspec.json.decode(answer("json", whole_answer("नमस्कार")).encode(), type=TranscriptBody)


def test_an_event_stream_names_its_events() -> None:
    blocks = answer("sse", [*whole_answer("नमस्कार")[:-1], FAILURE]).split("\n\n")

    assert blocks.pop() == ""
    names, data = zip(*(block.split("\n") for block in blocks), strict=True)
    assert names == ("event: start", "event: segment", "event: error")
    assert json.loads(data[2].removeprefix("data: ")) == {
        "type": "error",
        "error": {"code": "engine_error", "message": "the engine failed"},
    }


def test_plain_text_is_a_line_a_segment_and_silence_is_no_line() -> None:
    assert answer("text", whole_answer("नमस्कार\nजग", " ", "बरं")) == "नमस्कार जग\nबरं\n"


def test_subrip_cues_are_numbered_without_gaps() -> None:
    assert answer("srt", whole_answer("नमस्कार", "", "जग")) == (
        "1\n00:00:00,000 --> 00:00:01,500\nनमस्कार\n\n2\n00:00:04,000 --> 00:00:05,500\nजग\n\n"
    )


def test_webvtt_has_a_header_and_escapes_what_would_be_markup() -> None:
    assert answer("vtt", whole_answer("a < b && c --> d")) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\na &lt; b &amp;&amp; c --&gt; d\n\n"
    )


def test_times_past_an_hour_and_rounding_up_to_a_minute_are_written_right() -> None:
    early = segment(0, "जग", start_s=58.5, end_s=59.9996)
    late = segment(1, "जग", start_s=3599.9999, end_s=3 * 3600 + 25 * 60 + 45.6789)

    cues = answer("srt", [early, late])

    assert "00:00:58,500 --> 00:01:00,000\n" in cues
    assert "01:00:00,000 --> 01:00:07,000\n" in cues
    assert answer("tsv", [late]) == "3600000\t12345679\tजग\n"


def test_an_answer_without_speech_is_valid_in_every_format() -> None:
    nothing = whole_answer()

    assert json.loads(answer("json", nothing))["segments"] == []
    assert answer("text", nothing) == ""
    assert answer("vtt", nothing) == "WEBVTT\n\n"
    assert answer("srt", nothing) == ""


BROKEN_OFF = {
    "json": '{"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "ndjson": '"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "jsonlines": '"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "sse": "event: error\ndata: {",
    "text": "जग\n[error: engine_error: the engine failed]\n",
    "vtt": "NOTE [error: engine_error: the engine failed]\n\n",
    "verbose_json": '{"error":{"code":"engine_error","message":"the engine failed"}}\n',
    "tsv": "1500\t1500\t[error: engine_error: the engine failed]\n",
    "srt": "2\n00:00:01,500 --> 00:00:03,500\n[error: engine_error: the engine failed]\n\n",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_that_broke_off_says_so_in_every_format(name: str) -> None:
    assert BROKEN_OFF[name] in answer(name, [*whole_answer("जग")[:-1], FAILURE])


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

    body = json.loads(answer("ndjson", [unsure]))

    assert body["avg_logprob"] is None and body["no_speech_prob"] is None


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.text(), max_size=6))
def test_whatever_the_text_lines_stay_lines_and_cues_stay_cues(texts: list[str]) -> None:
    events = whole_answer(*texts)
    shown = [text for text in texts if text.strip()]

    lines = answer("ndjson", events).splitlines()  # splits at every Unicode line break
    assert [json.loads(line)["type"] for line in lines] == ["start", *["segment"] * len(texts), "end"]
    assert [json.loads(line)["text"] for line in lines[1:-1]] == texts
    assert answer("sse", events).count("\n\n") == len(texts) + 2
    assert answer("text", events).count("\n") == len(shown)
    assert [row.count("\t") for row in answer("tsv", events).splitlines()] == [2] * (len(shown) + 1)
    for name in ("srt", "vtt"):
        cues = parsed_cues(answer(name, events))
        assert len(cues) >= len(shown)
        letters = "".join(" ".join(shown).replace("-->", "→").split())
        assert "".join("".join(lines).replace(" ", "") for _, _, lines in cues) == letters


def parsed_cues(text: str) -> list[tuple[str, str, list[str]]]:
    """Read SRT or WebVTT as a player does: blocks between blank lines, and times as written."""
    cues = []
    blocks = text.removeprefix("WEBVTT\n\n").split("\n\n")
    assert blocks.pop() == ""
    for number, block in enumerate(blocks, start=1):
        first, *lines = block.split("\n")
        if text.startswith("WEBVTT"):
            lines = [html.unescape(line) for line in lines]
        else:
            assert first == str(number)
            first, *lines = lines
        times = re.fullmatch(r"(\d\d:\d\d:\d\d[.,]\d{3}) --> (\d\d:\d\d:\d\d[.,]\d{3})", first)
        assert times and times[1] < times[2] and all(lines)
        cues.append((times[1], times[2], lines))
    return cues


def test_a_long_segment_becomes_several_cues_of_two_lines() -> None:
    long = segment(0, "पुढच्या आठवड्यात आम्ही कोकणात जाण्याचा बेत आखलाय " * 5, start_s=3.0, end_s=21.0)

    for name in ("srt", "vtt"):
        cues = parsed_cues(answer(name, [Start(duration_s=30.0), long]))
        assert len(cues) > 2
        assert all(len(lines) <= 2 for _, _, lines in cues)
        assert (cues[0][0][6:8], cues[-1][1][6:8]) == ("03", "21")


def heard_in_full() -> Segment:
    """A segment of which everything is known."""
    return Segment(
        id=0,
        start_s=1.0,
        end_s=2.5,
        text="नमस्कार जग",
        avg_logprob=-0.25,
        no_speech_prob=0.01,
        language="mr",
        language_prob=0.98766,
        tokens=(7, 8, 9),
        temperature=0.2,
        compression_ratio=1.23456,
        words=(
            Word(text="नमस्कार", start_s=1.0, end_s=1.75, probability=0.9),
            Word(text="जग", start_s=1.8, end_s=2.5, probability=0.55554),
        ),
        channel=1,
    )


@pytest.mark.parametrize("name", ["json", "ndjson", "jsonlines", "sse"])
def test_what_more_is_known_about_a_segment_is_told(name: str) -> None:
    known = heard_in_full()
    transcript = Transcript(
        text=known.text, language="mr", duration_s=3.0, language_prob=0.98766, segments=(known,)
    )
    text = answer(name, [Start(duration_s=3.0), known, End(transcript=transcript)])
    objects = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if "{" in line]
    told = objects[0]["segments"][0] if name == "json" else objects[1]

    assert told["words"] == [
        {"word": "नमस्कार", "start": 1.0, "end": 1.75, "probability": 0.9},
        {"word": "जग", "start": 1.8, "end": 2.5, "probability": 0.5555},
    ]
    assert (told["channel"], told["temperature"], told["compression_ratio"]) == (1, 0.2, 1.235)
    assert told["language_probability"] == objects[-1]["language_probability"] == 0.9877


@pytest.mark.parametrize("name", ["json", "ndjson"])
def test_what_is_not_known_is_left_out(name: str) -> None:
    text = answer(name, whole_answer("जग"))

    assert all(field not in text for field in ("words", "channel", "language_probability"))


def test_verbose_json_has_the_fields_of_openai_and_no_others() -> None:
    known = heard_in_full()
    transcript = build_transcript([known, segment(1, "बरं", 3.0, 4.0)], duration_s=9.5, language="mr")
    body = json.loads(answer("verbose_json", [End(transcript=transcript, processing_s=0.5)]))

    assert list(body) == ["task", "language", "duration", "text", "segments", "words", "usage"]
    assert (body["task"], body["language"], body["duration"]) == ("transcribe", "marathi", 9.5)
    assert body["segments"][0] == {
        "id": 0,
        "seek": 100,
        "start": 1.0,
        "end": 2.5,
        "text": "नमस्कार जग",
        "tokens": [7, 8, 9],
        "temperature": 0.2,
        "avg_logprob": -0.25,
        "compression_ratio": 1.235,
        "no_speech_prob": 0.01,
    }
    assert body["words"] == [
        {"word": "नमस्कार", "start": 1.0, "end": 1.75},
        {"word": "जग", "start": 1.8, "end": 2.5},
    ]


def test_verbose_json_without_word_times_or_speech_is_still_openais() -> None:
    silent = build_transcript([], duration_s=2.0, language=None)
    text = answer("verbose_json", [End(transcript=silent)])

    assert msgspec.json.decode(text, type=VerboseBody).language == ""
    assert "words" not in json.loads(text)


def test_tsv_has_a_header_and_a_row_a_segment() -> None:
    assert answer("tsv", whole_answer("नमस्कार\tजग", " ", "बरं")) == (
        "start\tend\ttext\n0\t1500\tनमस्कार जग\n4000\t5500\tबरं\n"
    )


@pytest.mark.parametrize("option", ["format", "response_format"])
def test_a_format_is_asked_for_by_name_and_taken_from_the_options(option: str) -> None:
    chosen, rest = take_format({option: "verbose_json", "language": "mr"})

    assert chosen is not None and chosen.name == "verbose_json"
    assert rest == {"language": "mr"}
    assert take_format({"language": "mr", option: None}) == (None, {"language": "mr"})


@pytest.mark.parametrize("value", ["docx", "JSON", "application/json", 7, ["json"], "x" * 1000])
@pytest.mark.parametrize("option", ["format", "response_format"])
def test_a_format_that_does_not_exist_is_refused_with_those_that_do(option: str, value: object) -> None:
    with pytest.raises(UnsupportedOption) as refused:
        take_format({option: value})

    assert refused.value.name == option
    assert all(name in str(refused.value) for name in NAMES)
    assert len(str(refused.value)) < 250


def test_two_different_formats_contradict_each_other() -> None:
    assert take_format({"format": "srt", "response_format": "srt"})[0] == named_format("srt")
    with pytest.raises(UnsupportedOption, match="contradicts option 'format'"):
        take_format({"format": "srt", "response_format": "vtt"})


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
        ("text/tab-separated-values", "text/tab-separated-values"),
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
