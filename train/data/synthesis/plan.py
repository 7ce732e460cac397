"""Plan a corpus: what is said, by which voice and how, before anything is spoken.

Sentences are split first, then each split is given its own voices. Knows no audio.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from train.data.synthesis import text, voices
from train.data.synthesis.held_out import NOTHING, Resemblance, Split, split_sentences
from train.data.synthesis.kokoro import draw_blend
from train.data.synthesis.lines import Line, Phrases, plan_lines
from train.data.synthesis.sizes import Sizes
from train.data.synthesis.voices import Delivery, Voice

_FESTIVAL_SHARE = 0.5  # of training clips: the one voice from a human speaker, and the hardest to transcribe
_HELD_OUT_FESTIVAL_SHARE = 0.3
_HINDI_PIPER_EVERY = 6
_NEURAL_VALID_CLIPS = 60  # few, because each takes seconds to speak, and validation decodes them often


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One clip to speak."""

    split: str
    source: str
    sentence: str
    voice: Voice
    delivery: Delivery
    language: str = "mr"
    """Whisper's code of the sentence's language."""

    @property
    def clip_name(self) -> str:
        """File name that depends on text, voice, delivery and language, not on the order of building."""
        key = f"{self.sentence}|{self.voice.name}|{self.delivery}"
        if self.language != "mr":
            key += f"|{self.language}"
        return f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.flac"


def plan_corpus(sizes: Sizes, seed: int) -> list[Utterance]:
    """Return every clip of the corpus; sentences and voices of the test sets occur nowhere else.

    Each part, and each training sentence, has its own random generator. So more training text changes neither
    the test sets nor most of the clips spoken before.
    """
    rng = random.Random(seed)
    everyday = (
        split_sentences(text.everyday_sentences(), sizes.test, rng)
        if sizes.everyday or sizes.neural
        else NOTHING
    )
    catalogue = split_sentences(text.catalogue_sentences(), sizes.test, rng) if sizes.catalogue else NOTHING
    held_out = Resemblance([*everyday.valid, *everyday.test, *catalogue.valid, *catalogue.test])
    own = [*everyday.train, *text.training_sentences()] if sizes.everyday or sizes.neural else []
    taught = {
        "everyday": [sentence for sentence in own if sentence not in held_out],
        "catalogue": [sentence for sentence in catalogue.train if sentence not in held_out],
    }
    splits = {"everyday": everyday, "catalogue": catalogue}
    return [
        *(_neural_held_out(everyday, seed) if sizes.neural else ()),
        *_formant_and_diphone(sizes, seed, taught, splits, held_out),
        *(_neural_training(taught["everyday"], sizes, seed) if sizes.neural else ()),
        *_hindi_training(text.hindi_sentences(), sizes.hindi, seed),
    ]


def _neural_held_out(everyday: Split, seed: int) -> Iterator[Utterance]:
    """Yield test and validation clips of neural voices, evenly distributed over the voices."""
    for split, sentences, speakers in (
        ("test-neural", everyday.test, voices.NEURAL_TEST_VOICES),
        ("valid-neural", everyday.valid[:_NEURAL_VALID_CLIPS], voices.NEURAL_VALID_VOICES),
    ):
        for number, sentence in enumerate(sentences):
            rng = random.Random(f"{seed}/{split}/{sentence}")
            yield Utterance(
                split=split,
                source="everyday",
                sentence=sentence,
                voice=speakers[number % len(speakers)],
                delivery=_neural_delivery(rng.uniform(0.85, 1.2)),
            )


def _neural_training(sentences: list[str], sizes: Sizes, seed: int) -> list[Utterance]:
    """Return training clips of neural voices, with both engines spread evenly."""
    phrases = Phrases(sentences)
    placed: list[tuple[float, Utterance]] = []
    for engine, count in (("kokoro", sizes.kokoro), ("piper", sizes.piper)):
        for number, line in enumerate(plan_lines(sentences, phrases, engine, count, seed)):
            voice, delivery = _draw_kokoro(line) if engine == "kokoro" else _draw_piper(line)
            utterance = Utterance(
                split="train-neural",
                source=line.source,
                sentence=line.text,
                voice=voice,
                delivery=delivery,
            )
            placed.append(((number + 0.5) / count, utterance))
    return [utterance for _, utterance in sorted(placed, key=lambda each: each[0])]


def _hindi_training(sentences: list[str], count: int, seed: int) -> Iterator[Utterance]:
    """Yield training clips of Hindi by neural voices; one in six is Piper's."""
    for number, line in enumerate(plan_lines(sentences, None, "hindi", count, seed)):
        voice, delivery = _draw_piper(line) if number % _HINDI_PIPER_EVERY == 0 else _draw_kokoro(line)
        yield Utterance(
            split="train-hindi",
            source="hindi",
            sentence=line.text,
            voice=voice,
            delivery=delivery,
            language="hi",
        )


def _draw_kokoro(line: Line) -> tuple[Voice, Delivery]:
    voice = voices.kokoro_voice(draw_blend(line.rng))
    return voice, _neural_delivery(line.rng.uniform(0.8, 1.3))


def _draw_piper(line: Line) -> tuple[Voice, Delivery]:
    voice = line.rng.choice(voices.PIPER_VOICES)
    return voice, _neural_delivery(line.rng.uniform(0.75, 1.2), line.rng.random())


def _neural_delivery(speed: float, liveliness: float = 0.0) -> Delivery:
    return Delivery(speed=round(speed, 2), pitch=0.0, liveliness=round(liveliness, 2))


def _formant_and_diphone(
    sizes: Sizes, seed: int, taught: dict[str, list[str]], splits: dict[str, Split], held_out: Resemblance
) -> list[Utterance]:
    """Return the clips of espeak and festival, for every split."""
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
    for source, split in splits.items():
        if source == "catalogue" or sizes.everyday:
            speak("valid", source, split.valid, voices.TRAIN_VOICES)
            speak(f"test-{source}", source, split.test, voices.TEST_VOICES)
    return plan


def _choose_voice(choices: Sequence[Voice], rng: random.Random, festival_share: float) -> Voice:
    engine = "festival" if rng.random() < festival_share else "espeak"
    return rng.choice([voice for voice in choices if voice.engine == engine])


def _delivery(rng: random.Random) -> Delivery:
    return Delivery(
        speed=round(rng.uniform(0.85, 1.25), 2),
        pitch=round(rng.uniform(-1, 1), 2),
        liveliness=round(rng.random(), 2),
    )
