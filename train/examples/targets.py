"""Turn sentences and their times into the token sequence that the decoder learns to emit.

    <|startofprev|> earlier text <|startoftranscript|><|mr|><|transcribe|><|0.40|>text<|2.10|>...<|endoftext|>

Earlier text and times are optional; without times, `<|notimestamps|>` replaces them. The prompt is the one
that the service decodes with (`serve.engine.vocabulary`). Knows no audio and no tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve.engine import Task
from serve.engine.vocabulary import MAX_CONTEXT_TOKENS, TIMESTAMP_STEP_S, Vocabulary
from train.errors import DataError

MAX_TEXT_TOKENS = MAX_CONTEXT_TOKENS - 5
"""Context that remains beside start, language, task, `<|notimestamps|>` and end."""
_LAST_TIMESTAMP = 1_500
"""Steps to `<|30.00|>`, the vocabulary's last time."""


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One transcript, with its times within a window, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A token sequence, and the length of its prompt."""

    tokens: list[int]
    n_prompt: int
    """Tokens without loss: earlier text, start, language, task, and `<|notimestamps|>`."""


def token_fault(n_tokens: int) -> str:
    """Return the message for a text with too many tokens."""
    return f"the text has {n_tokens} tokens; the decoder writes {MAX_TEXT_TOKENS}: cut the clip at a pause"


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """The tokens of texts, each of which may start a window or follow another text."""

    counts: list[int]
    """Most tokens that each text may take."""
    distinct: frozenset[int]
    """All tokens that the texts may take."""


def text_tokens(vocabulary: Vocabulary, texts: Iterable[str]) -> TextTokens:
    counts, distinct = [], set[int]()
    for text in texts:
        first, later = vocabulary.encode(text), vocabulary.encode(f" {text}")
        counts.append(max(len(first), len(later)))
        distinct.update(first, later)
    return TextTokens(counts=counts, distinct=frozenset(distinct))


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

    Sentences are never cut. Where the decoder's 448 positions do not suffice, times are omitted first, and
    then the start of the earlier text.

    Args:
        sentences: Transcripts in spoken order; none for a window without speech.
        timestamps: Whether to write the times of each sentence, rounded to 20 ms, at most 30 s.
        previous_text: Transcript of what precedes the window.

    Raises:
        DataError: The sentences alone have too many tokens; see `text_tokens`.
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
    """Return the tokens of sentences, with or without times."""

    def timestamp(time_s: float) -> int:
        return vocabulary.no_timestamps + 1 + min(_LAST_TIMESTAMP, round(time_s / TIMESTAMP_STEP_S))

    written: list[int] = []
    for sentence in sentences:
        tokens = vocabulary.encode(f" {sentence.text}" if written and not timestamps else sentence.text)
        if timestamps:
            tokens = [timestamp(sentence.start_s), *tokens, timestamp(sentence.end_s)]
        written += tokens
    return written
