"""Whisper's special tokens and their order in a decoder prompt, read from a checkpoint directory.

The prompt is `<|startofprev|> previous text <|startoftranscript|> <|mr|> <|transcribe|> <|notimestamps|>`,
where the first two parts are optional, and English-only checkpoints have neither language nor task.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from serve.engine import Task
from serve.errors import BaseModelError

MAX_CONTEXT_TOKENS = 448
"""Positions of every Whisper decoder: prompt and text together."""

MAX_PREVIOUS_TOKENS = 223
"""Most tokens of previous text, half the context less the start token (openai/whisper, decoding.py)."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Token numbers by their role."""

    tokenizer: Tokenizer
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
        special = range(end + 1, max(n_tokens, no_timestamps + 1502))
        return cls(
            tokenizer=tokenizer,
            end=end,
            start=start,
            previous=token("<|startofprev|>"),
            no_speech=token("<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=no_timestamps,
            tasks={name: token(f"<|{name}|>") for name in ("transcribe", "translate")}
            if multilingual
            else {},
            languages={name[2:-2]: number for name, number in language_ids.items()} if multilingual else {},
            suppressed=np.unique(np.array([*(generation.get("suppress_tokens") or []), *special], np.int64)),
            suppressed_first=np.array(generation.get("begin_suppress_tokens") or [end], np.int64),
        )

    def prompt(self, language: str | None, task: Task, previous_text: str = "") -> list[int]:
        """Return the decoder prompt; `language` must be a key of `languages` when there are any."""
        tokens = [self.start]
        if self.languages:
            assert language is not None
            tokens += [self.languages[language], self.tasks[task]]
        tokens.append(self.no_timestamps)
        if not previous_text.strip():
            return tokens
        previous = self.tokenizer.encode(" " + previous_text.strip(), add_special_tokens=False).ids
        return [self.previous, *previous[-MAX_PREVIOUS_TOKENS:], *tokens]

    def text(self, tokens: list[int]) -> str:
        """Return the text of text tokens, without a last character of which only some bytes were emitted."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.rstrip("�").strip()
