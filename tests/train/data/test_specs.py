"""Names of sources: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from train.data.specs import parse_spec
from train.errors import DataError


@pytest.mark.parametrize(
    ("text", "kind", "location", "name"),
    [
        ("data/mr/test-everyday.jsonl", "manifest", "data/mr/test-everyday.jsonl", "test-everyday"),
        ("manifest:rows.txt", "manifest", "rows.txt", "rows"),
        ("commonvoice:cv/mr?split=test", "commonvoice", "cv/mr", "commonvoice-mr-test"),
        ("hf:google/fleurs:mr_in", "hf", "google/fleurs:mr_in", "hf-fleurs-mr_in"),
        ("fleurs?language=hi", "preset", "fleurs", "fleurs-hi"),
        ("channel:train", "channel", "train", "channel-train"),
    ],
)
def test_a_name_says_what_kind_of_source_it_is_and_where(text, kind, location, name):
    spec = parse_spec(text)
    assert (spec.kind, spec.location, spec.name) == (kind, location, name)
    assert parse_spec(str(spec)) == spec


def test_a_source_may_say_who_speaks():
    spec = parse_spec("data/mr/clips.jsonl?kind=people")
    assert spec.speakers == "people" and spec.kind == "manifest"
    assert str(spec) == "manifest:data/mr/clips.jsonl?kind=people" and parse_spec(str(spec)) == spec


def test_options_follow_a_question_mark_and_splits_are_added_with_plus():
    spec = parse_spec("common_voice_17?split=train+validation&language=mr&streaming=true&strict=false")
    assert (spec.split, spec.language, spec.streaming, spec.strict) == ("train+validation", "mr", True, False)
    assert parse_spec(str(spec)) == spec


def test_the_options_on_a_sources_use_say_nothing_of_which_clips_these_are():
    spec = parse_spec("people/train.jsonl?weight=2.5&augment=0.25&label=people&strict=true")
    assert (spec.weight, spec.augment, spec.label, spec.name) == (2.5, 0.25, "people", "people")
    assert parse_spec(str(spec)) == spec
    assert str(spec.clips_alone) == "manifest:people/train.jsonl?strict=true"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cassette:tape", "not a source of clips; write the path of a .jsonl manifest"),
        ("folder:", "lacks what comes after 'folder:'"),
        ("fleurs?splitt=train", "unknown option 'splitt'; known are split"),
        ("fleurs?language=marathi", "not a language code"),
        ("fleurs?streaming=yes", "streaming is true or false"),
        ("fleurs?kind=robots", "kind is who speaks, one of people, neural, diphone, formant, not 'robots'"),
        ("fleurs?weight=0", "weight is a number above 0, and at most 1000, not '0'"),
        ("fleurs?weight=often", "weight is a number above 0"),
        ("fleurs?weight=nan", "weight is a number above 0"),
        ("fleurs?augment=1.5", "augment is a share of the clips, from 0 to 1, not '1.5'"),
        ("fleurs?augment=nan", "augment is a share"),
        ("fleurs?label=two words", "label is a word"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_what_would(text, said):
    with pytest.raises(DataError, match=said):
        parse_spec(text)
