"""Whose word counts for a window's language: the base model's, the adapter's, and that of its neighbours."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.audio.segmentation import Span, Window
from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput, Hypothesis
from serve.language import (
    DRAFT_TOKENS,
    LOOK_AHEAD,
    OWN_TEXT_ODDS,
    RELATIVE_ODDS,
    TEXT_ODDS,
    LanguageTrack,
    _weighed,
    in_language,
    settle_recording,
    settle_windows,
    whole_window,
)

CODES = ("bn", "cy", "en", "hi", "la", "mr", "ur")
OPTIONS = DecodingOptions(adapter=SERVED_ADAPTER, expected_language="mr")
SURE_ENGLISH = {"en": 0.97}
HINDI = "सरकार ने कहा है कि यह योजना किसानों के लिए है"
MARATHI = "आम्ही उद्या सकाळी बाजारात जाणार आहोत"


def probs(**said: float) -> dict[str, float]:
    """Return what the base model says: what it leaves open is spread over all languages."""
    open_prob = (1 - sum(said.values())) / len(CODES)
    return {code: said.get(code, 0.0) + open_prob for code in CODES}


def of_text(text: str) -> Hypothesis:
    return Hypothesis(tokens=(), text=text, language="mr", avg_logprob=-0.1, no_speech_prob=0.0)


class Listening:
    """Says of each window what it is given for its number, and notes what it is asked."""

    def __init__(self, heard, text="") -> None:
        self.heard, self.text = heard, text
        self.asked: list[list[int]] = []
        self.drafts: list[EngineInput] = []

    def detect_languages(self, windows):
        numbers = [each.options.seed for each in windows]
        self.asked.append(numbers)
        assert all(each.n_frames == 3_000 for each in windows), "the base model is less sure of short windows"
        return [probs(**self.heard(number)) for number in numbers]

    def draft(self, windows):
        for each in windows:
            each.encoded = "by the adapter"
        self.drafts += windows
        return [of_text(self.text) for _ in windows]


def languages(*windows: dict[str, float], own: str | None = "mr", speech_s: float = 5.0) -> list[str]:
    track = LanguageTrack(own)
    settled = [each for window in windows for each in track.push(probs(**window), speech_s)] + track.rest()
    return [each.language for each in settled]


def test_a_window_in_doubt_follows_a_neighbour_that_is_sure():
    assert languages(SURE_ENGLISH, {"en": 0.3, "mr": 0.1, "ur": 0.2}) == ["en", "en"]
    assert languages({"en": 0.3, "mr": 0.1, "ur": 0.2}, SURE_ENGLISH) == ["en", "en"]


def test_a_window_in_doubt_between_two_that_are_sure_is_in_their_language():
    for doubt in ({"mr": 0.4, "en": 0.1}, {"cy": 0.45, "la": 0.3}, {"hi": 0.3, "mr": 0.3, "en": 0.05}, {}):
        assert languages(SURE_ENGLISH, doubt, SURE_ENGLISH) == ["en"] * 3


def test_a_window_that_is_sure_changes_the_language_also_at_the_end():
    marathi = {"mr": 0.9}
    assert languages(marathi, marathi, SURE_ENGLISH) == ["mr", "mr", "en"]
    assert languages(SURE_ENGLISH, SURE_ENGLISH, marathi) == ["en", "en", "mr"]
    assert languages(marathi, marathi, SURE_ENGLISH, SURE_ENGLISH, marathi) == ["mr", "mr", "en", "en", "mr"]


def test_what_the_base_leaves_open_speaks_for_the_adapters_own_language():
    heard_as = [{"cy": 0.5, "la": 0.3}, {"la": 0.6}, {"en": 0.4, "cy": 0.2}]
    assert languages(*heard_as) == ["mr"] * 3
    assert languages({"cy": 0.95}) == ["cy"], "unless the base model is sure"
    assert languages({"hi": 0.5, "bn": 0.2}, own=None) == ["hi"], "no adapter speaks for Marathi"


def test_a_relative_of_the_adapters_language_is_no_sign_of_it_without_a_share_for_it():
    assert languages({"hi": 0.5, "bn": 0.2}) == ["hi"]
    assert languages({"hi": 0.35, "mr": 0.3}) == ["mr"]


def test_a_language_and_its_twin_speak_for_each_other():
    assert languages({"ur": 0.5, "hi": 0.45}, own=None) == ["ur"], "though neither is sure"
    assert languages({"hi": 0.95}, {"ur": 0.5, "hi": 0.45}) == ["hi", "hi"]


def test_a_short_window_says_less_than_a_long_one():
    def of(speech_s: float) -> str:
        track = LanguageTrack("mr")
        settled = track.push(probs(mr=0.5, hi=0.2), 5.0) + track.push(probs(en=0.95), speech_s) + track.rest()
        return settled[1].language

    assert (of(5.0), of(0.3)) == ("en", "mr")


def test_a_window_waits_for_no_more_than_two_others_and_not_at_all_where_it_is_sure():
    track = LanguageTrack("mr")
    assert len(track.push(probs(en=0.99), 5.0)) == 1
    track = LanguageTrack("mr")
    doubt = probs(hi=0.74)
    assert [len(track.push(doubt, 5.0)) for _ in range(LOOK_AHEAD)] == [0] * LOOK_AHEAD
    assert len(track.push(doubt, 5.0)) >= 1
    at_once = LanguageTrack("mr", look_ahead=0)
    assert [len(at_once.push(doubt, 5.0)) for _ in range(3)] == [1, 1, 1]


def test_a_guess_is_what_the_window_would_be_in_and_leaves_no_trace():
    track, untouched = (LanguageTrack("mr", look_ahead=0) for _ in range(2))
    said = [probs(**each) for each in (SURE_ENGLISH, {"en": 0.3, "mr": 0.1}, {"mr": 0.9})]
    for each in said:
        guess = track.guess(each, 3.0)
        assert [guess] == track.push(each, 3.0) == untouched.push(each, 3.0)


said = st.lists(st.floats(0.001, 1), min_size=len(CODES), max_size=len(CODES)).map(
    lambda weights: {code: weight / sum(weights) for code, weight in zip(CODES, weights, strict=True)}
)
several = st.lists(st.tuples(said, st.floats(0.1, 14)), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(several, st.sampled_from(["mr", None]), st.integers(0, 3))
def test_each_window_has_one_language_in_order_that_it_keeps(windows, own, look_ahead):
    track = LanguageTrack(own, look_ahead)
    settled = []
    for number, (each, speech_s) in enumerate(windows, 1):
        settled += track.push(each, speech_s)
        assert number - look_ahead <= len(settled) <= number
    settled += track.rest()
    assert len(settled) == len(windows)
    assert all(each.language in CODES and 1 / len(CODES) <= each.probability <= 1 for each in settled)
    assert track.rest() == []


@settings(max_examples=60, deadline=None)
@given(said)
def test_no_window_in_doubt_is_written_against_two_that_are_sure(doubt):
    if max(doubt[code] for code in CODES if code != "en") >= 0.5:
        return
    track = LanguageTrack("mr")
    sure = probs(en=0.98)
    settled = [each for window in (sure, doubt, sure) for each in track.push(window, 4.0)] + track.rest()
    assert [each.language for each in settled] == ["en"] * 3


def window(number: int) -> tuple[Window, EngineInput]:
    start = number * 80_000
    spans = (Span(start, start + 64_000),)
    given = EngineInput(log_mel=np.zeros((80, 400), np.float32), options=replace(OPTIONS, seed=number))
    return Window(start, start + 64_000, spans), given


def test_windows_come_out_in_order_and_are_asked_for_few_at_first():
    listening = Listening(lambda number: SURE_ENGLISH if number < 3 else {"mr": 0.97})
    settled = list(settle_windows(map(window, range(8)), listening, LanguageTrack("mr")))
    assert listening.asked == [[0], [1, 2], [3, 4, 5, 6], [7]]
    assert listening.drafts == []
    assert [given.options.seed for _, given, _ in settled] == list(range(8))
    assert [given.options.language for _, given, _ in settled] == ["en"] * 3 + ["mr"] * 5
    assert [given.options.adapter for _, given, _ in settled] == [None] * 3 + [SERVED_ADAPTER] * 5
    assert [given.n_frames for _, given, _ in settled] == [3_000] * 3 + [400] * 5, "the base decodes 30 s"


def test_the_words_of_a_draft_settle_what_sounds_like_two_related_languages():
    for doubt in ({"hi": 0.45, "mr": 0.1}, {"mr": 0.36, "hi": 0.2, "cy": 0.2}, {"mr": 0.2, "hi": 0.3}):
        for text, language in ((HINDI, "hi"), (MARATHI, "mr")):
            listening = Listening(lambda number, doubt=doubt: doubt, text)
            ((_, given, _),) = settle_windows([window(0)], listening, LanguageTrack("mr"))
            assert given.options.language == language


def test_a_draft_is_short_by_the_adapter_and_led_by_nothing_but_the_sound():
    number, given = window(0)
    led = replace(given, options=replace(OPTIONS, prompt="पुणे", hotwords="मुंबई", beam_size=5, timestamps=True))
    listening = Listening(lambda number: {"hi": 0.4, "mr": 0.2}, MARATHI)
    ((_, settled, _),) = settle_windows([(number, led)], listening, LanguageTrack("mr"))
    (draft,) = listening.drafts
    assert draft.options == DecodingOptions(
        language="mr", adapter=SERVED_ADAPTER, max_new_tokens=DRAFT_TOKENS
    )
    assert settled.encoded == "by the adapter", "it is not encoded again for its text"


@pytest.mark.parametrize(
    ("heard", "own"),
    [
        ({"hi": 0.97}, "mr"),
        ({"cy": 0.6, "la": 0.3}, "mr"),
        ({"en": 0.99}, "mr"),
        ({"hi": 0.4, "mr": 0.3}, None),
        ({"bn": 0.4, "mr": 0.01}, "mr"),
    ],
)
def test_no_draft_is_written_where_the_sound_suffices_or_the_script_differs(heard, own):
    assert LanguageTrack(own).rivals({"bn": 0.0, "cy": 0.0, "hi": 0.0, "mr": 0.0, "en": 0.0} | heard) == set()


def test_what_a_text_shows_moves_evidence_among_relatives_and_no_more_than_it_may():
    likely = LanguageTrack("mr")._likely(probs(hi=0.2, mr=0.1, en=0.3))
    before = RELATIVE_ODDS * likely["hi"] / likely["mr"]
    hindi, marathi = (_weighed(likely, {"hi": hi, "mr": 1 - hi}, "mr") for hi in (1.0, 0.0))
    for each in (hindi, marathi):
        assert each["hi"] + each["mr"] == pytest.approx(likely["hi"] + likely["mr"])
    assert hindi["hi"] / hindi["mr"] == pytest.approx(TEXT_ODDS * before)
    assert marathi["hi"] / marathi["mr"] == pytest.approx(before / OWN_TEXT_ODDS), "a draft leans to its own"
    nepali = _weighed({**likely, "ne": 0.2}, {"hi": 0.0, "ne": 1.0}, "mr")
    assert nepali["ur"] < likely["ur"] and hindi["ur"] == likely["ur"], "Urdu is heard like Hindi"


def test_of_twins_the_one_in_the_adapters_script_is_taken_unless_the_other_is_sure():
    assert languages({"ur": 0.65, "hi": 0.32}) == ["hi"]
    assert languages({"ur": 0.95, "hi": 0.03}) == ["ur"]
    assert languages({"ur": 0.65, "hi": 0.32}, own=None) == ["ur"]


def test_windows_of_live_speech_are_not_waited_for():
    pulled = []
    windows = (pulled.append(number) or window(number) for number in range(3))
    listening = Listening(lambda number: {"hi": 0.74})
    settled = settle_windows(windows, listening, LanguageTrack("mr", look_ahead=0))
    next(settled)
    assert pulled == [0]


def test_what_goes_wrong_between_windows_comes_after_those_before_it():
    def windows():
        yield window(0)
        yield window(1)
        raise ValueError("cut off")

    settled = settle_windows(windows(), Listening(lambda number: {"hi": 0.74}), LanguageTrack("mr"))
    assert [next(settled)[1].options.seed for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="cut off"):
        next(settled)


def test_what_the_base_encoded_is_kept_for_the_base_alone():
    _, given = window(0)
    whole = replace(whole_window(given), encoded="by the base")
    assert in_language(given, whole, "en").encoded == "by the base"
    assert in_language(given, whole, "mr").encoded is None, "the adapter encodes otherwise"
    alone = replace(given, options=DecodingOptions())
    assert in_language(alone, whole, "hi").encoded == "by the base"


def test_a_language_is_the_adapters_where_that_has_none():
    _, given = window(0)
    unbound = replace(given, options=DecodingOptions(adapter="other"))
    assert in_language(unbound, whole_window(unbound), "hi").options.adapter == "other"


def heard(language: str, prob: float | None) -> Hypothesis:
    return Hypothesis(
        tokens=(), text="x", language=language, avg_logprob=-0.1, no_speech_prob=0.0, language_prob=prob
    )


def test_a_recording_is_in_the_language_with_the_highest_sum():
    assert settle_recording([heard("hi", 0.9), heard("mr", 0.5), heard("mr", 0.6)]) == (
        "mr",
        pytest.approx(0.55),
    )
    assert settle_recording([heard("mr", None)]) == ("mr", None)
