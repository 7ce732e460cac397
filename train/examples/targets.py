"""Turn what was said, and when, into the token sequence that the decoder learns to write.

    <|startofprev|> earlier text <|startoftranscript|><|mr|><|transcribe|><|0.40|>text<|2.10|>...<|endoftext|>

The earlier text and the times are optional; without times `<|notimestamps|>` stands in their place. Knows no
audio and no tensors.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import WhisperTokenizer

from train.errors import DataError

MAX_TOKENS = 448
"""Positions of Whisper's decoder."""
MAX_TEXT_TOKENS = MAX_TOKENS - 5
"""What start, language, task, `<|notimestamps|>` and the end leave of them."""
_MAX_PREVIOUS_TOKENS = MAX_TOKENS // 2 - 1  # as in openai/whisper, which keeps the last 223 of them
_TIMESTAMP_STEP_S = 0.02


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


class TargetBuilder:
    """Builds targets with one tokenizer."""

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        self._tokenizer = tokenizer
        self._end = int(tokenizer.eos_token_id)
        self._no_timestamps = self._id("<|notimestamps|>")

    def build(
        self,
        sentences: Sequence[Sentence],
        *,
        language: str,
        task: str,
        timestamps: bool,
        previous_text: str = "",
    ) -> Target:
        """Return the target of one window.

        What is spoken is written whole. Where the decoder's 448 positions do not hold the rest, there are no
        times, and less of the earlier text.

        Args:
            sentences: in the order in which they are spoken; none for a window without speech.
            language: Whisper's code.
            task: `transcribe` or `translate`.
            timestamps: write the times of each sentence, rounded to 20 ms.
            previous_text: transcript of what came before the window, as `<|startofprev|>` gives it.

        Raises:
            DataError: the sentences alone have too many tokens; `n_tokens` tells before.
        """
        prompt = [self._id("<|startoftranscript|>"), self._id(f"<|{language}|>"), self._id(f"<|{task}|>")]
        written = self._written(sentences, timestamps)
        if timestamps and len(prompt) + len(written) + 1 > MAX_TOKENS:
            timestamps, written = False, self._written(sentences, timestamps=False)
        if not timestamps:
            prompt.append(self._no_timestamps)
        n_room = MAX_TOKENS - len(prompt) - len(written) - 1
        if n_room < 0:
            raise DataError(f"a window's text has {len(written)} tokens; {MAX_TEXT_TOKENS} can be written")
        n_earlier = min(_MAX_PREVIOUS_TOKENS, n_room - 1)
        if previous_text and n_earlier > 0:
            earlier = self._encode(f" {previous_text}")[-n_earlier:]
            prompt = [self._id("<|startofprev|>"), *earlier, *prompt]
        return Target(tokens=[*prompt, *written, self._end], n_prompt=len(prompt))

    def n_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens each text has at most, whether a window begins with it or not."""
        if not texts:
            return []
        counts = [
            [len(tokens) for tokens in self._tokenizer(written, add_special_tokens=False).input_ids]
            for written in (list(texts), [f" {text}" for text in texts])
        ]
        return [max(pair) for pair in zip(*counts, strict=True)]

    def _written(self, sentences: Sequence[Sentence], timestamps: bool) -> list[int]:
        """Return the tokens of sentences, with their times or without."""
        written: list[int] = []
        for sentence in sentences:
            tokens = self._encode(f" {sentence.text}" if written and not timestamps else sentence.text)
            if timestamps:
                tokens = [self._timestamp(sentence.start_s), *tokens, self._timestamp(sentence.end_s)]
            written += tokens
        return written

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _id(self, name: str) -> int:
        return typing.cast(int, self._tokenizer.convert_tokens_to_ids(name))

    def _timestamp(self, time_s: float) -> int:
        """Return the token of a time; they follow `<|notimestamps|>` in steps of 20 ms."""
        return self._no_timestamps + 1 + round(time_s / _TIMESTAMP_STEP_S)
