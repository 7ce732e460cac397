"""The settings of a live stream, and how wrong ones are refused."""

import pytest

from serve.audio.streams.pcm import PcmFormat
from serve.errors import UnsupportedOption
from serve.options import TranscriptionOptions
from serve.service.live.settings import LiveSettings, parse_live_settings


def test_sound_and_options_are_read_numbers_also_from_text():
    given = {"sample_rate": "8000", "encoding": "mulaw", "channels": 2, "language": "mr", "beam_size": "2"}
    base = TranscriptionOptions(prompt="before", language="hi")
    assert parse_live_settings(given, base) == LiveSettings(
        pcm=PcmFormat(sample_rate=8_000, encoding="mulaw", n_channels=2),
        options=TranscriptionOptions(language="mr", beam_size=2, prompt="before"),
    )
    assert parse_live_settings({}) == LiveSettings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sample_rate", 7_999),
        ("sample_rate", 48_001),
        ("sample_rate", "fast"),
        ("encoding", "opus"),
        ("channels", 3),
        ("channels", "split"),
        ("pause_s", 0.1),
        pytest.param("pause_s", 10**400, id="pause_s of 401 digits"),
        ("pause_s", {}),
        ("language", "klingon"),
        ("colour", "red"),
        ("format", "srt"),
    ],
)
def test_what_is_wrong_is_named(name, value):
    with pytest.raises(UnsupportedOption) as refused:
        parse_live_settings({name: value})
    assert refused.value.name == name
