"""Score hypotheses against references: WER, CER, intervals, hallucinations. Knows no audio.

Rates are corpus-level: errors of all utterances divided by the words (or characters) of all references. For
an empty reference, every word of the hypothesis is an insertion.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jiwer
import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from scipy.stats import bootstrap

from train.data.normalise import normaliser, profile_for

WordErrors = npt.NDArray[np.int64]
"""(n_utterances, 4): hits, substitutions, deletions, insertions."""

_MOST_NUMBERS = 1_000_000
"""Most numbers of utterances drawn at once for an interval: 40 MB of errors."""
_BOOTSTRAP_ROUNDS = 1_000
_LOOP_COMPRESSION_RATIO = 2.4  # openai/whisper's threshold for repetitive text
_RUNAWAY_LENGTH_RATIO = 2.0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one corpus by one profile; rates are fractions, not per cent."""

    profile: str
    """The requested profile, or its variant for the language if all utterances are in one."""
    utterances: int
    wer: float
    wer_low: float
    """Lower end of the 95 % bootstrap interval of `wer`, resampling utterances."""
    wer_high: float
    cer: float
    hits: int
    substitutions: int
    deletions: int
    insertions: int
    hallucination_rate: float
    """Share of utterances whose text loops, is twice as long as the reference, or is not empty for
    silence."""
    script_fidelity: float
    """Share of the hypotheses' letters that are in the references' script."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, with rates rounded to five places."""
        return {key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, kw_only=True)
class UtteranceScore:
    """Scores of one utterance by one profile; rates are fractions."""

    wer: float
    cer: float
    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def word_errors(self) -> tuple[int, int, int, int]:
        """(hits, substitutions, deletions, insertions), a row for `rate` and the intervals."""
        return self.hits, self.substitutions, self.deletions, self.insertions


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two models on the same utterances: WER of the second minus WER of the first, as fractions."""

    difference: float
    """Negative if the second model makes fewer errors."""
    low: float
    """Lower end of the 95 % interval, by a paired bootstrap: both models are resampled alike."""
    high: float
    better: int
    """Utterances with fewer word errors by the second model."""
    worse: int
    equal: int


def score(
    references: Sequence[str],
    hypotheses: Sequence[str],
    profile: str,
    *,
    languages: Sequence[str | None] | None = None,
    seed: int = 0,
) -> Score:
    """Return the scores of hypotheses against references.

    Args:
        references: Spoken texts.
        hypotheses: Transcribed texts, in the same order.
        profile: Name of a profile in `PROFILES`, applied to both.
        languages: Whisper's code of each utterance, for the profile; None means Marathi.
    """
    pairs = _normalised(references, hypotheses, profile, languages)
    applied = {profile_for(profile, language) for language in languages or [None]}
    words = np.array([_word_errors(ref, hyp) for ref, hyp in pairs])  # (n, 4): hits, S, D, I
    characters = np.array([_character_errors(ref, hyp) for ref, hyp in pairs])
    hits, substitutions, deletions, insertions = (int(total) for total in words.sum(axis=0))
    low, high = wer_interval(words, seed=seed)
    return Score(
        profile=applied.pop() if len(applied) == 1 else profile,
        utterances=len(pairs),
        wer=rate(words),
        wer_low=low,
        wer_high=high,
        cer=rate(characters),
        hits=hits,
        substitutions=substitutions,
        deletions=deletions,
        insertions=insertions,
        hallucination_rate=float(np.mean([_is_hallucination(ref, hyp) for ref, hyp in pairs])),
        script_fidelity=_script_fidelity([ref for ref, _ in pairs], [hyp for _, hyp in pairs]),
    )


def score_utterances(
    references: Sequence[str],
    hypotheses: Sequence[str],
    profile: str,
    *,
    languages: Sequence[str | None] | None = None,
) -> list[UtteranceScore]:
    """Return the scores of each utterance, in order; see `score`."""
    scores = []
    for reference, hypothesis in _normalised(references, hypotheses, profile, languages):
        words = _word_errors(reference, hypothesis)
        characters = _character_errors(reference, hypothesis)
        hits, substitutions, deletions, insertions = words
        scores.append(
            UtteranceScore(
                wer=rate(np.array([words])),
                cer=rate(np.array([characters])),
                hits=hits,
                substitutions=substitutions,
                deletions=deletions,
                insertions=insertions,
            )
        )
    return scores


def compare(first: WordErrors, second: WordErrors, *, seed: int = 0) -> Comparison:
    """Return how the second model differs from the first on the same utterances.

    Args:
        first: Word errors of one model, (n_utterances, 4): hits, substitutions, deletions, insertions.
        second: Word errors of the other model, in the same order.
    """
    assert first.shape == second.shape
    low, high = _interval(lambda chosen: _rates(second[chosen]) - _rates(first[chosen]), len(first), seed)
    gained = second[:, 1:].sum(axis=1) - first[:, 1:].sum(axis=1)
    return Comparison(
        difference=rate(second) - rate(first),
        low=low,
        high=high,
        better=int((gained < 0).sum()),
        worse=int((gained > 0).sum()),
        equal=int((gained == 0).sum()),
    )


def rate(errors: WordErrors) -> float:
    """Return the error rate, as a fraction, of rows (hits, substitutions, deletions, insertions)."""
    return float(_rates(errors))


def wer_interval(words: WordErrors, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the rate, resampling utterances."""
    return _interval(lambda chosen: _rates(words[chosen]), len(words), seed)


def _rates(errors: WordErrors) -> npt.NDArray[np.float64]:
    """Return the error rates (...) of utterances (..., n_utterances, 4)."""
    hits, substitutions, deletions, insertions = np.moveaxis(errors.sum(axis=-2), -1, 0)
    n_reference = hits + substitutions + deletions
    wrong = substitutions + deletions + insertions
    rates: npt.NDArray[np.float64] = np.where(n_reference > 0, wrong / np.maximum(n_reference, 1), wrong > 0)
    return rates


def _interval(
    statistic: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float64]], n_utterances: int, seed: int
) -> tuple[float, float]:
    """Return the 95 % percentile interval of a statistic, resampling utterances.

    Indices are resampled, not errors, so that a statistic of two models resamples both alike.
    """
    numbers = np.arange(n_utterances)
    if n_utterances < 2:  # scipy cannot resample a single observation
        value = float(statistic(numbers))
        return value, value
    found = bootstrap(
        (numbers,),
        lambda chosen, axis: statistic(chosen),
        n_resamples=_BOOTSTRAP_ROUNDS,
        batch=max(1, _MOST_NUMBERS // n_utterances),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _normalised(
    references: Sequence[str],
    hypotheses: Sequence[str],
    profile: str,
    languages: Sequence[str | None] | None,
) -> list[tuple[str, str]]:
    pairs = []
    languages = languages or [None] * len(references)
    for reference, hypothesis, language in zip(references, hypotheses, languages, strict=True):
        normalise = normaliser(profile, language)
        pairs.append((normalise(reference), normalise(hypothesis)))
    return pairs


def _word_errors(reference: str, hypothesis: str) -> tuple[int, int, int, int]:
    """Return (hits, substitutions, deletions, insertions) of one utterance's words."""
    aligned = align_words(reference, hypothesis)
    if aligned is None:
        return 0, 0, 0, len(hypothesis.split())
    return aligned.hits, aligned.substitutions, aligned.deletions, aligned.insertions


def align_words(reference: str, hypothesis: str) -> jiwer.WordOutput | None:
    """Return jiwer's word alignment; None for an empty reference, which jiwer refuses."""
    if not reference.split():
        return None
    # jiwer splits at plain spaces only, and a model's text may hold others.
    return jiwer.process_words(" ".join(reference.split()), " ".join(hypothesis.split()))


def _character_errors(reference: str, hypothesis: str) -> tuple[int, int, int, int]:
    """Return (hits, substitutions, deletions, insertions) of one utterance's characters, spaces included.

    rapidfuzz, on which jiwer is built, counts them, because jiwer strips outer spaces and refuses an empty
    reference.
    """
    counts = Counter(edit.tag for edit in Levenshtein.editops(reference, hypothesis))
    substitutions, deletions, insertions = counts["replace"], counts["delete"], counts["insert"]
    return len(reference) - substitutions - deletions, substitutions, deletions, insertions


def _is_hallucination(reference: str, hypothesis: str) -> bool:
    if not reference:
        return bool(hypothesis)
    encoded = hypothesis.encode()
    loops = len(encoded) > 60 and len(encoded) / len(zlib.compress(encoded)) > 2 * _LOOP_COMPRESSION_RATIO
    return loops or len(hypothesis) > _RUNAWAY_LENGTH_RATIO * max(10, len(reference))


def _script_fidelity(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the share of the hypotheses' letters whose script is one of their reference's.

    Where a reference has no letters, those of the others decide.
    """
    allowed = [set(_scripts(text)) for text in references]
    anywhere = set().union(*allowed)
    fits = [
        name in (scripts or anywhere)
        for scripts, text in zip(allowed, hypotheses, strict=True)
        for name in _scripts(text)
    ]
    return sum(fits) / len(fits) if anywhere and fits else 1.0


def _scripts(text: str) -> list[str]:
    return [unicodedata.name(char, "UNKNOWN").split()[0] for char in text if char.isalpha()]
