"""What a caller may ask for."""

import json

import pytest

from serve.engine.languages import LANGUAGE_NAMES, language_code
from serve.errors import UnsupportedOption
from serve.options import OPTION_NAMES, TranscriptionOptions, parse_options


def test_text_values_are_read_as_what_they_mean():
    options = parse_options(
        {"language": "Marathi", "temperature": "0.2", "seed": "7", "word_timestamps": "false"}
    )
    assert options == TranscriptionOptions(language="mr", temperature=0.2, seed=7)


def test_later_options_win_and_leave_the_others():
    first = parse_options({"language": "mr", "prompt": "श्रोता"})
    assert parse_options({"language": "hi"}, base=first) == TranscriptionOptions(
        language="hi", prompt="श्रोता"
    )


def test_null_takes_a_named_language_back():
    assert (
        parse_options({"language": None}, strict=True, base=parse_options({"language": "mr"})).language
        is None
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("language", "klingon"),
        ("task", "summarise"),
        ("temperature", "hot"),
        ("temperature", "1.5"),
        ("temperature", "nan"),
        ("seed", "-1"),
        ("seed", str(2**70)),
        ("prompt", "a" * 2_001),
        ("beam_size", "0"),
        ("beam_size", "11"),
        ("hotwords", "a" * 2_001),
        ("word_timestamps", "maybe"),
        ("suppress", "[1]"),
        ("suppress", '["a"'),
        ("suppress", ",".join(map(str, range(101)))),
        ("channels", "left"),
        ("track", "0"),
        ("track", "100"),
        ("track", "a" * 41),
        ("temprature", "0"),
        ("", "0"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(name, value):
    with pytest.raises(UnsupportedOption) as refused:
        parse_options({name: value})
    assert refused.value.name == name
    assert name in str(refused.value)


def test_a_value_that_is_empty_is_none_and_a_text_may_be_empty():
    base = parse_options({"language": "hi", "prompt": "श्रोता", "seed": "3"})
    given = {"language": "", "adapter": " ", "seed": "", "word_timestamps": "", "channels": "", "prompt": ""}
    assert parse_options(given, base=base) == TranscriptionOptions(language="hi", seed=3)


def test_options_of_decoding_are_read() -> None:
    options = parse_options(
        {"beam_size": "10", "hotwords": "श्रोता", "word_timestamps": "true", "channels": "split"}
    )
    assert options == TranscriptionOptions(
        beam_size=10, hotwords="श्रोता", word_timestamps=True, channels="split"
    )


@pytest.mark.parametrize(
    "value",
    [
        ["x" * 100_000],
        ["x" * 2_001],
        [f"{number:030}" for number in range(100)],
        "x" * 100_000,
        "," * 100_000,
        '["' + "x" * 2_001 + '"]',
    ],
    ids=["long text", "text", "sum", "long words", "commas", "JSON"],
)
def test_texts_to_suppress_are_bounded_together(value):
    with pytest.raises(UnsupportedOption) as refused:
        parse_options({"suppress": value}, strict=True)
    assert refused.value.name == "suppress" and len(str(refused.value)) < 500


def test_as_many_letters_may_be_suppressed_as_a_prompt_may_have_however_they_are_written():
    texts = tuple(chr(0x905 + number % 50) * (20 if number < 50 else 19) for number in range(100))
    for value in (list(texts), json.dumps(texts)):
        assert parse_options({"suppress": value}).suppress == texts


@pytest.mark.parametrize("name", ["task", "channels", "language", "adapter", "track", "unknown"])
def test_a_refusal_does_not_repeat_a_long_value_or_name(name):
    long = "x" * 100_000
    with pytest.raises(UnsupportedOption) as refused:
        parse_options({long: 1} if name == "unknown" else {name: long}, strict=True)
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("value", ["uh, um,, uh", '["uh", "um"]', ["uh", "um"]])
def test_texts_to_suppress_come_between_commas_or_as_a_list(value):
    assert parse_options({"suppress": value}).suppress == ("uh", "um")


def test_strict_values_are_not_guessed_from_text():
    with pytest.raises(UnsupportedOption, match="temperature"):
        parse_options({"temperature": "0.2"}, strict=True)


def test_an_unknown_option_names_those_there_are():
    with pytest.raises(UnsupportedOption) as refused:
        parse_options({"beams": "1"})
    assert all(name in str(refused.value) for name in OPTION_NAMES)


@pytest.mark.parametrize("given", ["mr", "MR", " mr ", "mr-IN", "mr_IN", "Marathi", "MARATHI"])
def test_a_language_is_known_by_code_and_by_name(given):
    assert language_code(given) == "mr"


def test_detection_is_asked_for_by_name():
    assert parse_options({"language": "auto"}).language == "auto"


def test_the_table_of_languages_is_whispers_own():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

    assert LANGUAGE_NAMES == LANGUAGES
    assert {name: language_code(name) for name in TO_LANGUAGE_CODE} == TO_LANGUAGE_CODE


@pytest.mark.parametrize(
    ("value", "track"),
    [("2", "2"), (2, "2"), ("Marathi", "mr"), ("mar", "mar"), ("mr-IN", "mr"), (" EN ", "en")],
)
def test_a_track_is_a_number_or_a_language(value, track):
    assert parse_options({"track": value}, strict=isinstance(value, int)).track == track
