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

    Sentences that the decoder's 448 positions cannot hold are left out whole, from the end.

    Args:
        vocabulary: Base model's tokens.
        sentences: Transcripts in the order in which they are spoken; none for a window without speech.
        language: Whisper's language code.
        task: What the decoder is asked to write.
        timestamps: Whether the times of each sentence are written, rounded to 20 ms.
        previous_text: Transcript of what came before the window.
    """
    prompt = vocabulary.prompt(language, task, previous_text, timestamps=timestamps)
    n_room = MAX_CONTEXT_TOKENS - len(prompt) - 1

    def timestamp(time_s: float) -> int:
        return vocabulary.no_timestamps + 1 + round(time_s / TIMESTAMP_STEP_S)

    written: list[int] = []
    for sentence in sentences:
        tokens = vocabulary.encode(f" {sentence.text}" if written and not timestamps else sentence.text)
        if timestamps:
            tokens = [timestamp(sentence.start_s), *tokens, timestamp(sentence.end_s)]
        if len(written) + len(tokens) > n_room:
            if not written:
                written = tokens[:n_room]
            break
        written += tokens
    return Target(tokens=[*prompt, *written, vocabulary.end], n_prompt=len(prompt))
