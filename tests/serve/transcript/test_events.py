"""Putting segments together."""

from serve.transcript.events import Segment, build_transcript, join_text


def segment(text: str, language: str = "mr") -> Segment:
    return Segment(
        id=0, start_s=0.0, end_s=1.0, text=text, avg_logprob=-0.2, no_speech_prob=0.1, language=language
    )


def test_texts_are_joined_with_single_spaces_and_empty_ones_left_out() -> None:
    assert join_text(["नमस्कार", "", "  ", " जग "]) == "नमस्कार जग"
    assert join_text([]) == ""


def test_a_transcript_names_the_language_asked_for() -> None:
    transcript = build_transcript([segment("hello", "en")], duration_s=2.0, language="mr")

    assert (transcript.language, transcript.text, transcript.duration_s) == ("mr", "hello", 2.0)


def test_a_recording_without_speech_has_an_empty_transcript() -> None:
    transcript = build_transcript([], duration_s=2.0, language=None)

    assert (transcript.text, transcript.language, transcript.segments) == ("", None, ())
