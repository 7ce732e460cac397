"""The benchmark of live speech: how recordings are made of clips, and lags of words."""

import json

import numpy as np
import pytest
import soundfile

from bench.live import PAUSES_S, Played, figures, joined_clips
from serve.transcript.events import LivePhrase, LiveWords, Segment, Word


def word(text, end_s):
    return Word(text=text, start_s=end_s - 0.4, end_s=end_s, probability=0.9)


def segment(*words):
    text = " ".join(each.text for each in words)
    unsaid = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "language": "mr"}
    return Segment(id=0, start_s=0.0, end_s=9.0, text=text, words=words, **unsaid)


def shown(committed, partial):
    return LiveWords(committed=tuple(committed), partial=partial, phrase=segment(*committed), lag_s=0.0)


@pytest.fixture
def manifest(tmp_path):
    """Five clips of a second."""
    rows = []
    for number in range(5):
        soundfile.write(tmp_path / f"{number}.wav", np.full(16_000, 0.1, np.float32), 16_000)
        rows.append(json.dumps({"audio": f"{number}.wav", "text": f"w{number}"}))
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(rows))
    return path


def test_recordings_are_of_different_clips_and_as_long_as_asked(manifest):
    (first, sound), (second, other) = joined_clips(manifest, 2.0, 2)
    assert (first, second) == ("w0 w1", "w2 w3")
    assert len(sound) == len(other) == round((2 + PAUSES_S[0] + PAUSES_S[1]) * 16_000)
    with pytest.raises(SystemExit, match="too few clips"):
        joined_clips(manifest, 2.0, 3)


def test_lags_last_from_the_end_of_a_word_to_the_events_that_show_and_commit_it():
    one, two = word("एक", 1.0), word("दोन", 2.0)
    events = [
        (1.2, shown((), "एक")),
        (1.6, shown((one,), "दो")),
        (2.5, shown((), "दोन")),
        (3.0, shown((two,), "")),
        (4.0, LivePhrase(segment=segment(one, two), lag_s=0.0)),
    ]
    found = figures([Played("एक दोन", [one, two], events)] * 2)
    assert found["committed_lag_s"]["median"] == pytest.approx(0.8)  # of 0.6 and 1.0
    assert found["partial_lag_s"]["median"] == pytest.approx(0.35)  # of 0.2 and 0.5
    assert (found["words"], found["words_as_in_file"], found["events"]) == (4, 4, 10)
    assert (found["wer"], found["changed_words"]) == (0.0, 0)
    changed = [*events[:-1], (4.0, LivePhrase(segment=segment(one, one), lag_s=0.0))]
    assert figures([Played("एक दोन", [one, two], changed)])["changed_words"] == 1
