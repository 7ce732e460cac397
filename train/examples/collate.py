"""Turn planned examples into tensors: audio -> augmented windows -> log_mel, text -> labels.

Features come from `serve.audio.features`, so training sees exactly what the server will compute.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from serve.audio.features import MAX_WINDOW_S, MIN_WINDOW_S, FeatureExtractor, window_length_s
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.engine.vocabulary import Vocabulary
from train.config import TrainConfig
from train.data.filters import DropLog, Reason
from train.data.manifest import Clip, load_samples
from train.errors import DataError, UnreadBatch
from train.examples.augment import Augmenter
from train.examples.batches import JOIN_PAUSE_S, ExamplePlan
from train.examples.candidates import Candidates, CandidateTokens
from train.examples.no_speech import no_speech
from train.examples.targets import (
    MAX_TEXT_TOKENS,
    Sentence,
    Target,
    TextTokens,
    build_target,
    text_tokens,
    token_fault,
)

_JITTER_STEP_S = 0.5
"""Window lengths of training are random multiples of this. oneDNN compiles a program for each new shape of a
batch, which on a processor with AMX takes longer than running it."""

_TOKENS_STEP = 16
"""Texts of a batch are padded to a multiple of this, for the same reason."""

LEAD_IN_S = (0.0, 0.4)
"""Silence before the speech, in seconds: the server's windows start a little before the first word."""
IGNORED = -100
"""Label of positions without loss."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The tensors of one training batch."""

    log_mel: torch.Tensor
    """(batch, n_mels, n_frames) float32."""
    decoder_input_ids: torch.Tensor
    """(batch, n_tokens) int64, exactly one start token each."""
    labels: torch.Tensor
    """(batch, n_tokens) int64; `IGNORED` where there is no loss."""
    audio_s: float
    """Seconds of audio before padding."""
    candidates: Candidates | None = None
    """Tokens that the softmax runs over; None for the whole vocabulary."""
    examples: tuple[ExamplePlan, ...] = ()
    """What each row holds: the examples asked for, without clips and examples that could not be read."""


class Collator:
    """Builds batches from clips. `augmented=False`, for validation, disables augmentation and random margins.

    A clip that cannot be decoded, or whose text exceeds the decoder's context, is dropped from its example
    and logged; an example that loses all its clips is dropped from its batch, since audio of anything else
    with its empty text would teach silence. Without a log, or with a strict one, such a clip raises an error.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        config: TrainConfig,
        features: FeatureExtractor,
        vocabulary: Vocabulary,
        *,
        augmented: bool,
        log: DropLog | None = None,
    ) -> None:
        self.clips = clips
        self.config = config
        self.features = features
        self.vocabulary = vocabulary
        self.augmented = augmented
        self.log = log if log is not None else DropLog(strict=True)

    @cached_property
    def _text_tokens(self) -> TextTokens:
        return text_tokens(self.vocabulary, [clip.text for clip in self.clips])

    @cached_property
    def n_tokens(self) -> list[int]:
        """Most tokens that each clip's text may take."""
        return self._text_tokens.counts

    @cached_property
    def _candidates(self) -> CandidateTokens | None:
        n_sampled = self.config.sampled_tokens
        if not (self.augmented and n_sampled):
            return None
        return CandidateTokens(self.vocabulary, self._text_tokens.distinct, n_sampled)

    def collate(self, batch: Sequence[ExamplePlan], key: Sequence[int]) -> Batch:
        """Return the tensors of a batch; the same `key` gives the same random choices.

        Raises:
            UnreadBatch: No example is left.
            DataError: A clip cannot be used, and the log is strict.
        """
        batch, decoded = self._readable(batch)
        rng = np.random.default_rng([self.config.seed, *key])
        augmenter = Augmenter(self.config.augment, rng)
        augmenters = [augmenter if self._may_change(example, rng) else None for example in batch]
        windows = [
            self._wave(example, decoded, changing, rng)
            for example, changing in zip(batch, augmenters, strict=True)
        ]
        window_s = self._window_s(max(len(wave) for wave, _ in windows), rng)
        log_mels = []
        for (wave, _), changing in zip(windows, augmenters, strict=True):
            wave = wave[: round(window_s * SAMPLE_RATE)]
            log_mel = self.features.log_mel(wave, window_s)
            speech_frames = log_mel.shape[1] * len(wave) // round(window_s * SAMPLE_RATE)
            log_mels.append(changing.log_mel(log_mel, speech_frames) if changing else log_mel)
        targets = [
            self._target(example, sentences, rng)
            for example, (_, sentences) in zip(batch, windows, strict=True)
        ]
        decoder_input_ids, labels = stack_targets(targets, self.vocabulary.end)
        return Batch(
            log_mel=torch.from_numpy(np.stack(log_mels)),
            decoder_input_ids=decoder_input_ids,
            labels=labels,
            audio_s=sum(len(wave) for wave, _ in windows) / SAMPLE_RATE,
            candidates=self._candidates.draw(rng) if self._candidates else None,
            examples=tuple(batch),
        )

    def _readable(self, batch: Sequence[ExamplePlan]) -> tuple[list[ExamplePlan], dict[int, Samples]]:
        """Return the examples with the clips that can be used, and the samples of these clips by index."""
        writable = [dataclasses.replace(example, clips=self._writable(example)) for example in batch]
        decoded = self._decode(writable)
        readable = [
            dataclasses.replace(example, clips=tuple(index for index in example.clips if index in decoded))
            for example in writable
        ]
        left = [now for now, before in zip(readable, batch, strict=True) if now.clips or not before.clips]
        if not left:
            clip = self.clips[batch[0].clips[0]]
            raise UnreadBatch(f"no clip of a batch can be used, such as {clip.origin}: {clip.path}")
        return left, decoded

    def _writable(self, example: ExamplePlan) -> tuple[int, ...]:
        """Return the clips of an example whose texts fit the decoder together.

        A text that is too long alone is dropped from all examples. If texts are too long together, which
        `plan_epoch` avoids, the last clips are dropped from this example, audio and text.
        """
        kept: list[int] = []
        n_room = MAX_TEXT_TOKENS
        for index in example.clips:
            clip, n_tokens = self.clips[index], self.n_tokens[index]
            if n_tokens > MAX_TEXT_TOKENS:
                self.log.drop(Reason.TOO_MANY_TOKENS, clip.origin, token_fault(n_tokens))
                continue
            n_room -= n_tokens
            if n_room < 0:
                break
            kept.append(index)
        return tuple(kept)

    def _may_change(self, example: ExamplePlan, rng: np.random.Generator) -> bool:
        """Draw whether an example is augmented; of joined clips, the smallest share counts."""
        share = min((self.clips[index].augment for index in example.clips), default=1.0)
        # Nothing is drawn for a share of 1, so that runs without shares keep their random choices.
        return self.augmented and (share == 1 or bool(rng.random() < share))

    def _decode(self, batch: Sequence[ExamplePlan]) -> dict[int, Samples]:
        """Return the samples of the batch's clips by index, without those that cannot be decoded."""
        decoded: dict[int, Samples] = {}
        for index in (index for example in batch for index in example.clips):
            clip = self.clips[index]
            try:
                decoded[index] = load_samples(clip)
            except DataError as error:
                self.log.drop(Reason.UNDECODABLE, clip.origin, str(error).removeprefix(f"{clip.origin}: "))
        return decoded

    def _wave(
        self,
        example: ExamplePlan,
        decoded: Mapping[int, Samples],
        augmenter: Augmenter | None,
        rng: np.random.Generator,
    ) -> tuple[Samples, list[Sentence]]:
        """Return an example's samples, and its sentences with their times."""
        if not example.clips:
            return no_speech(round(example.duration_s * SAMPLE_RATE), rng), []
        lead_in_s = rng.uniform(*LEAD_IN_S) if self.augmented else 0.0
        pauses_s = [rng.uniform(*JOIN_PAUSE_S) for _ in example.clips][:-1]
        filled_s = sum(len(decoded[index]) for index in example.clips) / SAMPLE_RATE + sum(pauses_s)
        # Moved beyond the window's end, the last word would be cut but its text would not.
        lead_in_s = max(0.0, min(lead_in_s, MAX_WINDOW_S - filled_s))
        pieces: list[Samples] = []
        sentences: list[Sentence] = []
        at_s = 0.0
        for index, pause_s in zip(example.clips, [lead_in_s, *pauses_s], strict=True):
            pieces += [np.zeros(round(pause_s * SAMPLE_RATE), np.float32), decoded[index]]
            start_s, at_s = at_s + pause_s, at_s + pause_s + len(pieces[-1]) / SAMPLE_RATE
            sentences.append(Sentence(text=self.clips[index].text, start_s=start_s, end_s=at_s))
        samples = np.concatenate(pieces)
        if augmenter is None:
            return samples, sentences
        changed, tempo = augmenter.waveform(samples)
        # Slowed down beyond the longest window, the speech would be cut but its text would not.
        if len(changed) > MAX_WINDOW_S * SAMPLE_RATE:
            return samples, sentences
        return changed, [
            Sentence(text=said.text, start_s=said.start_s / tempo, end_s=said.end_s / tempo)
            for said in sentences
        ]

    def _window_s(self, n_samples: int, rng: np.random.Generator) -> float:
        if self.config.encoder_context == "fixed":
            return MAX_WINDOW_S
        if not self.augmented:
            return window_length_s(n_samples, 1.0)  # as in serving
        length_s = n_samples / SAMPLE_RATE + rng.uniform(*self.config.window_margin_s)
        steps = math.ceil(length_s / _JITTER_STEP_S)
        return min(MAX_WINDOW_S, max(MIN_WINDOW_S, round(steps * _JITTER_STEP_S, 1)))

    def _target(
        self, example: ExamplePlan, sentences: Sequence[Sentence], rng: np.random.Generator
    ) -> Target:
        first = self.clips[example.clips[0]] if example.clips else None
        # A window has one language: only clips of one language are joined.
        language = (first.language if first else None) or self.config.language
        timestamps = self.augmented and bool(rng.random() < self.config.timestamp_probability)
        previous = ""
        if example.clips and self.augmented and rng.random() < self.config.prompt_probability:
            previous = self.clips[example.clips[0] - 1].text  # clips of a recording are listed in order
        return build_target(
            self.vocabulary,
            sentences,
            language=language,
            task=self.config.task,
            timestamps=timestamps,
            previous_text=previous,
        )


def stack_targets(targets: Sequence[Target], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (decoder_input_ids, labels), each (batch, n_tokens), from sequences with prompt and end token.

    Inputs are the sequences without their last token, labels those without their first: one start token, and
    no shift by the model. The prompt carries no loss. The end token does, although it is also the padding.
    """
    n_tokens = max(len(target.tokens) for target in targets) - 1
    n_tokens = _TOKENS_STEP * math.ceil(n_tokens / _TOKENS_STEP)  # at most 448, the decoder's context
    inputs = torch.full((len(targets), n_tokens), pad_id)
    labels = torch.full((len(targets), n_tokens), IGNORED)
    for row, target in enumerate(targets):
        tokens, n_prompt = target.tokens, target.n_prompt
        inputs[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        labels[row, n_prompt - 1 : len(tokens) - 1] = torch.tensor(tokens[n_prompt:])
    return inputs, labels
