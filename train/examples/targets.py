"""Turn what was said, and when, into the token sequence that the decoder learns to write.

    <|startofprev|> earlier text <|startoftranscript|><|mr|><|transcribe|><|0.40|>text<|2.10|>...<|endoftext|>

The earlier text and the times are optional; without times `<|notimestamps|>` stands in their place. The
prompt is the one that the service decodes with (`serve.engine.vocabulary`). Knows no audio and no tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve.engine import Task
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, TIMESTAMP_STEP_S, Vocabulary
from train.errors import DataError

MAX_TEXT_TOKENS = MAX_CONTEXT_TOKENS - 5
"""Positions that remain beside start, language, task, `<|notimestamps|>` and the end."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One transcript within a window."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A token sequence, and how much of its beginning is given rather than learnt."""

    tokens: list[int]
    n_prompt: int
    """Tokens that carry no loss: earlier text, start, language, task, and `<|notimestamps|>`."""


def token_fault(n_tokens: int) -> str:
    """Return why a text of so many tokens cannot be trained on."""
    return f"the text has {n_tokens} tokens; the decoder writes {MAX_TEXT_TOKENS}: cut the clip at a pause"


def count_tokens(vocabulary: Vocabulary, texts: Sequence[str]) -> list[int]:
    """Return the most tokens that each text may have: at the beginning of a window, or after another text."""
    return [max(len(vocabulary.encode(text)), len(vocabulary.encode(f" {text}"))) for text in texts]


def build_target(
    vocabulary: Vocabulary,
    sentences: Sequence[Sentence],
    *,
    language: str,
    task: Task,
    timestamps: bool,
    previous_text: str = "",
) -> Target:
    """Return the target of one window.

    The sentences are written whole. Where the decoder's 448 positions cannot hold the rest, times are left
    out, and the beginning of the earlier text.

    Args:
        vocabulary: Base model's tokens.
        sentences: Transcripts in the order in which they are spoken; none for a window without speech.
        language: Whisper's language code.
        task: What the decoder is asked to write.
        timestamps: Whether the times of each sentence are written, rounded to 20 ms.
        previous_text: Transcript of what came before the window.

    Raises:
        DataError: The sentences alone have too many tokens; `count_tokens` tells before.
    """
    written = _written(vocabulary, sentences, timestamps)
    prompt = vocabulary.prompt(language, task, timestamps=timestamps)
    if timestamps and len(prompt) + len(written) + 1 > MAX_CONTEXT_TOKENS:
        timestamps, written = False, _written(vocabulary, sentences, timestamps=False)
        prompt = vocabulary.prompt(language, task)
    n_room = MAX_CONTEXT_TOKENS - len(prompt) - len(written) - 1
    if n_room < 0:
        raise DataError(f"a window's text has {len(written)} tokens; {MAX_TEXT_TOKENS} can be written")
    if previous_text and n_room > 1:
        with_earlier = vocabulary.prompt(language, task, previous_text, timestamps=timestamps)
        earlier = with_earlier[1 : -len(prompt)][-(n_room - 1) :]
        prompt = [vocabulary.previous, *earlier, *prompt]
    return Target(tokens=[*prompt, *written, vocabulary.end], n_prompt=len(prompt))


def _written(vocabulary: Vocabulary, sentences: Sequence[Sentence], timestamps: bool) -> list[int]:
    """Return the tokens of sentences, with their times or without."""

    def timestamp(time_s: float) -> int:
        return vocabulary.no_timestamps + 1 + round(time_s / TIMESTAMP_STEP_S)

    written: list[int] = []
    for sentence in sentences:
        tokens = vocabulary.encode(f" {sentence.text}" if written and not timestamps else sentence.text)
        if timestamps:
            tokens = [timestamp(sentence.start_s), *tokens, timestamp(sentence.end_s)]
        written += tokens
    return written
