"""Compare what was said with what was written: WER, CER and what hides behind them. Knows no audio.

Rates are corpus-level: errors of all utterances over words (or characters) of all references. An empty
reference counts every word of its hypothesis as an insertion.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jiwer
import numpy as np

from train.normalise import PROFILES

_BOOTSTRAP_ROUNDS = 1_000
_LOOP_COMPRESSION_RATIO = 2.4  # openai/whisper's threshold for text that repeats itself
_RUNAWAY_LENGTH_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one corpus under one profile; rates are fractions, not per cent."""

    profile: str
    utterances: int
    wer: float
    wer_low: float
    """Lower end of the bootstrap 95 % interval of `wer` (utterances redrawn)."""
    wer_high: float
    cer: float
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    hallucination_rate: float
    """Share of utterances whose text loops, is twice as long as the reference, or answers silence."""
    script_fidelity: float
    """Share of the hypotheses' letters that are in the script of the references."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, rates rounded to five places."""
        return {key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(self).items()}


def score(references: Sequence[str], hypotheses: Sequence[str], profile: str) -> Score:
    """Return the scores of hypotheses against references, both normalised by a profile of `PROFILES`."""
    normalise = PROFILES[profile]
    pairs = [(normalise(ref), normalise(hyp)) for ref, hyp in zip(references, hypotheses, strict=True)]
    words = np.array([_errors(ref.split(), hyp.split()) for ref, hyp in pairs])  # (n, 4): hits, S, D, I
    characters = np.array([_errors(list(ref), list(hyp)) for ref, hyp in pairs])
    hits, substitutions, deletions, insertions = (int(total) for total in words.sum(axis=0))
    low, high = _bootstrap_interval(words)
    return Score(
        profile=profile,
        utterances=len(pairs),
        wer=_rate(words),
        wer_low=low,
        wer_high=high,
        cer=_rate(characters),
        hits=hits,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        hallucination_rate=float(np.mean([_is_hallucination(ref, hyp) for ref, hyp in pairs])),
        script_fidelity=_script_fidelity([ref for ref, _ in pairs], [hyp for _, hyp in pairs]),
    )


def _errors(reference: list[str], hypothesis: list[str]) -> tuple[int, int, int, int]:
    """Return (hits, substitutions, deletions, insertions) of one utterance's words or characters."""
    if not reference:  # jiwer refuses an empty reference
        return 0, 0, 0, len(hypothesis)
    # jiwer splits at blanks, which are characters here: it is given numbers, one for each distinct unit.
    numbers = {unit: str(number) for number, unit in enumerate({*reference, *hypothesis})}
    numbered = [" ".join(numbers[unit] for unit in side) for side in (reference, hypothesis)]
    result = jiwer.process_words(numbered[0], numbered[1])
    return result.hits, result.substitutions, result.deletions, result.insertions


def _rate(errors: np.ndarray[Any, Any]) -> float:
    hits, substitutions, deletions, insertions = errors.sum(axis=0)
    n_reference = hits + substitutions + deletions
    wrong = substitutions + deletions + insertions
    return float(wrong / n_reference) if n_reference else float(wrong > 0)


def _bootstrap_interval(words: np.ndarray[Any, Any]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    draws = rng.integers(len(words), size=(_BOOTSTRAP_ROUNDS, len(words)))
    rates = [_rate(words[draw]) for draw in draws]
    return float(np.percentile(rates, 2.5)), float(np.percentile(rates, 97.5))


def _is_hallucination(reference: str, hypothesis: str) -> bool:
    if not reference:
        return bool(hypothesis)
    encoded = hypothesis.encode()
    loops = len(encoded) > 60 and len(encoded) / len(zlib.compress(encoded)) > 2 * _LOOP_COMPRESSION_RATIO
    return loops or len(hypothesis) > _RUNAWAY_LENGTH_RATIO * max(10, len(reference))


def _script_fidelity(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    script = _most_frequent([name for text in references for name in _scripts(text)])
    written = [name for text in hypotheses for name in _scripts(text)]
    return written.count(script) / len(written) if script and written else 1.0


def _scripts(text: str) -> list[str]:
    return [unicodedata.name(char, "UNKNOWN").split()[0] for char in text if char.isalpha()]


def _most_frequent(names: list[str]) -> str | None:
    return max(set(names), key=names.count) if names else None
