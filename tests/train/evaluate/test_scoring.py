"""Error rates on hand-counted cases."""

from __future__ import annotations

import numpy as np
import pytest

from train.evaluate.scoring import compare, score, score_utterances, wer_interval


def test_an_exact_transcript_has_no_errors():
    result = score(["घर दार"], ["घर दार"], "raw")
    assert (result.wer, result.cer) == (0.0, 0.0)
    assert (result.hits, result.substitutions, result.deletions, result.insertions) == (2, 0, 0, 0)


def test_each_kind_of_error_is_counted():
    result = score(["एक दोन तीन चार"], ["एक दुसरा तीन चार पाच सहा"], "raw")
    assert (result.hits, result.substitutions, result.deletions, result.insertions) == (3, 1, 0, 2)
    assert result.wer == pytest.approx(3 / 4)


def test_rates_are_of_the_corpus_and_not_the_mean_over_utterances():
    result = score(["a", "a b c d e f g h i"], ["x", "a b c d e f g h i"], "raw")
    assert result.wer == pytest.approx(1 / 10)


def test_insertions_may_take_the_rate_above_one():
    assert score(["नमस्कार"], ["नमस्कार नमस्कार नमस्कार नमस्कार"], "raw").wer == pytest.approx(3.0)


def test_an_empty_hypothesis_deletes_every_word():
    result = score(["एक दोन"], [""], "raw")
    assert (result.deletions, result.wer, result.cer) == (2, 1.0, 1.0)


def test_words_answered_to_silence_count_as_insertions():
    result = score(["", "एक दोन"], ["काही तरी", "एक दोन"], "raw")
    assert (result.insertions, result.hits) == (2, 2)
    assert result.wer == pytest.approx(2 / 2)
    assert result.hallucination_rate == pytest.approx(1 / 2)


def test_silence_answered_with_silence_is_right():
    result = score([""], [""], "raw")
    assert (result.wer, result.cer, result.hallucination_rate) == (0.0, 0.0, 0.0)


def test_only_references_without_words_give_a_rate_of_one_when_something_was_written():
    assert score([""], ["काही"], "raw").wer == 1.0


def test_a_blank_is_a_character():
    assert score(["ab cd"], ["abcd"], "raw").cer == pytest.approx(1 / 5)  # one deletion in five characters
    assert score(["abcd"], ["ab cd"], "raw").cer == pytest.approx(1 / 4)


def test_character_errors_are_counted_by_code_point():
    assert score(["किती"], ["कती"], "raw").cer == pytest.approx(1 / 4)


@pytest.mark.parametrize(("reference", "hypothesis"), [("व", "935"), ("a", "61"), ("61 a", "a 61")])
def test_a_word_of_one_letter_is_not_taken_for_a_number(reference, hypothesis):
    assert score([reference], [hypothesis], "raw").hits < len(reference.split())


def test_words_of_one_letter_match_themselves():
    result = score(["व आ ई"], ["व आ ई"], "raw")
    assert (result.hits, result.wer) == (3, 0.0)


def test_the_profile_is_applied_to_both_sides():
    assert score(["घर, दार।"], ["घर दार"], "raw").wer > 0
    assert score(["घर, दार।"], ["घर दार"], "marathi").wer == 0


def test_the_interval_holds_the_rate_and_repeats():
    references = [f"एक दोन तीन {i}" for i in range(40)]
    hypotheses = [text if i % 4 else "एक दोन चूक चूक" for i, text in enumerate(references)]
    result = score(references, hypotheses, "raw")
    assert result.wer_low < result.wer < result.wer_high
    assert score(references, hypotheses, "raw") == result


def test_a_text_that_loops_or_runs_away_is_a_hallucination():
    reference = "आज बाजारात भाजी स्वस्त होती"
    looping = "भाजी " * 40
    assert score([reference] * 2, [looping, reference], "raw").hallucination_rate == pytest.approx(1 / 2)


def test_script_fidelity_is_the_share_of_letters_in_the_references_script():
    assert score(["नमस्कार"], ["नमस्कार"], "raw").script_fidelity == 1.0
    assert score(["कमल"], ["कमabc"], "raw").script_fidelity == pytest.approx(2 / 5)
    for exact in (["今日はいい天気"], ["कमल", "lotus"]):
        assert score(exact, exact, "raw").script_fidelity == 1.0
    assert score(["कमल", "lotus"], ["kamal", "lotus"], "raw").script_fidelity == pytest.approx(1 / 2)
    assert score(["कमल", ""], ["कमल", "ab"], "raw").script_fidelity == pytest.approx(3 / 5)


def test_intervals_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    texts = [f"{number} अ" for number in range(60)]
    heard = [text if number % 3 else "अ" for number, text in enumerate(texts)]
    whole = score(texts, heard, "raw", seed=4)
    monkeypatch.setattr("train.evaluate.scoring._MOST_NUMBERS", 700)
    assert score(texts, heard, "raw", seed=4) == whole


def test_references_and_hypotheses_must_pair_up():
    with pytest.raises(ValueError, match="zip"):
        score(["a", "b"], ["a"], "raw")


def test_the_record_is_rounded_and_plain():
    record = score(["a b c"], ["a b x"], "raw").as_dict()
    assert record["wer"] == 0.33333
    assert all(isinstance(value, str | int | float) for value in record.values())


def test_an_utterance_has_its_own_rates_and_counts():
    first, second = score_utterances(["एक दोन", "तीन"], ["एक दोन", "तीन चार"], "raw")
    assert (first.wer, first.cer, first.word_errors) == (0.0, 0.0, (2, 0, 0, 0))
    assert (second.wer, second.word_errors) == (1.0, (1, 0, 0, 1))


RIGHT, WRONG = (4, 0, 0, 0), (2, 2, 0, 0)


def test_a_model_that_is_better_on_most_clips_is_found_better_beyond_chance():
    base = np.array([WRONG] * 30 + [RIGHT] * 10)
    tuned = np.array([RIGHT] * 28 + [WRONG] * 2 + [RIGHT] * 9 + [WRONG])
    found = compare(base, tuned)
    assert found.difference == pytest.approx((3 * 2 - 30 * 2) / 160)
    assert found.low < found.difference < found.high < 0
    assert (found.better, found.worse, found.equal) == (28, 1, 11)


def test_the_interval_of_a_difference_is_paired():
    hard = np.array([(0, 10, 0, 0), RIGHT] * 20)  # clips differ far more than the models do
    slightly_better = hard.copy()
    slightly_better[::2] = (1, 9, 0, 0)
    found = compare(hard, slightly_better)
    assert found.high < 0 and found.high - found.low < 0.05
    low, high = wer_interval(hard)
    assert high - low > 3 * (found.high - found.low)


def test_a_model_does_not_differ_from_itself():
    words = np.array([RIGHT, WRONG])
    found = compare(words, words)
    assert (found.difference, found.low, found.high, found.equal) == (0.0, 0.0, 0.0, 2)


def test_the_seed_fixes_the_draws():
    references = ["एक दोन " * (n % 7 + 1) for n in range(30)]
    hypotheses = ["एक दोन " * (n % 5 + 1) for n in range(30)]
    first, second, other = (score(references, hypotheses, "raw", seed=seed) for seed in (7, 7, 8))
    assert first == second
    assert (first.wer_low, first.wer_high) != (other.wer_low, other.wer_high) and first.wer == other.wer


def test_each_utterance_is_compared_as_its_language_is():
    references, hypotheses = ["२५ वाटा", "२५ रास्ते"], ["25 वाटा", "25 रास्ते"]
    mixed = score(references, hypotheses, "marathi", languages=["mr", "hi"])
    assert (mixed.hits, mixed.substitutions, mixed.profile) == (3, 1, "marathi")
    assert score(references, hypotheses, "marathi", languages=["hi", "hi"]).profile == "indic"
    first, second = score_utterances(references, hypotheses, "marathi", languages=["mr", "hi"])
    assert (first.wer, second.wer) == (0.0, 0.5)
