"""Which word was taken for which, on hand-counted cases."""

from __future__ import annotations

from train.evaluate.confusions import Confusion, find_confusions


def pairs(found):
    return [(each.reference, each.hypothesis, each.count) for each in found]


def test_the_most_frequent_confusion_comes_first():
    references = ["घर लाल आहे", "घर मोठे आहे", "दार लाल आहे"]
    hypotheses = ["गर लाल आहे", "गर मोठे आहे", "दार लाळ आहे"]
    assert pairs(find_confusions(references, hypotheses, "raw")) == [("घर", "गर", 2), ("लाल", "लाळ", 1)]


def test_words_left_out_and_words_invented_have_an_empty_side():
    found = find_confusions(["एक दोन तीन", "", "चार"], ["एक तीन", "पाच", "चार"], "raw")
    assert sorted(pairs(found)) == [("", "पाच", 1), ("दोन", "", 1)]


def test_what_the_profile_takes_for_equal_is_no_confusion():
    assert find_confusions(["घर, दार।"], ["घर दार"], "marathi") == []


def test_no_more_are_given_than_wanted():
    references = [f"शब्द{n}" for n in range(9)]
    assert len(find_confusions(references, ["चूक"] * 9, "raw", limit=4)) == 4


def test_equal_counts_stand_in_the_order_of_the_words():
    found = find_confusions(["ख क"], ["ग घ"], "raw")
    assert found[0] == Confusion(reference="क", hypothesis="घ", count=1)
