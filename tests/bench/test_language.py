"""Recordings in several languages are made of any clips; windows are counted by what is spoken in them."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest
import soundfile

from bench.language import doubtful, figures_of, read_source, recordings
from serve.audio.segmentation import Span, Window

RATE = 16_000


@pytest.fixture
def sources(tmp_path):
    """A directory of English, and a manifest of Marathi by two speakers."""
    directory = tmp_path / "english"
    directory.mkdir()
    for number in range(4):
        soundfile.write(directory / f"{number}.flac", np.full(4 * RATE, 0.1), RATE)
    rows = [
        {"audio": f"english/{number}.flac", "text": "श्रोता", "language": "mr", "voice": f"v{number % 2}"}
        for number in range(4)
    ]
    manifest = tmp_path / "marathi.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return [read_source(f"en={directory}"), read_source(f"mr={manifest}")]


def test_recordings_are_of_one_speaker_and_some_switch(sources):
    assert [len(source.speakers) for source in sources] == [1, 2]
    made = recordings(sources, 6, 2, seed=1)
    english, marathi, turning = "en english", "mr marathi", "mr marathi > en english"
    assert [each.name for each in made] == [english, turning, english, marathi, english, turning]
    assert all(3 * RATE < len(each.samples) <= 80 * RATE for each in made)
    turn_s = made[1].spoken[1][0]
    first, second = (
        Window(round(start_s * RATE), round(end_s * RATE), (Span(0, 1),))
        for start_s, end_s in ((turn_s - 4, turn_s + 1), (turn_s - 1, turn_s + 3))
    )
    assert [made[1].language_of(each) for each in (first, second)] == ["mr", "en"]


def test_what_is_no_source_is_named(tmp_path):
    for text in ("hi", f"hi={tmp_path / 'nothing.jsonl'}", f"hi={tmp_path}"):
        with pytest.raises(click.BadParameter, match="hi"):
            read_source(text)


def window(spoken, written, own_prob=0.95, speech_s=4.0, likeliest=None):
    return {
        "speech_s": speech_s,
        "spoken": spoken,
        "written": written,
        "own_prob": own_prob,
        "likeliest": likeliest or written,
        "likeliest_prob": own_prob,
    }


def test_windows_with_little_speech_or_without_text_are_not_counted():
    windows = [window("mr", "mr"), window("mr", "hi"), window("mr", "en", speech_s=1.9), window("mr", None)]
    headline = figures_of([{"recording": "mr people", "windows": windows, "drafts": 1}])["headline"]
    assert (headline["windows"], headline["right"], headline["right_percent"]) == (2, 1, 50.0)
    assert headline["wrong"] == {"mr as hi": 1} and headline["windows_without_text"] == 1
    assert headline["drafts"] == 1


def test_a_window_is_doubtful_where_both_neighbours_are_sure_of_another_language():
    sure, doubt = window("en", "en"), window("en", "mr", own_prob=0.1, likeliest="ur")
    assert list(doubtful([sure, doubt, sure])) == [doubt]
    assert list(doubtful([sure, doubt])) == [doubt]
    assert list(doubtful([sure, doubt, window("mr", "mr")])) == []
    assert list(doubtful([sure, window("mr", "mr"), sure])) == []
    assert list(doubtful([sure, window("en", "en", own_prob=0.1, likeliest="ur"), sure])) == []
