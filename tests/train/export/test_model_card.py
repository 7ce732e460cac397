"""The card of an artifact."""

from __future__ import annotations

import pytest

from train.export.model_card import model_card
from train.loop.loop import Outcome

OUTCOME = Outcome(step=6, total_steps=6, samples=40, skipped_batches=1, trained_s=12.4, finished=True)


def result(wer: float, kind: str = "neural") -> dict:
    values = {"utterances": 3, "wer": wer, "wer_low": wer / 2, "wer_high": 2 * wer, "cer": wer / 5}
    counts = {"hits": 1, "substitutions": 2, "deletions": 3, "insertions": 4}
    rates = {"hallucination_rate": 0.0, "script_fidelity": 1.0}
    scores = {"profile": "marathi", **values, **counts, **rates}
    groups = {"by_kind": {kind: scores}, "by_language": {"mr": scores}}
    return {"scores": {"marathi": scores}, **groups, "utterances": [{"hypothesis": "गुपित"}]}


def test_the_card_shows_every_score_and_how_the_adapter_was_made(tiny_config):
    scores = {"test": {"base": result(1.2), "tuned": result(0.2)}}
    earlier = {"name": "first", "sha256": "ab" * 32, "training": {"steps": 99}}
    card = model_card(tiny_config(), OUTCOME, {"continued_from": earlier}, scores)
    assert "continuing `first` (99 steps, sha256 abababababab)." in card
    assert "going on" not in model_card(tiny_config(), OUTCOME, {}, {})
    assert (
        "| neural | mr | test | 3 | tuned | marathi | 20.0 (10.0 to 40.0) | 4.0 | 100 | 2 / 3 / 4 |" in card
    )
    assert (
        "| neural | mr | test | 3 | base | marathi | 120.0 (60.0 to 240.0) | 24.0 | 100 | 2 / 3 / 4 |" in card
    )
    assert "6 steps" in card and "40 examples" in card and "rank 4, alpha 8" in card
    assert "Not evaluated." in model_card(tiny_config(), OUTCOME, {}, {})


def test_the_first_row_is_of_people_whatever_was_scored_first(tiny_config):
    scores = {"a": {"tuned": result(0.1, "formant")}, "b": {"tuned": result(0.6, "people")}}
    rows = [
        line for line in model_card(tiny_config(), OUTCOME, {}, scores).splitlines() if "| tuned |" in line
    ]
    assert [row.split(" | ")[0] for row in rows] == ["| people", "| formant"]


def test_the_card_warns_where_the_figures_are_synthetic_and_names_the_language(tiny_config):
    synthetic = model_card(tiny_config(), OUTCOME, {}, {"a": {"tuned": result(0.1, "formant")}})
    assert "Scored on speech in mr." in synthetic
    assert "Figures on synthetic speech say little about people" in synthetic
    people = model_card(tiny_config(), OUTCOME, {}, {"a": {"tuned": result(0.1, "people")}})
    assert "say little about people" not in people


def test_the_card_says_what_the_adapter_heard_and_what_those_before_it_did(tiny_config):
    people = {
        "source": "news",
        "kind": "people",
        "language": "hi",
        "clips": 481,
        "hours": 0.922,
        "weight": 3.0,
    }
    machine = {
        "source": "train",
        "kind": "neural",
        "language": "mr",
        "clips": 9000,
        "hours": 8.5,
        "weight": 1.0,
    }
    earlier = {"name": "first", "sha256": "ab" * 32, "training": {"steps": 99}}
    card = model_card(tiny_config(), OUTCOME, {"heard": [machine, people], "continued_from": earlier}, {})
    first, second = (line for line in card.splitlines() if line.endswith("| this adapter |"))
    assert first == "| people | hi | news | 481 | 0.92 | 3 | this adapter |"
    assert second == "| neural | mr | train | 9,000 | 8.50 | 1 | this adapter |"
    assert "0.92 hours of it were spoken by people; the rest was not" in card
    assert "The training data of `abababababab` is not recorded." in card
    only_machines = model_card(tiny_config(), OUTCOME, {"heard": [machine]}, {})
    assert "No recording of people is known to be among it." in only_machines


@pytest.mark.parametrize(
    ("held_out", "said"),
    [
        ("sentences and voices", "No sentence and no voice of a test set was used"),
        ("sentences", "voices may have been"),
        ("nothing", "may have been used in training"),
    ],
)
def test_the_card_promises_no_more_than_was_held_out(tiny_config, held_out, said):
    assert said in model_card(tiny_config(held_out=held_out), OUTCOME, {}, {})
