"""The card of an artifact."""

from __future__ import annotations

from train.export.model_card import model_card
from train.loop.loop import Outcome

OUTCOME = Outcome(step=6, total_steps=6, samples=40, skipped_batches=1, trained_s=12.4, finished=True)


def result(wer: float) -> dict:
    values = {"utterances": 3, "wer": wer, "wer_low": wer / 2, "wer_high": 2 * wer, "cer": wer / 5}
    counts = {"hits": 1, "substitutions": 2, "deletions": 3, "insertions": 4}
    rates = {"hallucination_rate": 0.0, "script_fidelity": 1.0}
    return {"scores": {"marathi": {**values, **counts, **rates}}, "utterances": [{"hypothesis": "गुपित"}]}


def test_the_card_shows_every_score_and_how_the_adapter_was_made(tiny_config):
    scores = {"test": {"base": result(1.2), "tuned": result(0.2)}}
    earlier = {"name": "first", "sha256": "ab" * 32, "training": {"steps": 99}}
    card = model_card(tiny_config(), OUTCOME, {"continued_from": earlier}, scores)
    assert "going on from `first` (99 steps, sha256 abababababab)." in card
    assert "going on" not in model_card(tiny_config(), OUTCOME, {}, {})
    assert "| test | 3 | tuned | marathi | 20.0 (10.0 to 40.0) | 4.0 | 2 / 3 / 4 |" in card
    assert "| test | 3 | base | marathi | 120.0 (60.0 to 240.0) | 24.0 | 2 / 3 / 4 |" in card
    assert "6 steps" in card and "40 examples" in card and "rank 4, alpha 8" in card
    assert "Not evaluated." in model_card(tiny_config(), OUTCOME, {}, {})
