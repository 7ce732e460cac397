"""Text for synthesis: installed message catalogues, a dictionary, and this package's own sentences.

Every source yields speakable sentences: only Devanagari words and single spaces, so that a voice says exactly
what the transcript holds. Knows no audio.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from train.data.normalise import unify_marathi
from train.errors import DataError

LIBREOFFICE_CATALOGUES = Path("/usr/lib/libreoffice/program/resource/mr/LC_MESSAGES")
FIREFOX_CATALOGUE = Path("/usr/lib/firefox-esr/browser/extensions/langpack-mr@firefox-esr.mozilla.org.xpi")
TESSERACT_MODELS = Path("/usr/share/tesseract-ocr")
OWN_SENTENCES = Path(__file__).parent / "texts"
SYSTEM_DEPS_HINT = "run `make system-deps` to install it"

MIN_WORDS, MAX_WORDS = 2, 14
MAX_CHARS = 110  # about nine seconds of speech
_COMMON = 6  # uses that make a word common: such words carry the grammar, and are never exchanged
_KEPT = 0.25  # of the rarer words that are not exchanged either
_FEWEST_OF_AN_ENDING = 20

_PLACEHOLDER = re.compile(r"%|\$|\{|\}|<|>|\\|/|[0-9०-९A-Za-z]")
_BETWEEN_WORDS = re.compile(r"[\s.,;:!?…'\"“”‘’()\[\]|।॥*=+–—-]+")
_WORD = re.compile(
    r"[\u0904-\u0939\u0958-\u0961\u0972\u0950][\u0900-\u0903\u0904-\u0939\u093c-\u094d\u0958-\u0963\u0972]*"
)
_VIRAMA = "\u094d"


def speakable(line: str) -> str | None:
    """Return a line as bare Devanagari words, or None where it holds anything a voice cannot read."""
    line = unify_marathi(line.replace("~", "").replace("_", ""))
    if _PLACEHOLDER.search(line):
        return None
    words = _BETWEEN_WORDS.sub(" ", line).split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not all(map(is_word, words)):
        return None
    sentence = " ".join(words)
    return sentence if len(sentence) <= MAX_CHARS else None


def is_word(word: str) -> bool:
    """Tell whether a string is one plausible Devanagari word (no leading sign, no trailing virama)."""
    return _WORD.fullmatch(word) is not None and not word.endswith(_VIRAMA)


def everyday_sentences() -> list[str]:
    """Return this package's everyday sentences, some of which are held out for tests."""
    return _own_sentences("everyday-mr*.txt")


def training_sentences() -> list[str]:
    """Return this package's training-only sentences, which widen the vocabulary."""
    return _own_sentences("training-mr*.txt")


def hindi_sentences() -> list[str]:
    """Return this package's Hindi sentences: stories, talk, news and essays, for training only."""
    return _own_sentences("training-hi*.txt")


def counted_words() -> list[str]:
    """Return about 150 number words and colours."""
    return [unify_marathi(word) for word in (OWN_SENTENCES / "words-mr.txt").read_text("utf-8").split()]


def catalogue_sentences() -> list[str]:
    """Return the speakable sentences of the installed LibreOffice and Firefox translations.

    Raises:
        DataError: Neither is installed.
    """
    lines: list[str] = []
    if LIBREOFFICE_CATALOGUES.is_dir():
        lines += _gettext_lines(LIBREOFFICE_CATALOGUES)
    if FIREFOX_CATALOGUE.is_file():
        lines += _language_pack_lines(FIREFOX_CATALOGUE)
    if not lines:
        raise DataError(
            f"no Marathi message catalogue is installed (libreoffice-l10n-mr): {SYSTEM_DEPS_HINT}"
        )
    return [
        sentence for sentence in _distinct(lines) if sentence.count(" ") >= 2
    ]  # shorter ones are menu items


def word_list() -> list[str]:
    """Return the distinct words of the dictionary in Tesseract's Marathi model.

    It holds 150,000 forms from the web as people write them, with names, inflected loan words, and a few
    misspellings.

    Raises:
        DataError: The model is not installed.
    """
    models = sorted(TESSERACT_MODELS.glob("*/tessdata/mar.traineddata"))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            letters, packed, plain = (
                f"{scratch}/mar.{part}" for part in ("lstm-unicharset", "lstm-word-dawg", "txt")
            )
            for command in (
                ["combine_tessdata", "-e", *map(str, models[-1:]), letters, packed],
                ["dawg2wordlist", letters, packed, plain],
            ):
                subprocess.run(command, capture_output=True, check=True)
            dictionary = Path(plain).read_text(encoding="utf-8")
    except (OSError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"the Marathi dictionary (tesseract-ocr-mar) is not installed: {SYSTEM_DEPS_HINT}"
        ) from error
    words = (unify_marathi(word) for word in dictionary.splitlines())
    return sorted({word for word in words if is_word(word) and 2 <= len(word) <= 16})


def exchange_words(sentences: list[str], words: list[str], count: int, rng: random.Random) -> list[str]:
    """Return `count` of the sentences with most of their rarer words exchanged.

    A word is replaced by one of `words` with the same ending. So case and verb endings, and word boundaries,
    stay natural. Words with the same ending are used about equally often.
    """
    uses = Counter(word for sentence in sentences for word in sentence.split())
    groups: dict[str, list[str]] = {}
    for word in words:
        for ending in (word[-3:], word[-2:]):
            groups.setdefault(ending, []).append(word)
    decks: dict[str, list[str]] = {}

    def draw(word: str) -> str:
        for ending in (word[-3:], word[-2:]):
            if len(group := groups.get(ending, ())) >= _FEWEST_OF_AN_ENDING:
                deck = decks.setdefault(ending, [])
                if not deck:
                    deck += rng.sample(group, len(group))
                return deck.pop()
        return word

    exchanged: list[str] = []
    for sentence in cycle(sentences, count, rng):
        kept = [uses[word] >= _COMMON or rng.random() < _KEPT for word in sentence.split()]
        new = [word if keep else draw(word) for word, keep in zip(sentence.split(), kept, strict=True)]
        exchanged.append(" ".join(new))
    return exchanged


def cycle(sentences: list[str], count: int, rng: random.Random) -> list[str]:
    """Return `count` sentences: the whole list in a new order, round after round."""
    chosen: list[str] = []
    while sentences and len(chosen) < count:
        chosen += rng.sample(sentences, min(len(sentences), count - len(chosen)))
    return chosen


def word_sequences(words: list[str], count: int, rng: random.Random) -> list[str]:
    """Return `count` sequences of three to six words, using each word about equally often."""
    sequences: list[str] = []
    deck: list[str] = []
    while len(sequences) < count:
        n_words = rng.randint(3, 6)
        if len(deck) < n_words:
            deck = rng.sample(words, len(words))
        sequences.append(" ".join(deck.pop() for _ in range(n_words)))
    return sequences


def _own_sentences(pattern: str) -> list[str]:
    files = sorted(OWN_SENTENCES.glob(pattern))
    return _distinct(line for file in files for line in file.read_text(encoding="utf-8").splitlines())


def _gettext_lines(directory: Path) -> Iterator[str]:
    import polib

    for file in sorted(directory.glob("*.mo")):
        for entry in polib.mofile(str(file)):
            yield from (entry.msgstr or " ".join(entry.msgstr_plural.values())).splitlines()


def _language_pack_lines(archive: Path) -> Iterator[str]:
    """Yield the values of Fluent and properties files: what follows the first `=`."""
    with zipfile.ZipFile(archive) as pack:
        for name in sorted(pack.namelist()):
            if name.endswith((".ftl", ".properties")):
                for line in pack.read(name).decode("utf-8", errors="replace").splitlines():
                    if not line.startswith("#"):
                        yield line.partition("=")[2] or line.strip()


def _distinct(lines: Iterable[str]) -> list[str]:
    sentences = (speakable(line) for line in lines)
    return list(dict.fromkeys(sentence for sentence in sentences if sentence))
