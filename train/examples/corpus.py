"""Gather the training, validation and test clips of a configuration, before anything is loaded or trained.

Test data is read strictly, unless its source says otherwise: scores over fewer clips than the test set has
are scores of another test set. Training data is filtered, and what was left out is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import WhisperTokenizer

from train.config import TrainConfig
from train.data.clips import load_clips
from train.data.filters import (
    MIN_CLIP_S,
    DropLog,
    Filters,
    HeldOut,
    Reason,
    commonest,
    sentence_key,
)
from train.data.manifest import Clip
from train.data.specs import Purpose, parse_spec
from train.errors import DataError
from train.examples.targets import MAX_TEXT_TOKENS, TargetBuilder, token_fault

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Clips to be scored together."""

    name: str
    clips: list[Clip]
    log: DropLog
    """What was left out of it: nothing, unless its source was named with `strict=false`."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All clips of a run."""

    train: list[Clip]
    valid: list[Clip]
    tests: list[EvaluationSet]
    log: DropLog
    """What was left out of training and validation."""


def load_corpus(config: TrainConfig) -> Corpus:
    """Return the clips that a configuration names; sources that must be decoded are prepared once.

    Raises:
        DataError: a source cannot be read, nothing of it can be used, or a row is bad where none may be.
    """
    prepare_dir = config.output_dir / "data"
    tests = [
        _named("test_data", source, load_evaluation_set, config.language, prepare_dir)
        for source in config.test_data
    ]
    log = DropLog(strict=config.strict)
    filters = Filters(language=config.language, min_duration_s=MIN_CLIP_S, max_duration_s=config.max_window_s)

    def load(sources: Sequence[str], purpose: Purpose, chosen: Filters) -> list[Clip]:
        clips: list[Clip] = []
        for source in sources:
            strict = parse_spec(source).strict
            own = (
                log if strict is None else replace(log, strict=strict)
            )  # shares the list of what was dropped
            clips += _named(
                f"{purpose}_data",
                source,
                load_clips,
                purpose,
                config.language,
                log=own,
                filters=chosen,
                prepare_dir=prepare_dir,
            )
        return clips

    valid = load(config.valid_data, "valid", filters)
    kept_apart = _held_out(config, valid, tests)
    try:
        train = load(config.train_data, "train", replace(filters, held_out=kept_apart))
    except DataError as error:
        if "is held out" in str(error):
            raise DataError(
                f"{error}; the key `held_out` says what the test data keeps out of training: name other"
                " train_data or test_data, or set it to 'sentences' or 'nothing'"
            ) from error
        raise
    return Corpus(train=train, valid=valid, tests=tests, log=log)


def leave_out_long_texts(corpus: Corpus, tokenizer: WhisperTokenizer) -> Corpus:
    """Return the corpus without the training and validation clips whose texts the decoder cannot write whole.

    Raises:
        DataError: nothing to train on is left, or the log is strict and a text is too long.
    """

    def kept(clips: list[Clip]) -> list[Clip]:
        counts = builder.n_tokens([clip.text for clip in clips])
        for clip, n_tokens in zip(clips, counts, strict=True):
            if n_tokens > MAX_TEXT_TOKENS:
                corpus.log.drop(Reason.TOO_MANY_TOKENS, clip.origin, token_fault(n_tokens))
        return [clip for clip, count in zip(clips, counts, strict=True) if count <= MAX_TEXT_TOKENS]

    builder = TargetBuilder(tokenizer)
    n_before = len(corpus.log)
    train, valid = kept(corpus.train), kept(corpus.valid)
    if corpus.train and not train:
        raise DataError(f"train_data: no clip can be used: {commonest(corpus.log.dropped[n_before:])}")
    return replace(corpus, train=train, valid=valid)


def _named(key: str, source: str, load: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Load a source; errors say which key of the configuration names it, and where it lies."""
    try:
        return load(source, *arguments, **options)
    except DataError as error:
        location = Path(parse_spec(source).location)
        place = f" ({location.resolve()})" if location.exists() and not location.is_absolute() else ""
        raise DataError(f"{key} {source}{place}: {error}") from error


def load_evaluation_set(
    source: str, language: str, prepare_dir: Path, *, strict: bool = True
) -> EvaluationSet:
    """Return the clips of a source to be scored, those without speech among them.

    Args:
        source: as `train.data.specs` names them; its own `strict` goes before the argument.
        language: Whisper's code, where the source names none.
        prepare_dir: where sources that are neither manifest nor shards are prepared.
        strict: whether the first bad row raises.

    Raises:
        DataError: the source cannot be read, or a row is bad where that is not allowed.
    """
    spec = parse_spec(source)
    log = DropLog(strict=strict if spec.strict is None else spec.strict)
    clips = load_clips(
        source, "test", language, log=log, filters=Filters(silent=True), prepare_dir=prepare_dir
    )
    return EvaluationSet(name=spec.name, clips=clips, log=log)


def _held_out(config: TrainConfig, valid: Sequence[Clip], tests: Sequence[EvaluationSet]) -> HeldOut:
    """Return what must not be trained on: sentences of validation and test data, and voices of the tests.

    Voices of the validation data are no secret: it is for choosing, not for reporting.
    """
    if config.held_out == "nothing":
        return HeldOut()
    reported = [clip for test in tests for clip in test.clips]
    sentences = {sentence_key(clip.text): clip.origin for clip in [*reported, *valid]}
    sentences.pop("", None)
    if config.held_out == "sentences":
        return HeldOut(sentences)
    return HeldOut(sentences, {clip.voice: clip.origin for clip in reported if clip.voice})
