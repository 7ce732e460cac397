"""A loaded CTranslate2 Whisper whose interface uses the base model's token numbers.

Its own vocabulary may be smaller (`serve.engine.ctranslate2.kept_tokens`). Knows no windows and no options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import numpy.typing as npt
from ctranslate2.models import Whisper

from serve.engine import LanguageProbs
from serve.engine.ctranslate2.merging import kept_tokens
from serve.errors import ConversionError


@dataclass(frozen=True)
class Generated:
    """The text generated for one row."""

    tokens: list[int]
    sum_logprob: float
    no_speech_prob: float


class CT2Model:
    """A converted model on a device. At most as many threads as it has workers may call it at a time."""

    def __init__(
        self, directory: Path, *, device: str, compute: str, n_workers: int, threads_per_worker: int
    ) -> None:
        """Load a model that `serve.engine.ctranslate2.merging` converted.

        Raises:
            ConversionError: The directory holds no model that CTranslate2 can load.
        """
        self._kept = kept_tokens(directory)
        self._device = device
        try:
            self._whisper = Whisper(
                str(directory),
                device=device,
                compute_type=compute,
                inter_threads=n_workers,
                intra_threads=threads_per_worker,
            )
        except (RuntimeError, ValueError) as error:
            raise ConversionError(f"{directory} cannot be loaded by CTranslate2: {error}") from error

    def can_read(self, tokens: Sequence[int]) -> bool:
        """Tell whether the model has all these tokens."""
        return self._kept is None or all(token in self._kept for token in tokens)

    def encode(self, log_mels: npt.NDArray[np.float32]) -> EncoderOutput:
        """Encode a batch, (n_rows, n_mels, n_frames).

        On a CPU, rows are encoded one by one: activations then stay in the cache, which makes eight windows
        of 14 s twice as fast. The output is bit-identical.
        """
        n_rows = len(log_mels)
        if self._device != "cpu" or n_rows == 1:
            return EncoderOutput(self._encoded(log_mels), n_rows)
        rows = [np.asarray(self._encoded(log_mels[row : row + 1])) for row in range(n_rows)]
        return EncoderOutput(ctranslate2.StorageView.from_array(np.concatenate(rows)), n_rows)

    def _encoded(self, log_mels: npt.NDArray[np.float32]) -> ctranslate2.StorageView:
        return self._whisper.encode(ctranslate2.StorageView.from_array(log_mels))

    def detect_languages(self, encoded: ctranslate2.StorageView) -> list[LanguageProbs]:
        """Return the language probabilities of each row; for full vocabularies."""
        ranked = self._whisper.detect_language(encoded)
        return [{token[2:-2]: probability for token, probability in ranking} for ranking in ranked]

    def generate(
        self,
        encoded: ctranslate2.StorageView,
        prompts: Sequence[Sequence[int]],
        *,
        suppress: Sequence[int],
        limit: int,
        beam_size: int,
        temperature: float,
        n_prefix: int = 0,
    ) -> list[Generated]:
        """Generate a text for each row.

        Args:
            prompts: One for each row, all of equal length.
            suppress: Tokens that must not be emitted.
            limit: Most tokens emitted per row.
            temperature: 0 takes the likeliest token; above 0 tokens are drawn at random.
            n_prefix: Text tokens that the prompts end with; behind them any token may come first.
        """
        results = self._whisper.generate(
            encoded,
            [self._own(prompt) for prompt in prompts],
            beam_size=beam_size,
            # CTranslate2 divides a score by the number of tokens, which is 0 for an empty text. So request
            # the sums of all beams, and find the best mean here.
            num_hypotheses=beam_size,
            length_penalty=0,
            return_scores=True,
            return_no_speech_prob=True,
            # CTranslate2 allows min(max_length / 2, max_length - prompt) tokens, which must equal `limit`.
            max_length=max(2 * limit, limit + len(prompts[0])),
            suppress_blank=n_prefix == 0,
            suppress_tokens=self._own(suppress),
            sampling_topk=0 if temperature > 0 else 1,
            sampling_temperature=temperature or 1.0,
        )
        found = []
        for result in results:
            # CTranslate2 returns a prefix as part of the text, but does not score it.
            written = [tokens[n_prefix:] for tokens in result.sequences_ids]
            texts = list(zip(written, result.scores, strict=True))
            tokens, score = max(texts, key=lambda text: text[1] / (len(text[0]) + 1))
            full = tokens if self._kept is None else self._kept.to_full(tokens)
            found.append(Generated(full, score, result.no_speech_prob))
        return found

    def align(
        self,
        encoded: ctranslate2.StorageView,
        start_sequence: Sequence[int],
        texts: Sequence[Sequence[int]],
        n_frames: Sequence[int],
        *,
        median_filter_width: int,
    ) -> list[Any]:
        """Align each text's tokens with its window; see `Whisper.align` of CTranslate2."""
        alignments: list[Any] = self._whisper.align(
            encoded,
            self._own(start_sequence),
            [self._own(text) for text in texts],
            list(n_frames),
            median_filter_width=median_filter_width,
        )
        return alignments

    def _own(self, tokens: Sequence[int]) -> list[int]:
        return list(tokens) if self._kept is None else self._kept.to_kept(tokens)


class EncoderOutput:
    """Encoder output of a batch, (n_rows, n_frames / 2, d_model)."""

    def __init__(self, whole: ctranslate2.StorageView, n_rows: int) -> None:
        self.whole = whole
        self.n_rows = n_rows

    @cached_property
    def on_cpu(self) -> npt.NDArray[np.floating]:
        """The output in CPU memory."""
        return np.asarray(self.whole.to_device(ctranslate2.Device.cpu))


def gathered(rows: Sequence[tuple[EncoderOutput, int]]) -> ctranslate2.StorageView:
    """Return rows of several outputs as one array; a whole output in order is returned without a copy."""
    first = rows[0][0]
    if rows == [(first, row) for row in range(first.n_rows)]:
        return first.whole
    return ctranslate2.StorageView.from_array(np.stack([output.on_cpu[row] for output, row in rows]))
