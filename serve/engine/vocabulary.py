"""Read Whisper's special tokens from a checkpoint, and build decoder prompts and texts.

A prompt is `<|startofprev|> hotwords previous text <|startoftranscript|> <|mr|> <|transcribe|>
<|notimestamps|>`. Everything before the start token is optional, `<|notimestamps|>` is omitted where times
are requested, and English-only checkpoints have neither language nor task.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from serve.engine import DecodingOptions, ScoredToken, Task, TimedText
from serve.errors import BaseModelError

MAX_CONTEXT_TOKENS = 448
"""Context of every Whisper decoder: prompt and text together."""

MAX_PREVIOUS_TOKENS = 223
"""Most tokens of previous text: half the context, less the start token (openai/whisper, decoding.py)."""

MAX_HOTWORD_TOKENS = MAX_PREVIOUS_TOKENS // 2
"""Most tokens of previous text that hotwords may take."""

TIMESTAMP_STEP_S = 0.02
"""Step between timestamp tokens; also the duration of one encoder position."""

LEAST_PROBABILITY = 1e-30
"""Probabilities are raised to it before their logarithms are taken: rounding may have made them 0, or just
above 1."""

SPACELESS_LANGUAGES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces (openai/whisper, tokenizer.py): each letter counts as a word."""


def _bytes_of_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for (openai/gpt-2, encoder.py).

    Bytes that print stand for themselves in Latin-1; the others are written as letters from U+0100 on.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(0x100) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(0x100 + place): byte for place, byte in enumerate(hidden)
    }


_BYTE_OF = _bytes_of_letters()


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token numbers by role."""

    tokenizer: Tokenizer
    size: int
    """Number of tokens, timestamps included."""
    end: int
    start: int
    previous: int
    no_speech: int
    no_timestamps: int
    tasks: dict[str, int]
    """Empty for English-only checkpoints."""
    languages: dict[str, int]
    """Language code -> token. Empty for English-only checkpoints."""
    suppressed: npt.NDArray[np.int64]
    """Tokens never emitted: those the checkpoint names, and every special token but the end."""
    suppressed_first: npt.NDArray[np.int64]
    """Tokens never emitted first: a blank, and the end token."""

    @classmethod
    def read(cls, base_dir: Path) -> Vocabulary:
        """Read `tokenizer.json` and `generation_config.json`.

        Raises:
            BaseModelError: A file is missing, or the tokenizer lacks a token that every Whisper has.
        """
        try:
            tokenizer = Tokenizer.from_file(str(base_dir / "tokenizer.json"))
        except Exception as error:  # the tokenizers library raises bare Exception
            raise BaseModelError(f"{base_dir / 'tokenizer.json'}: {error}") from error
        generation_file = base_dir / "generation_config.json"
        generation: dict[str, Any] = (
            json.loads(generation_file.read_bytes()) if generation_file.exists() else {}
        )

        def token(*names: str) -> int:
            for name in names:
                if (number := tokenizer.token_to_id(name)) is not None:
                    return int(number)
            raise BaseModelError(
                f"{base_dir / 'tokenizer.json'}: has no token {names[0]}; is it a Whisper tokenizer?"
            )

        end, start, no_timestamps = (
            token("<|endoftext|>"),
            token("<|startoftranscript|>"),
            token("<|notimestamps|>"),
        )
        language_ids: dict[str, int] = generation.get("lang_to_id") or {}
        multilingual = bool(generation.get("is_multilingual", bool(language_ids)))
        n_tokens = tokenizer.get_vocab_size(with_added_tokens=True)
        # The end token is the first special one; all numbers above it are languages, tasks and timestamps.
        size = max(n_tokens, no_timestamps + 1502)
        return cls(
            tokenizer=tokenizer,
            size=size,
            end=end,
            start=start,
            previous=token("<|startofprev|>"),
            no_speech=token("<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=no_timestamps,
            tasks={name: token(f"<|{name}|>") for name in ("transcribe", "translate")}
            if multilingual
            else {},
            languages={name[2:-2]: number for name, number in language_ids.items()} if multilingual else {},
            suppressed=np.unique(
                np.array([*(generation.get("suppress_tokens") or []), *range(end + 1, size)], np.int64)
            ),
            suppressed_first=np.array(generation.get("begin_suppress_tokens") or [end], np.int64),
        )

    def prompt(
        self,
        language: str | None,
        task: Task,
        previous_text: str = "",
        *,
        hotwords: str = "",
        timestamps: bool = False,
    ) -> list[int]:
        """Return a decoder prompt. `language` must be a key of `languages`, unless that is empty."""
        tokens = [self.start]
        if self.languages:
            assert language is not None
            tokens += [self.languages[language], self.tasks[task]]
        if not timestamps:
            tokens.append(self.no_timestamps)
        words = self._tokens_of(hotwords)[:MAX_HOTWORD_TOKENS]
        previous = words + self._tokens_of(previous_text)[-(MAX_PREVIOUS_TOKENS - len(words)) :]
        return [self.previous, *previous, *tokens] if previous else tokens

    def prompt_of(self, options: DecodingOptions) -> list[int]:
        """Return the decoder prompt for these options, whose language must be known."""
        prompt = self.prompt(
            options.language,
            options.task,
            options.prompt,
            hotwords=options.hotwords,
            timestamps=options.timestamps,
        )
        return [*prompt, *options.prefix]

    def text(self, tokens: Sequence[int]) -> str:
        """Decode text tokens, without a last character of which only some bytes were emitted."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text.rstrip("�").strip()

    def is_text(self, token: int) -> bool:
        """Tell whether a token is text, not a special token or a timestamp."""
        return token < self.end

    def suppressed_by(self, texts: Iterable[str]) -> list[int]:
        """Return the tokens of texts to suppress, each with and without a leading space.

        Raises:
            ValueError: A text is not a single token; the message names it.
        """
        found: list[int] = []
        for text in texts:
            forms = [self.encode(form) for form in (text, " " + text.strip())]
            single = [form[0] for form in forms if len(form) == 1 and self.is_text(form[0])]
            if not single:
                raise ValueError(f"'{text[:60]}' is not one token of the model, so it cannot be suppressed")
            found += single
        return sorted(set(found))

    def unsupported(self, options: DecodingOptions) -> tuple[str, str] | None:
        """Return (option, reason) for an option that this vocabulary cannot express."""
        try:
            self.suppressed_by(options.suppress)
        except ValueError as error:
            return "suppress", str(error)
        return None

    def sentences(self, tokens: Sequence[int], heard_s: float) -> tuple[TimedText, ...]:
        """Split tokens at timestamps, cut at `heard_s` seconds; an open sentence ends there."""
        found: list[TimedText] = []
        start_s = 0.0
        text_tokens: list[int] = []

        def close(end_s: float) -> None:
            if text := self.text(text_tokens):
                found.append(
                    TimedText(
                        text=text, start_s=start_s, end_s=max(start_s, end_s), tokens=tuple(text_tokens)
                    )
                )

        for token in tokens:
            if token <= self.no_timestamps:
                text_tokens.append(token)
                continue
            time_s = min(heard_s, round((token - self.no_timestamps - 1) * TIMESTAMP_STEP_S, 2))
            close(time_s)
            start_s, text_tokens = time_s, []
        close(heard_s)
        return tuple(found)

    def words(self, tokens: Sequence[int], language: str) -> list[list[int]]:
        """Group text tokens into words; a word starts at a token with a leading space.

        A token may hold part of a character only, so in languages without spaces a word is the shortest run
        of tokens that decodes to text.
        """
        words: list[list[int]] = []
        whole = True  # whether the last token so far ends with a complete character
        for token in tokens:
            text = self.tokenizer.decode([token])
            if not words or text.startswith(" ") or (whole and language in SPACELESS_LANGUAGES):
                words.append([])
            words[-1].append(token)
            whole = "�" not in self.tokenizer.decode(words[-1])
        return words

    def scored(self, tokens: Sequence[int], probabilities: Sequence[float]) -> tuple[ScoredToken, ...]:
        """Return text tokens as they are written, with the logarithms of their probabilities."""
        return tuple(
            ScoredToken(token, self._written(token), math.log(min(1.0, max(probability, LEAST_PROBABILITY))))
            for token, probability in zip(tokens, probabilities, strict=True)
        )

    def _written(self, token: int) -> bytes:
        """Return the bytes of a text token, which need not be whole letters."""
        piece: str = self.tokenizer.id_to_token(token) or ""
        try:
            return bytes(_BYTE_OF[letter] for letter in piece)
        except KeyError:  # a vocabulary of words or letters
            return piece.encode()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, unchanged."""
        tokens: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return tokens

    def _tokens_of(self, text: str) -> list[int]:
        """Return the text tokens of a text, without special tokens that its writer may have spelled out."""
        if not text.strip():
            return []
        return [token for token in self.encode(" " + text.strip()) if self.is_text(token)]
