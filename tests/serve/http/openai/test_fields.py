"""Every field of OpenAI's audio forms is honoured, or refused by its name."""

import typing
from inspect import get_annotations

import pytest
from openai.types.audio import transcription_create_params, translation_create_params

from serve.errors import UnsupportedOption
from serve.http.openai.fields import CHUNKING, MODEL, REFUSED, OwnFields, read_fields
from serve.options import OPTION_NAMES, TranscriptionOptions
from serve.transcript.openai import FormatName

BASE = TranscriptionOptions(task="transcribe", adapter="mr")


def options_of(**fields):
    """Return the options that fields ask for."""
    return read_fields(fields, BASE)[0]


def refused(**fields) -> UnsupportedOption:
    """Return the refusal of fields."""
    with pytest.raises(UnsupportedOption) as caught:
        read_fields(fields, BASE)
    return caught.value


def test_no_field_that_the_official_client_can_send_is_unknown():
    params = transcription_create_params
    sent = {
        name
        for kind in (
            params.TranscriptionCreateParamsBase,
            params.TranscriptionCreateParamsStreaming,
            translation_create_params.TranslationCreateParams,
        )
        for name in get_annotations(kind)
    }
    known = {"file", MODEL, CHUNKING, *REFUSED, *OwnFields.__struct_fields__, *OPTION_NAMES}
    assert sent - known == set()


def test_nothing_asked_for_is_what_route_and_model_say_and_the_text_alone():
    options, answer_format = read_fields({}, BASE)
    assert options == BASE
    assert (answer_format.name, answer_format.streams) == ("json", False)


def test_the_words_that_openai_and_we_share_are_taken():
    options = options_of(language="mr", prompt="पुणे", temperature="0.2", beam_size="4", seed="7")
    assert (options.language, options.prompt, options.temperature) == ("mr", "पुणे", 0.2)
    assert (options.beam_size, options.seed, options.adapter) == (4, 7, "mr")


@pytest.mark.parametrize("name", typing.get_args(FormatName))
def test_every_format_of_openai_is_answered_whole(name):
    answer_format = read_fields({"response_format": name}, BASE)[1]
    assert (answer_format.name, answer_format.streams) == (name, False)


def test_words_are_timed_where_they_or_the_probabilities_of_tokens_are_asked_for():
    verbose = {"response_format": "verbose_json"}
    assert options_of(**verbose, **{"timestamp_granularities[]": ["word"]}).word_timestamps
    assert options_of(**{"include[]": ["logprobs"]}).word_timestamps
    assert not options_of(**verbose, **{"timestamp_granularities[]": ["segment"]}).word_timestamps


@pytest.mark.parametrize("said", ["true", "True", "1"])
@pytest.mark.parametrize("name", ["json", "text", ""])
def test_a_stream_is_events_of_plain_text(said, name):
    answer_format = read_fields({"stream": said, "response_format": name}, BASE)[1]
    assert (answer_format.media_type, answer_format.streams) == ("text/event-stream", True)


def test_keywords_are_hotwords_and_one_language_of_several_is_the_language():
    options = options_of(**{"keywords[]": ["पुणे", "मुंबई"], "languages[]": ["hi"], "hotwords": "नाशिक"})
    assert (options.hotwords, options.language) == ("नाशिक, पुणे, मुंबई", "hi")


@pytest.mark.parametrize(
    "fields",
    [
        {"chunking_strategy": "auto"},
        {"chunking_strategy": ""},
        {"chunking_strategy": '{"type": "server_vad"}'},
        {"chunking_strategy[type]": "server_vad"},
    ],
)
def test_recordings_are_cut_where_nobody_speaks_whatever_is_asked_for(fields):
    assert options_of(**fields) == BASE


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "tsv"}, "response_format"),
        ({"known_speaker_names[]": ["अ"]}, "known_speaker_names"),
        ({"known_speaker_references[]": ["data:audio/wav;base64,AA=="]}, "known_speaker_references"),
        ({"timestamp_granularities[]": ["word"]}, "timestamp_granularities"),
        (
            {"timestamp_granularities[]": ["letter"], "response_format": "verbose_json"},
            "timestamp_granularities",
        ),
        ({"include[]": ["logprobs"], "response_format": "text"}, "include"),
        ({"include[]": ["usage"]}, "include"),
        ({"stream": "true", "response_format": "srt"}, "stream"),
        ({"stream": "perhaps"}, "stream"),
        ({"keywords[]": ["पुणे"] * 400}, "hotwords"),
        ({"hotwords[]": ["पुणे"]}, "hotwords"),
        ({"hotwords[]": ["पुणे"], "keywords[]": ["मुंबई"]}, "hotwords"),
        ({"languages[]": ["mr", "hi"]}, "languages"),
        ({"languages[]": ["mr"], "language": "hi"}, "languages"),
        ({"chunking_strategy": "fixed"}, "chunking_strategy"),
        ({"chunking_strategy": "{"}, "chunking_strategy"),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"}, "[threshold]"),
        ({"chunking_strategy": '{"type": "server_vad", "silence_duration_ms": 9}'}, "silence_duration_ms"),
        ({"temperature": "2"}, "temperature"),
        ({"language": "xx"}, "language"),
        ({"vad_filter": "true"}, "vad_filter"),
        ({"adapter": "hi"}, "adapter"),
        ({"task": "translate"}, "task"),
        ({"word_timestamps": "true"}, "word_timestamps"),
        ({"format": "srt"}, "format"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(fields, name):
    error = refused(**fields)
    assert name in error.name and error.name in str(error)
