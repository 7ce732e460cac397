"""What is said by whom, planned for a whole corpus; nothing is spoken here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from train.data.synthesis.kokoro import TRAIN_SPEAKERS, parts_of
from train.data.synthesis.plan import plan_corpus
from train.data.synthesis.sizes import Sizes
from train.data.synthesis.voices import NEURAL_TEST_VOICES, NEURAL_VALID_VOICES, TEST_VOICES, TRAIN_VOICES

WHOLE = Sizes(
    everyday=4100, catalogue=1500, exchanged=9500, words=3500, kokoro=3000, piper=600, hindi=1200, test=150
)


@pytest.fixture(scope="module")
def plan():
    return plan_corpus(WHOLE, seed=0)


def of(plan, *splits):
    return [utterance for utterance in plan if utterance.split in splits]


def test_no_test_sentence_and_no_test_voice_is_trained_on(plan):
    trained = {utterance.sentence for utterance in of(plan, "train", "train-neural")}
    held_out = {utterance.sentence for utterance in of(plan, "valid", "test-everyday", "test-catalogue")}
    assert len(held_out) == 600 and not trained & held_out
    assert {u.voice.name for u in of(plan, "train", "valid")} <= {voice.name for voice in TRAIN_VOICES}
    tested = {u.voice.name for u in of(plan, "test-everyday", "test-catalogue")}
    assert tested == {voice.name for voice in TEST_VOICES}


def test_the_plan_has_the_sizes_asked_for(plan):
    sources = [utterance.source for utterance in of(plan, "train")]
    counts = Counter(sources)
    assert (counts["everyday"], counts["catalogue"], counts["words"]) == (4100, 1500, 3500)
    assert 9_400 < counts["exchanged"] <= 9_500, "a few may resemble held-out sentences"
    assert len(of(plan, "test-everyday")) == len(of(plan, "test-catalogue")) == 150
    assert len(of(plan, "test-neural")) == 150 and len(of(plan, "valid-neural")) == 60
    engines = Counter(utterance.voice.engine for utterance in of(plan, "train-neural"))
    assert engines == {"kokoro": 3000, "piper": 600}


def test_the_seed_fixes_the_plan(plan):
    assert plan_corpus(WHOLE, seed=0) == plan
    assert plan_corpus(WHOLE, seed=1) != plan


def test_more_training_text_leaves_the_test_sets_as_they_are(plan):
    few = Sizes(everyday=100, catalogue=50, exchanged=0, words=0, kokoro=10, piper=5, hindi=3, test=150)
    smaller = plan_corpus(few, seed=0)
    for split in ("test-everyday", "test-catalogue", "valid", "test-neural", "valid-neural"):
        assert of(smaller, split) == of(plan, split)


def test_nothing_that_is_trained_on_resembles_a_held_out_sentence(plan):
    held_out = [set(u.sentence.split()) for u in of(plan, "valid", "test-everyday", "test-catalogue")]
    for utterance in of(plan, "train", "train-neural"):
        words = set(utterance.sentence.split())
        for other in held_out:
            assert len(words & other) <= 0.8 * (len(words) + len(other)) / 2, utterance.sentence


def test_exchanged_words_and_sequences_teach_words_that_no_sentence_does(plan):
    words = {
        source: {word for u in of(plan, "train") if u.source == source for word in u.sentence.split()}
        for source in ("everyday", "catalogue", "exchanged", "words")
    }
    known = words["everyday"] | words["catalogue"]
    assert len(words["words"]) > 10_000 and not words["words"] & known
    assert len(words["exchanged"] - known) > 10_000


def test_neural_test_voices_say_the_everyday_test_sentences_each_as_often_as_any_other(plan):
    said = of(plan, "test-neural")
    assert [u.sentence for u in said] == [u.sentence for u in of(plan, "test-everyday")]
    assert Counter(u.voice.name for u in said) == {voice.name: 15 for voice in NEURAL_TEST_VOICES}
    choosing = Counter(u.voice.name for u in of(plan, "valid-neural"))
    assert choosing == {voice.name: 20 for voice in NEURAL_VALID_VOICES}


def test_no_speaker_of_the_neural_test_is_in_any_mixture_that_is_trained_on(plan):
    spoken = [u.voice for u in of(plan, "train-neural") if u.voice.engine == "kokoro"]
    assert {speaker for voice in spoken for speaker, _ in parts_of(voice.variant)} == set(TRAIN_SPEAKERS)
    assert len({voice.name for voice in spoken}) > 1000


def test_the_first_neural_clips_are_a_sample_of_all(plan):
    first = of(plan, "train-neural")[:600]
    assert 80 <= sum(u.voice.engine == "piper" for u in first) <= 120
    assert 60 <= sum(u.source == "phrases" for u in first) <= 90
    assert len({u.sentence for u in first}) > 590


def test_neural_voices_alone_need_no_message_catalogue_and_leave_other_manifests_out():
    alone = Sizes(everyday=0, catalogue=0, exchanged=0, words=0, kokoro=16, piper=4, hindi=0, test=10)
    splits = Counter(u.split for u in plan_corpus(alone, seed=0))
    assert splits == {"train-neural": 20, "test-neural": 10, "valid-neural": 10}


def test_hindi_is_spoken_by_training_voices_in_a_split_and_a_language_of_its_own(plan):
    hindi = of(plan, "train-hindi")
    assert len(hindi) == 1200 and {u.language for u in hindi} == {"hi"}
    assert {u.language for u in plan if u.split != "train-hindi"} == {"mr"}
    assert Counter(u.voice.engine for u in hindi) == {"kokoro": 1000, "piper": 200}
    heard = {speaker for u in hindi if u.voice.engine == "kokoro" for speaker, _ in parts_of(u.voice.variant)}
    assert heard == set(TRAIN_SPEAKERS)


def test_the_same_words_in_another_language_are_another_clip(plan):
    hindi = of(plan, "train-hindi")[0]
    assert hindi.clip_name != replace(hindi, language="mr").clip_name
