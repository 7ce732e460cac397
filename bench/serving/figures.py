"""Summaries of raw measurements, as plain dictionaries for JSON. Knows no process and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.evaluate.scoring import score

PROFILE = "marathi"
"""Profile of `train.data.normalise` that texts are compared under."""

Figures = dict[str, Any]


def percentiles(seconds: Sequence[float]) -> Figures:
    """Return p50, p95 and p99."""
    return {f"p{p}": round(float(np.percentile(seconds, p)), 4) for p in (50, 95, 99)}


def ratios(others_s: Sequence[float], ours_s: Sequence[float]) -> Figures:
    """Return how many times longer the others took, pair by pair: median, quartiles, and the mean of all."""
    each = np.array(others_s) / np.array(ours_s)
    low, median, high = (round(float(value), 3) for value in np.percentile(each, (25, 50, 75)))
    total = round(float(np.sum(others_s) / np.sum(ours_s)), 3)
    return {"median": median, "quartile_1": low, "quartile_3": high, "of_totals": total, "pairs": len(each)}


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> Figures:
    """Return WER with its interval and CER, as fractions."""
    found = score(references, hypotheses, PROFILE).as_dict()
    return {name: found[name] for name in ("wer", "wer_low", "wer_high", "cer")}


def times_real_time(audio_s: float, seconds: float) -> float:
    """Return seconds of audio transcribed per second."""
    return round(audio_s / seconds, 2)
