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

MAX_TOKENS = 448
"""Positions of Whisper's decoder."""
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

        Whole sentences are left out from the end where the decoder's 448 positions do not hold them.

        Args:
            sentences: in the order in which they are spoken; none for a window without speech.
            language: Whisper's code.
            task: `transcribe` or `translate`.
            timestamps: write the times of each sentence, rounded to 20 ms.
            previous_text: transcript of what came before the window, as `<|startofprev|>` gives it.
        """
        prompt = [self._id("<|startoftranscript|>"), self._id(f"<|{language}|>"), self._id(f"<|{task}|>")]
        if not timestamps:
            prompt.append(self._no_timestamps)
        if previous_text:
            earlier = self._encode(f" {previous_text}")[-_MAX_PREVIOUS_TOKENS:]
            prompt = [self._id("<|startofprev|>"), *earlier, *prompt]
        n_room = MAX_TOKENS - len(prompt) - 1
        written: list[int] = []
        for sentence in sentences:
            tokens = self._encode(f" {sentence.text}" if written and not timestamps else sentence.text)
            if timestamps:
                tokens = [self._timestamp(sentence.start_s), *tokens, self._timestamp(sentence.end_s)]
            if len(written) + len(tokens) > n_room:
                if not written:
                    written = tokens[:n_room]
                break
            written += tokens
        return Target(tokens=[*prompt, *written, self._end], n_prompt=len(prompt))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _id(self, name: str) -> int:
        return typing.cast(int, self._tokenizer.convert_tokens_to_ids(name))

    def _timestamp(self, time_s: float) -> int:
        """Return the token of a time; they follow `<|notimestamps|>` in steps of 20 ms."""
        return self._no_timestamps + 1 + round(time_s / _TIMESTAMP_STEP_S)
