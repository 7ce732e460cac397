"""OpenAI's bodies and events, as its own package reads them."""

import json
import math

from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

from serve.engine import ScoredToken
from serve.transcript.events import End, Failure, Segment, Start, Word, build_transcript
from serve.transcript.openai import openai_format, openai_stream

SCORED = (ScoredToken(1, " नम".encode(), math.log(0.5)), ScoredToken(2, "\u0938".encode()[:2], 0.0))


def segment(number: int, text: str, start_s: float) -> Segment:
    word = Word(text=text, start_s=start_s, end_s=start_s + 1, probability=0.9)
    return Segment(
        id=number,
        start_s=start_s,
        end_s=start_s + 1,
        text=text,
        avg_logprob=-0.2,
        no_speech_prob=0.01,
        language="mr",
        words=(word,),
        scored_tokens=SCORED,
    )


SEGMENTS = [segment(0, "नमस्कार", 0.0), segment(1, " ", 2.0), segment(2, "जग", 3.0)]
EVENTS = [
    Start(duration_s=5.0, language="mr"),
    *SEGMENTS,
    End(transcript=build_transcript(SEGMENTS, duration_s=5.0, language="mr")),
]


def answer(name: str, segments: bool = True, words: bool = False, logprobs: bool = False) -> str:
    encoder = openai_format(name, segments=segments, words=words, logprobs=logprobs).new_encoder()
    return b"".join(encoder.encode(event) for event in EVENTS).decode()


def streamed(events, logprobs: bool = False) -> list[dict]:
    encoder = openai_stream(logprobs=logprobs).new_encoder()
    lines = b"".join(encoder.encode(event) for event in events).decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def test_json_is_the_text_and_what_would_be_billed():
    body = Transcription.model_validate_json(answer("json"), strict=True)
    assert (body.text, body.usage.seconds, body.usage.type) == ("नमस्कार जग", 5.0, "duration")
    assert body.logprobs is None


def test_logprobs_are_those_of_all_tokens_with_their_bytes():
    body = Transcription.model_validate_json(answer("json", logprobs=True))
    assert len(body.logprobs) == len(SEGMENTS) * len(SCORED)
    assert (body.logprobs[0].token, body.logprobs[0].logprob) == (" नम", -0.6931)
    assert [bytes(map(int, each.bytes)) for each in body.logprobs[:2]] == [each.text for each in SCORED]


def test_text_is_one_line():
    assert answer("text") == "नमस्कार जग\n"


def test_verbose_json_has_the_times_that_are_asked_for_and_no_others():
    both = TranscriptionVerbose.model_validate_json(answer("verbose_json", words=True), strict=True)
    assert [word.word for word in both.words] == ["नमस्कार", " ", "जग"]
    assert [(each.start, each.end) for each in both.segments] == [(0.0, 1.0), (2.0, 3.0), (3.0, 4.0)]
    assert "words" not in json.loads(answer("verbose_json"))
    assert "segments" not in json.loads(answer("verbose_json", segments=False, words=True))


def test_deltas_together_are_the_text_of_the_last_event():
    *deltas, done = streamed(EVENTS)
    assert done == {"type": "transcript.text.done", "text": "नमस्कार जग"}
    events = [TranscriptionTextDeltaEvent.model_validate(each, strict=True) for each in deltas]
    assert "".join(each.delta for each in events) == done["text"]


def test_the_events_of_a_stream_have_the_probabilities_of_their_tokens():
    *deltas, done = streamed(EVENTS, logprobs=True)
    assert [len(each["logprobs"]) for each in deltas] == [2, 2]
    assert len(TranscriptionTextDoneEvent.model_validate(done, strict=True).logprobs) == 6


def test_a_stream_that_breaks_off_says_whose_fault_it_is():
    ours = streamed([EVENTS[0], Failure(code="engine_error", message="it failed")])
    assert ours == [
        {"error": {"message": "it failed", "type": "server_error", "param": None, "code": "engine_error"}}
    ]
    (theirs,) = streamed([Failure(code="audio_too_long", message="too long", is_callers=True)])
    assert theirs["error"]["type"] == "invalid_request_error"
