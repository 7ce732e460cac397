"""Whose word counts for a language: the adapter's, the base model's, and that of several windows."""

from dataclasses import replace

import numpy as np
import pytest

from serve.engine import SERVED_ADAPTER, DecodingOptions, EngineInput, Hypothesis
from serve.language import settle_recording, settle_window, with_language

OPTIONS = DecodingOptions(adapter=SERVED_ADAPTER, expected_language="mr")
WINDOW = EngineInput(log_mel=np.zeros((80, 400), np.float32), options=OPTIONS)


def heard(language: str, prob: float | None) -> Hypothesis:
    return Hypothesis(
        tokens=(), text="x", language=language, avg_logprob=-0.1, no_speech_prob=0.0, language_prob=prob
    )


@pytest.mark.parametrize(
    ("detected", "language", "adapter", "prob"),
    [
        (("mr", 0.3), "mr", SERVED_ADAPTER, 0.3),
        (("hi", 0.8), "mr", SERVED_ADAPTER, 0.2),
        (("en", 0.95), "en", None, 0.95),
    ],
)
def test_a_window_is_in_the_adapters_language_unless_the_base_is_sure_of_another(
    detected, language, adapter, prob
):
    asked = []
    settled, settled_prob = settle_window(WINDOW, lambda window: asked.append(window) or detected)
    assert (settled.options.language, settled.options.adapter) == (language, adapter)
    assert settled_prob == pytest.approx(prob)
    assert [window.n_frames for window in asked] == [3_000], "the base model detects in windows of 30 s"
    assert settled.n_frames == (400 if adapter else 3_000), "and decodes them"


def test_what_was_encoded_to_detect_the_language_is_not_encoded_again():
    def detect(window):
        window.encoded = "by the base"
        return "en", 0.99

    assert settle_window(WINDOW, detect)[0].encoded == "by the base"
    own = replace(WINDOW, options=replace(OPTIONS, expected_language="en"))
    assert settle_window(own, detect)[0].encoded is None, "the adapter encodes otherwise"


def test_a_language_is_taken_as_detected_where_the_adapter_has_none():
    unbound = replace(WINDOW, options=replace(OPTIONS, expected_language=None))
    settled, prob = settle_window(unbound, lambda window: ("hi", 0.4))
    assert (settled.options.language, settled.options.adapter, prob) == ("hi", SERVED_ADAPTER, 0.4)


def test_a_recording_is_in_the_language_with_the_highest_sum():
    assert settle_recording([heard("hi", 0.9), heard("mr", 0.5), heard("mr", 0.6)]) == (
        "mr",
        pytest.approx(0.55),
    )
    assert settle_recording([heard("mr", None)]) == ("mr", None)


def test_another_language_than_the_adapters_is_the_base_models():
    assert with_language(OPTIONS, "mr").adapter == SERVED_ADAPTER
    assert with_language(OPTIONS, "en").adapter is None
