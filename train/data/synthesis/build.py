"""Build a Marathi speech corpus without a data hub: text -> synthetic voices -> FLAC clips and manifests.

    python -m train.data.synthesis.build --output-dir data/mr --seed 0
    python -m train.data.synthesis.build --output-dir data/tiny --everyday 40 --catalogue 0 --exchanged 0

Sentences are split first, then each side is spoken by its own voices: no test sentence and no test voice is
ever heard in training. The same seed, options and synthesiser versions give the same corpus. Manifests:
`train.jsonl`, `valid.jsonl` (held-out sentences, training voices: for choosing), `test-catalogue.jsonl` and
`test-everyday.jsonl` (held-out sentences, held-out voices: for reporting); the latter also through a
telephone line, in an echoing room, in another pitch and over noise; and `test-no-speech.jsonl`, where nobody
speaks.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import soundfile
import torch
import typer

from serve.audio.samples import SAMPLE_RATE
from serve.config.progress import progress_bar
from serve.model.durable_write import put_in_place
from train.data.synthesis import text, voices
from train.data.synthesis.conditions import CONDITIONS, write_condition, write_no_speech
from train.data.synthesis.voices import Delivery, Voice
from train.errors import DataError, TrainError

MAX_CLIP_S = 12.0
_MOST_RESEMBLANCE = 0.75  # of a training sentence to a held-out one
_NO_SPEECH_CLIPS = 100
_FESTIVAL_SHARE = 0.5  # of training clips: the one voice made from a human speaker, and the hardest to hear
_HELD_OUT_FESTIVAL_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How many clips of each kind to build; 0 leaves a kind out."""

    everyday: int
    catalogue: int
    exchanged: int
    words: int
    test: int


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One clip to be spoken."""

    split: str
    source: str
    sentence: str
    voice: Voice
    delivery: Delivery

    @property
    def clip_name(self) -> str:
        """File name that depends on what is said and how, not on the order of building."""
        key = f"{self.sentence}|{self.voice.name}|{self.delivery}"
        return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.flac"


def plan_corpus(sizes: Sizes, seed: int) -> list[Utterance]:
    """Return every clip of the corpus; sentences and voices of the test sets appear nowhere else.

    Each part, and each training sentence, draws from a generator of its own: more training text leaves the
    test sets as they are, to the bit, and most clips that were spoken before.
    """
    rng = random.Random(seed)
    everyday = _split(text.everyday_sentences(), sizes.test, rng) if sizes.everyday else _NOTHING
    catalogue = _split(text.catalogue_sentences(), sizes.test, rng) if sizes.catalogue else _NOTHING
    held_out = _Resemblance([*everyday.valid, *everyday.test, *catalogue.valid, *catalogue.test])
    taught = {
        "everyday": [*everyday.train, *text.training_sentences()] if sizes.everyday else [],
        "catalogue": catalogue.train,
    }
    taught = {source: [s for s in kept if s not in held_out] for source, kept in taught.items()}
    plan: list[Utterance] = []

    def speak(split: str, source: str, sentences: Iterable[str], choices: Sequence[Voice]) -> None:
        rng = random.Random(f"{seed}/{split}/{source}")
        festival_share = _FESTIVAL_SHARE if split == "train" else _HELD_OUT_FESTIVAL_SHARE
        times: Counter[str] = Counter()
        for sentence in sentences:
            if split == "train":
                times[sentence] += 1
                rng = random.Random(f"{seed}/{source}/{sentence}/{times[sentence]}")
            voice = _choose_voice(choices, rng, festival_share)
            plan.append(
                Utterance(split=split, source=source, sentence=sentence, voice=voice, delivery=_delivery(rng))
            )

    for source, count in {"everyday": sizes.everyday, "catalogue": sizes.catalogue}.items():
        chosen = text.cycle(taught[source], count, random.Random(f"{seed}/{source}"))
        speak("train", source, chosen, voices.TRAIN_VOICES)
    sentences = [sentence for kept in taught.values() for sentence in kept]
    known = {word for sentence in sentences for word in sentence.split()}
    new_words = (
        [word for word in text.word_list() if word not in known] if sizes.exchanged or sizes.words else []
    )
    exchange = partial(text.exchange_words, sentences)
    for source, make, count in (
        ("exchanged", exchange, sizes.exchanged),
        ("words", text.word_sequences, sizes.words),
    ):
        made = make(new_words, count, random.Random(f"{seed}/{source}")) if count else []
        speak("train", source, (s for s in made if s not in held_out), voices.TRAIN_VOICES)
    for source, split in {"everyday": everyday, "catalogue": catalogue}.items():
        speak("valid", source, split.valid, voices.TRAIN_VOICES)
        speak(f"test-{source}", source, split.test, voices.TEST_VOICES)
    return plan


def build_corpus(output_dir: Path, sizes: Sizes, seed: int) -> dict[str, int]:
    """Speak the planned corpus into `output_dir` and return the number of clips of each split.

    Clips that already exist are kept, so that an interrupted build goes on where it stopped.

    Raises:
        DataError: a text source or synthesiser is missing, or too few clips could be spoken.
    """
    plan = plan_corpus(sizes, seed)
    clips = output_dir / "clips"
    clips.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # one clip a worker: resampling must not spread over the same cores again
    with (
        ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool,
        progress_bar("speaking", len(plan), "clips") as advance,
    ):
        durations_s: list[float | None] = []
        for duration_s in pool.map(lambda utterance: _write_clip(utterance, clips), plan):
            durations_s.append(duration_s)
            advance()
    rows: dict[str, list[str]] = {}
    for utterance, duration_s in zip(plan, durations_s, strict=True):
        if duration_s is not None:
            rows.setdefault(utterance.split, []).append(_manifest_line(utterance, duration_s))
    n_failed = durations_s.count(None)
    if n_failed > len(plan) // 5:
        raise DataError(
            f"{n_failed} of {len(plan)} sentences could not be spoken: are the voices installed whole?"
        )
    for split, lines in rows.items():
        (output_dir / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    if "test-everyday" in rows:
        for condition in CONDITIONS:
            write_condition(output_dir / "test-everyday.jsonl", condition)
        write_no_speech(output_dir, min(_NO_SPEECH_CLIPS, 2 * sizes.test))
    return {split: len(lines) for split, lines in rows.items()}


@dataclass(frozen=True)
class _Split:
    train: list[str]
    valid: list[str]
    test: list[str]


_NOTHING = _Split([], [], [])


class _Resemblance:
    """Tells which sentences share nearly all words with one of a list: they would make a test of memory."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self._bags = [Counter(sentence.split()) for sentence in sentences]
        self._holders: dict[str, set[int]] = {}
        for number, bag in enumerate(self._bags):
            for word in bag:
                self._holders.setdefault(word, set()).add(number)

    def __contains__(self, sentence: str) -> bool:
        bag = Counter(sentence.split())
        shared: Counter[int] = Counter()
        for word, count in bag.items():
            for number in self._holders.get(word, ()):
                shared[number] += min(count, self._bags[number][word])
        sizes = ((2 * n, bag.total() + self._bags[number].total()) for number, n in shared.items())
        return any(common > _MOST_RESEMBLANCE * total for common, total in sizes)  # Dice's coefficient


def _split(sentences: list[str], n_test: int, rng: random.Random) -> _Split:
    """Shuffle and split by sentence; at most a fifth of the sentences is held out."""
    shuffled = rng.sample(sentences, len(sentences))
    n_test = min(n_test, len(shuffled) // 10)
    return _Split(shuffled[2 * n_test :], shuffled[n_test : 2 * n_test], shuffled[:n_test])


def _choose_voice(choices: Sequence[Voice], rng: random.Random, festival_share: float) -> Voice:
    engine = "festival" if rng.random() < festival_share else "espeak"
    return rng.choice([voice for voice in choices if voice.engine == engine])


def _delivery(rng: random.Random) -> Delivery:
    return Delivery(
        speed=round(rng.uniform(0.85, 1.25), 2),
        pitch=round(rng.uniform(-1, 1), 2),
        liveliness=round(rng.random(), 2),
    )


def _write_clip(utterance: Utterance, clips: Path) -> float | None:
    """Speak one clip unless it exists; return its duration in seconds, or None if it cannot be spoken."""
    path = clips / utterance.clip_name
    if path.is_file():
        return float(soundfile.info(path).duration)
    samples = voices.speak(utterance.sentence, utterance.voice, utterance.delivery)
    if samples is None or not 0.5 <= len(samples) / SAMPLE_RATE <= MAX_CLIP_S:
        return None
    part = path.with_suffix(f".{os.getpid()}.part")
    soundfile.write(part, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    put_in_place(part, path)
    return len(samples) / SAMPLE_RATE


def _manifest_line(utterance: Utterance, duration_s: float) -> str:
    row = {
        "audio": f"clips/{utterance.clip_name}",
        "text": utterance.sentence,
        "language": "mr",
        "duration_s": round(duration_s, 3),
        "voice": utterance.voice.name,
        "source": utterance.source,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def main(
    output_dir: Annotated[Path, typer.Option(help="Directory for clips and manifests.")],
    everyday: Annotated[int, typer.Option(help="Training clips of everyday sentences.")] = 40_000,
    catalogue: Annotated[int, typer.Option(help="Training clips of message-catalogue sentences.")] = 2500,
    exchanged: Annotated[
        int,
        typer.Option(help="Training clips of sentences with words exchanged for others of the same ending."),
    ] = 6000,
    words: Annotated[int, typer.Option(help="Training clips of word sequences.")] = 1500,
    test: Annotated[
        int, typer.Option(help="Sentences held out for each test set, and as many for validation.")
    ] = 150,
    seed: Annotated[int, typer.Option(help="Fixes text, split, voices and delivery.")] = 0,
) -> None:
    """Build a synthetic Marathi corpus from installed text and voices.

    Example: python -m train.data.synthesis.build --output-dir data/mr
    """
    try:
        counts = build_corpus(
            output_dir,
            Sizes(everyday=everyday, catalogue=catalogue, exchanged=exchanged, words=words, test=test),
            seed,
        )
    except TrainError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    for split, count in sorted(counts.items()):
        typer.echo(f"{split}: {count} clips -> {output_dir / f'{split}.jsonl'}")


if __name__ == "__main__":
    typer.run(main)
