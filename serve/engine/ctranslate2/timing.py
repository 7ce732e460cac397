"""When the words of a text are said, by the cross-attention of a converted model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve.engine import EngineInput, Hypothesis, TimedText
from serve.engine.ctranslate2.model import CT2Model, gathered
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, Vocabulary
from serve.engine.words import heard_frames, word_times

MEDIAN_FILTER_POSITIONS = 7
"""Width of the filter that smooths cross-attention before words are timed (openai/whisper)."""

PROMPT_TOKENS = 5
"""Start, language, task, the mark of a text without times, and end: they share the context with the text."""


def timed_words(
    model: CT2Model,
    vocabulary: Vocabulary,
    windows: Sequence[EngineInput],
    texts: Sequence[Sequence[int]],
    language: str,
) -> list[tuple[TimedText, ...]]:
    """Return the words of a text in each window, with their times.

    Args:
        model: Has encoded the windows.
        vocabulary: The base model's.
        windows: Windows of one length and one task.
        texts: Text tokens; what does not fit into the context is left out.
        language: The language of all texts.
    """
    if not windows:
        return []
    kept = [text[: MAX_CONTEXT_TOKENS - PROMPT_TOKENS] for text in texts]
    n_frames = [heard_frames(window.log_mel) for window in windows]
    alignments = model.align(
        gathered([window.encoded for window in windows]),
        vocabulary.prompt(language or None, windows[0].options.task, timestamps=True),
        kept,
        n_frames,
        median_filter_width=MEDIAN_FILTER_POSITIONS,
    )
    return [
        word_times(
            text,
            language,
            vocabulary,
            path=alignment.alignments,
            token_probs=alignment.text_token_probs,
            n_frames=heard,
        )
        for text, alignment, heard in zip(kept, alignments, n_frames, strict=True)
    ]


def with_words(
    model: CT2Model,
    vocabulary: Vocabulary,
    windows: Sequence[EngineInput],
    hypotheses: Sequence[Hypothesis],
) -> list[Hypothesis]:
    """Add the times of words to hypotheses in one language, unless they have them; see `timed_words`."""
    timed = list(hypotheses)
    rows = [row for row, hypothesis in enumerate(hypotheses) if hypothesis.tokens and not hypothesis.words]
    found = timed_words(
        model,
        vocabulary,
        [windows[row] for row in rows],
        [hypotheses[row].tokens for row in rows],
        windows[0].options.language or "",
    )
    for row, words in zip(rows, found, strict=True):
        timed[row] = replace(hypotheses[row], words=words)
    return timed
