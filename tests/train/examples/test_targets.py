"""Token sequences, decoded again."""

from __future__ import annotations

import pytest
from transformers import WhisperTokenizer

from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from train.errors import DataError
from train.examples.targets import Sentence, build_target, text_tokens

START, MARATHI, TRANSCRIBE, NO_TIMESTAMPS, END, PREVIOUS = 50258, 50320, 50359, 50363, 50257, 50361
SENTENCES = [
    Sentence(text="आई घरी आहे", start_s=0.4, end_s=2.1),
    Sentence(text="पाऊस आला", start_s=2.6, end_s=3.905),
]


@pytest.fixture(scope="module")
def tokenizer(whisper_base_dir):
    return WhisperTokenizer.from_pretrained(str(whisper_base_dir))


@pytest.fixture
def build(whisper_base_dir):
    vocabulary = Vocabulary.read(whisper_base_dir)

    def make(sentences, **changes):
        options = {"language": "mr", "task": "transcribe", "timestamps": False, **changes}
        return build_target(vocabulary, sentences, **options)

    return make


def test_plain_text_follows_four_tokens_and_ends(build, tokenizer):
    target = build(SENTENCES)
    assert target.tokens[: target.n_prompt] == [START, MARATHI, TRANSCRIBE, NO_TIMESTAMPS]
    assert target.tokens[-1] == END and target.tokens.count(END) == 1
    assert tokenizer.decode(target.tokens[target.n_prompt : -1]) == "आई घरी आहे पाऊस आला"


def test_times_stand_around_each_sentence_in_steps_of_twenty_milliseconds(build):
    target = build(SENTENCES, timestamps=True)
    assert target.n_prompt == 3 and NO_TIMESTAMPS not in target.tokens
    times = [token - NO_TIMESTAMPS - 1 for token in target.tokens if token > NO_TIMESTAMPS]
    assert times == [20, 105, 130, 195]
    assert target.tokens[3] == NO_TIMESTAMPS + 1 + 20 and target.tokens[-2] == NO_TIMESTAMPS + 1 + 195


def test_no_time_is_later_than_the_vocabularys_last_one(build):
    target = build([Sentence(text="पाऊस आला", start_s=30.05, end_s=30.4)], timestamps=True)
    times = [token - NO_TIMESTAMPS - 1 for token in target.tokens if token > NO_TIMESTAMPS]
    assert times == [1500, 1500]


def test_earlier_text_keeps_its_end_where_it_is_long(build, tokenizer):
    target = build(SENTENCES[:1], previous_text=" ".join(f"शब्द {n}" for n in range(200)))
    assert target.tokens[0] == PREVIOUS and target.tokens.count(START) == 1
    earlier = target.tokens[1 : target.tokens.index(START)]
    assert len(earlier) == 223 and tokenizer.decode(earlier).endswith("शब्द 199")
    assert target.n_prompt == len(earlier) + 5


def test_silence_is_the_end_token_alone(build):
    for timestamps in (False, True):
        target = build([], timestamps=timestamps)
        assert target.tokens[target.n_prompt :] == [END]


def test_sentences_are_written_whole_or_refused_and_times_give_way_to_them(build, tokenizer):
    words = [Sentence(text="and", start_s=n / 20, end_s=n / 20 + 0.04) for n in range(444)]
    with_times, without, longest = (build(words[:n], timestamps=True) for n in (148, 149, 443))
    assert len(with_times.tokens) == MAX_CONTEXT_TOKENS and with_times.n_prompt == 3
    assert without.tokens[: without.n_prompt] == [START, MARATHI, TRANSCRIBE, NO_TIMESTAMPS]
    assert len(longest.tokens) == MAX_CONTEXT_TOKENS and longest.tokens[-1] == END
    assert tokenizer.decode(longest.tokens[4:-1]).split() == ["and"] * 443
    with pytest.raises(DataError, match="444 tokens; 443 can be written"):
        build(words)


def test_tokens_are_counted_as_they_are_written(build, whisper_base_dir):
    vocabulary = Vocabulary.read(whisper_base_dir)
    texts = ["आई घरी आहे", "internationalisation", "", "the", "ती म्हणाली, “चल!”"]
    for text, n_tokens in zip(texts, text_tokens(vocabulary, texts).counts, strict=True):
        said = Sentence(text=text, start_s=0.0, end_s=1.0)
        once, twice = (build([said] * n) for n in (1, 2))
        assert len(once.tokens) - 5 <= n_tokens and len(twice.tokens) - 5 <= 2 * n_tokens
    assert text_tokens(vocabulary, []).counts == []


def test_language_and_task_are_written_as_asked(build, tokenizer):
    tokens = build(SENTENCES, language="hi", task="translate").tokens
    assert tokenizer.convert_ids_to_tokens(tokens[1:3]) == ["<|hi|>", "<|translate|>"]


def test_texts_are_cut_into_the_tokens_of_whispers_own_tokenizer(build, tokenizer):
    for text in ("आई घरी आहे, १२ वाजता!", "र\u200dया Oh, yes", " two  blanks"):
        target = build([Sentence(text=text, start_s=0.0, end_s=1.0)])
        assert target.tokens[target.n_prompt : -1] == tokenizer(text, add_special_tokens=False).input_ids
