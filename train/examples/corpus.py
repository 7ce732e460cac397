"""Load the training, validation and test clips of a configuration, before anything is trained.

Test data is read strictly unless its source says otherwise, because scores over fewer clips belong to another
test set. Training and validation data are filtered, and dropped rows are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from serve.engine.vocabulary import Vocabulary
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
from train.data.records import VOICE_KINDS
from train.data.specs import Purpose, parse_spec
from train.errors import DataError
from train.examples.targets import MAX_TEXT_TOKENS, text_tokens, token_fault


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Clips to score together."""

    name: str
    clips: list[Clip]
    log: DropLog
    """Dropped rows; always empty, unless the source was named with `strict=false`."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All clips of a run."""

    train: list[Clip]
    valid: list[Clip]
    tests: list[EvaluationSet]
    distill: list[Clip]
    """Recordings for distillation; their transcripts are not used, and may be empty."""
    log: DropLog
    """Rows dropped from all but the tests."""


def load_corpus(config: TrainConfig) -> Corpus:
    """Load the clips that a configuration names, preparing sources that need it.

    Raises:
        DataError: A source cannot be read, none of its clips is usable, or a row is bad where none may be.
    """
    prepare_dir = config.output_dir / "data"
    tests = []
    for source in config.test_data:
        with _naming("test_data", source):
            tests.append(load_evaluation_set(source, config.language, prepare_dir))
    log = DropLog(strict=config.strict)
    filters = Filters(language=config.language, min_duration_s=MIN_CLIP_S, max_duration_s=config.max_window_s)

    def load(key: str, purpose: Purpose, chosen: Filters) -> list[Clip]:
        clips: list[Clip] = []
        for source in getattr(config, key):
            spec = parse_spec(source)
            # The copy shares the original's list of dropped rows.
            own = log if spec.strict is None else replace(log, strict=spec.strict)
            with _naming(key, source):
                found = load_clips(
                    str(spec.clips_alone),
                    purpose,
                    config.language,
                    log=own,
                    filters=chosen,
                    prepare_dir=prepare_dir,
                )
            use = {"source": spec.name, "weight": spec.weight, "augment": spec.augment}
            clips += [structs.replace(clip, **use) for clip in found]
        return clips

    reported = [clip for test in tests for clip in test.clips]
    with _advising(
        "what is reported must not choose the adapter: name other valid_data or test_data, or set `held_out`"
        " to 'nothing'"
    ):
        apart = _kept_from_validation(config, reported)
        valid = load("valid_data", "valid", replace(filters, held_out=apart))
    kept_apart = _kept_from_training(config, valid, reported)
    unread = Filters(
        min_duration_s=MIN_CLIP_S, max_duration_s=config.max_window_s, silent=True, held_out=kept_apart
    )
    with _advising(
        "the key `held_out` says what the test data keeps out of training: name other train_data or"
        " test_data, or set it to 'sentences' or 'nothing'"
    ):
        train = load("train_data", "train", replace(filters, held_out=kept_apart))
        distill = load("distill_data", "train", unread)
    return Corpus(train=train, valid=valid, tests=tests, distill=distill, log=log)


def sum_up_heard(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Summarise clips in a plain row for each source, kind of voice and language, people first.

    Returns:
        Rows of `source`, `kind`, `language`, `clips`, `hours` (counting each clip once) and `weight`, the
        number of times that each clip is heard in an epoch.
    """
    groups: dict[tuple[str, str, str | None, float], list[float]] = {}
    for clip in clips:
        groups.setdefault((clip.source, clip.kind, clip.language, clip.weight), []).append(clip.duration_s)
    rows = [
        {
            "source": source,
            "kind": kind,
            "language": language,
            "clips": len(durations_s),
            "hours": round(sum(durations_s) / 3600, 3),
            "weight": weight,
        }
        for (source, kind, language, weight), durations_s in groups.items()
    ]
    return sorted(rows, key=lambda row: VOICE_KINDS.index(row["kind"]))


def describe_heard(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each row of `sum_up_heard`, with its share of an epoch."""
    total = sum(row["hours"] * row["weight"] for row in rows) or 1.0
    return [
        f"{row['source']} ({row['kind']}, {row['language']}): {row['clips']:,} clips, {row['hours']:.2f} h,"
        f" weight {row['weight']:g}, {row['hours'] * row['weight'] / total:.0%} of an epoch"
        for row in rows
    ]


def leave_out_long_texts(corpus: Corpus, vocabulary: Vocabulary) -> Corpus:
    """Drop training and validation clips whose texts exceed the decoder's context.

    Raises:
        DataError: No training clip is left, or the log is strict and a text is too long.
    """

    def kept(clips: list[Clip]) -> list[Clip]:
        counts = text_tokens(vocabulary, [clip.text for clip in clips]).counts
        for clip, n_tokens in zip(clips, counts, strict=True):
            if n_tokens > MAX_TEXT_TOKENS:
                corpus.log.drop(Reason.TOO_MANY_TOKENS, clip.origin, token_fault(n_tokens))
        return [clip for clip, count in zip(clips, counts, strict=True) if count <= MAX_TEXT_TOKENS]

    n_before = len(corpus.log)
    train, valid = kept(corpus.train), kept(corpus.valid)
    if corpus.train and not train:
        raise DataError(f"train_data: no clip can be used: {commonest(corpus.log.dropped[n_before:])}")
    return replace(corpus, train=train, valid=valid)


@contextmanager
def _naming(key: str, source: str) -> Iterator[None]:
    """Add the configuration's key, and the source's location, to errors."""
    try:
        yield
    except DataError as error:
        location = Path(parse_spec(source).location)
        place = f" ({location.resolve()})" if location.exists() and not location.is_absolute() else ""
        raise DataError(f"{key} {source}{place}: {error}") from error


@contextmanager
def _advising(advice: str) -> Iterator[None]:
    """Add to an error of clips that are held out what can be changed."""
    try:
        yield
    except DataError as error:
        if "is held out" in str(error):
            raise DataError(f"{error}; {advice}") from error
        raise


def load_evaluation_set(
    source: str, language: str, prepare_dir: Path, *, strict: bool = True
) -> EvaluationSet:
    """Return the clips of a source to be scored, those without speech included.

    Args:
        source: A source name; see `train.data.specs`. Its own `strict` overrides the argument.
        language: Whisper's code, used where the source names none.
        prepare_dir: Where sources that are neither manifests nor shards are prepared.
        strict: Whether the first bad row raises an error.

    Raises:
        DataError: The source cannot be read, or a row is bad where that is not allowed.
    """
    spec = parse_spec(source)
    log = DropLog(strict=strict if spec.strict is None else spec.strict)
    clips = load_clips(
        str(spec.clips_alone),
        "test",
        language,
        log=log,
        filters=Filters(silent=True),
        prepare_dir=prepare_dir,
    )
    return EvaluationSet(name=spec.name, clips=clips, log=log)


def _kept_from_validation(config: TrainConfig, reported: Sequence[Clip]) -> HeldOut:
    """Return what must not choose the best adapter: the sentences that are reported.

    Their voices may: a corpus has few, and its validation data is often theirs alone.
    """
    return HeldOut() if config.held_out == "nothing" else HeldOut(_sentences(reported))


def _kept_from_training(config: TrainConfig, valid: Sequence[Clip], reported: Sequence[Clip]) -> HeldOut:
    """Return what must not be trained on: sentences of validation and test data, and voices of the tests.

    Voices of the validation data may be trained on: it serves model selection, not reporting.
    """
    if config.held_out == "nothing":
        return HeldOut(_sentences(valid))
    sentences = _sentences([*reported, *valid])
    if config.held_out == "sentences":
        return HeldOut(sentences)
    return HeldOut(sentences, {clip.voice: clip.origin for clip in reported if clip.voice})


def _sentences(clips: Sequence[Clip]) -> dict[str, str]:
    """Return each sentence's key, and where the sentence is."""
    sentences = {sentence_key(clip.text): clip.origin for clip in clips}
    sentences.pop("", None)
    return sentences
