"""Words of a text and their times."""

import numpy as np
import pytest

from serve.audio.features import FeatureExtractor
from serve.engine.vocabulary import Vocabulary
from serve.engine.words import heard_frames, word_times


@pytest.fixture(scope="module")
def vocabulary(whisper_base_dir):
    return Vocabulary.read(whisper_base_dir)


def tokens_of(vocabulary, text):
    return vocabulary.tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("mr", " पुढच्या आठवड्यात आम्ही", ["पुढच्या", "आठवड्यात", "आम्ही"]),
        ("en", " Well, it's 3.5 km.", ["Well,", "it's", "3.5", "km."]),
        ("ja", "東京へ行く", ["東京", "へ", "行", "く"]),
    ],
)
def test_a_word_begins_with_a_space_where_the_language_has_spaces(vocabulary, language, text, words):
    found = vocabulary.words(tokens_of(vocabulary, text), language)
    assert [token for word in found for token in word] == tokens_of(vocabulary, text)
    assert "".join(vocabulary.text(word) for word in found) == text.replace(" ", "")
    if language != "ja":  # how many letters share a token is the tokenizer's affair
        assert [vocabulary.text(word) for word in found] == words


def test_a_word_lasts_from_its_first_token_to_the_next_words(vocabulary):
    tokens = tokens_of(vocabulary, " घर लाल")
    n_first = len(vocabulary.words(tokens, "mr")[0])
    path = [(token, 10 * token + step) for token in range(len(tokens) + 1) for step in range(10)]
    words = word_times(
        tokens, "mr", vocabulary, path=path, token_probs=[0.5] * n_first + [1.0] * 9, n_frames=10_000
    )
    assert [word.text for word in words] == ["घर", "लाल"]
    assert (words[0].start_s, words[0].end_s) == (0.0, round(0.2 * n_first, 2))
    assert (words[1].start_s, words[1].end_s) == (round(0.2 * n_first, 2), round(0.2 * len(tokens), 2))
    assert [word.probability for word in words] == [0.5, 1.0]


def test_no_word_lies_behind_what_is_heard(vocabulary):
    tokens = tokens_of(vocabulary, " घर लाल")
    path = [(token, 20 * token) for token in range(len(tokens) + 1)]
    words = word_times(tokens, "mr", vocabulary, path=path, token_probs=[1.0] * len(tokens), n_frames=50)
    assert max(word.end_s for word in words) == 0.5


def test_padding_is_not_heard(whisper_base_dir):
    features = FeatureExtractor(whisper_base_dir)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    assert heard_frames(features.log_mel(samples, 3.0)) == pytest.approx(100, abs=3)
    assert heard_frames(features.log_mel(samples, 1.0)) == 100
    assert heard_frames(features.log_mel(np.zeros(16_000, np.float32), 2.0)) == 200


def test_sentences_stand_between_their_times(vocabulary):
    def time(time_s):
        return vocabulary.no_timestamps + 1 + round(time_s / 0.02)

    house, door = tokens_of(vocabulary, " घर"), tokens_of(vocabulary, " दार")
    found = vocabulary.sentences([time(0.0), *house, time(1.5), time(2.0), *door, time(9.0)], 3.0)
    assert [(each.text, each.start_s, each.end_s) for each in found] == [("घर", 0.0, 1.5), ("दार", 2.0, 3.0)]
    (open_ended,) = vocabulary.sentences([time(0.5), *house], 3.0)
    assert (open_ended.start_s, open_ended.end_s) == (0.5, 3.0)
    assert vocabulary.sentences([time(0.0), time(1.0)], 3.0) == ()
