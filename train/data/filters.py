"""Filter clips by text, script and duration, and log rejected rows by file and line.

Knows no source and decodes nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from serve.engine.languages import LANGUAGE_NAMES
from train.data.normalise import unify_marathi
from train.errors import DataError

MAX_CLIP_S = 30.0
"""Whisper's window; a longer clip cannot be one example."""
MIN_CLIP_S = 0.1
"""Shorter than any word."""
_EXAMPLES_KEPT = 5  # shown in the table for each reason
_LEAST_SHARE = 0.5  # of a text's words, and of a word's letters, that must be in the language's script


class Reason(StrEnum):
    """Why a row or clip was dropped."""

    MALFORMED = "malformed row"
    EMPTY_LINE = "empty line"
    EMPTY_TEXT = "empty text"
    BAD_TIMES = "impossible times"
    MISSING = "missing file"
    UNDECODABLE = "undecodable audio"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    WRONG_SCRIPT = "wrong script"
    TOO_MANY_TOKENS = "too many tokens"
    HELD_OUT_TEXT = "sentence is held out"
    HELD_OUT_VOICE = "voice is held out"
    UNSURE = "low confidence"
    NO_SPEECH = "probably no speech"
    REPETITIVE = "text repeats itself"
    DISAGREEMENT = "outputs disagree"
    NOT_TWICE = "heard only once"
    ONE_CHANNEL = "one channel of several"


@dataclass(kw_only=True)
class DropLog:
    """Counts dropped rows by reason. With `strict`, the first one raises an error instead."""

    strict: bool = False
    dropped: list[Drop] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def drop(self, reason: Reason, origin: str, detail: str) -> None:
        """Record that the row at `origin` (`FILE:LINE`) is dropped; each row counts once.

        Raises:
            DataError: The log is strict; the error names file and line.
        """
        if self.strict:
            raise DataError(f"{origin}: {detail}")
        if origin not in self._seen:
            self._seen.add(origin)
            self.dropped.append(Drop(reason=reason, origin=origin, detail=detail))

    def __len__(self) -> int:
        return len(self.dropped)

    @property
    def counts(self) -> dict[str, int]:
        """Number of dropped rows by reason, most frequent first."""
        return dict(Counter(str(drop.reason) for drop in self.dropped).most_common())

    def table(self, title: str = "left out") -> Table:
        """Return a table of counts by reason, with a few examples."""
        table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("reason", no_wrap=True)
        table.add_column("rows", justify="right", no_wrap=True)
        table.add_column("for example", overflow="fold")
        for reason, count in self.counts.items():
            told = [f"{drop.origin}: {drop.detail}" for drop in self.dropped if drop.reason == reason]
            rest = count - _EXAMPLES_KEPT
            more = [f"and {rest} more"] if rest > 0 else []
            table.add_row(reason, str(count), "\n".join([*told[:_EXAMPLES_KEPT], *more]))
        return table

    def report(self, console: Console, path: Path | None = None, title: str = "left out") -> None:
        """Print the table, and write every dropped row to `path`; do nothing if there are none."""
        if not self.dropped:
            return
        console.print(self.table(title))
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(write_drops(self.dropped), encoding="utf-8")
            console.print(f"all of them: {path}")


@dataclass(frozen=True, kw_only=True)
class Drop:
    reason: Reason
    origin: str
    detail: str


def commonest(drops: Sequence[Drop]) -> str:
    """Return the most common reason among dropped rows, its count and an example, for an error message."""
    if not drops:
        return "it holds no rows"
    ((reason, n_rows), *_) = Counter(drop.reason for drop in drops).most_common(1)
    first = next(drop for drop in drops if drop.reason == reason)
    return f"{reason}, in {n_rows} of {len(drops)} rows, such as {first.origin}: {first.detail}"


def write_drops(drops: Iterable[Drop]) -> str:
    """Return rows as JSON lines for `read_drops`."""
    rows = ({"reason": drop.reason, "origin": drop.origin, "detail": drop.detail} for drop in drops)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_drops(text: str) -> Iterator[Drop]:
    """Yield the rows that `write_drops` wrote."""
    for line in text.split("\n"):  # JSON leaves other line ends of Unicode in its texts
        if not line:
            continue
        row = json.loads(line)
        yield Drop(reason=Reason(row["reason"]), origin=row["origin"], detail=row["detail"])


@dataclass(frozen=True)
class HeldOut:
    """Sentences and voices that must not be trained on."""

    sentences: Mapping[str, str] = field(default_factory=dict)
    """`sentence_key` -> where the sentence is held out."""
    voices: Mapping[str, str] = field(default_factory=dict)
    """Voice -> where it is held out."""


def sentence_key(text: str) -> str:
    """Return a key that ignores case, punctuation and extra spaces of a sentence, and what nobody sees.

    Unseen are joiners and other format characters, and which of two spellings with one look is used.
    """
    plain = unify_marathi(text).casefold()  # before joiners are deleted, since one of them spells the ra
    seen = (letter for letter in plain if unicodedata.category(letter) != "Cf")
    letters = (" " if unicodedata.category(letter)[0] in "PSZC" else letter for letter in seen)
    return re.sub(r"\s+", " ", "".join(letters)).strip()


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Requirements on a clip. The defaults accept any non-empty text."""

    language: str | None = None
    """Whisper's code; texts must be in its script. None accepts every script."""
    min_duration_s: float = 0.0
    max_duration_s: float = float("inf")
    silent: bool = False
    """Accept empty texts, as tests of silence and noise need."""
    held_out: HeldOut = field(default_factory=HeldOut)

    def text_fault(self, text: str, language: str | None, voice: str | None) -> tuple[Reason, str] | None:
        """Return why a row is rejected before its audio is opened; None if it passes.

        Args:
            language: The row's language code, which overrides the filter's.
            voice: The speaker, if known.
        """
        is_empty = not text.strip()
        if is_empty and not self.silent:
            return Reason.EMPTY_TEXT, "the text is empty"
        if not is_empty and self.language and not is_in_script(text, language or self.language):
            scripts = " or ".join(sorted(LANGUAGE_SCRIPTS[language or self.language])).title()
            return Reason.WRONG_SCRIPT, f"'{_short(text)}' is not written in {scripts}"
        if (where := self.held_out.sentences.get(sentence_key(text))) is not None:
            return Reason.HELD_OUT_TEXT, f"'{_short(text)}' also occurs in {where}"
        if voice is not None and (where := self.held_out.voices.get(voice)) is not None:
            return Reason.HELD_OUT_VOICE, f"voice '{_short(voice)}' also speaks in {where}"
        return None

    def duration_fault(self, duration_s: float) -> tuple[Reason, str] | None:
        """Return why a clip of this duration is rejected; None if it passes."""
        if duration_s > self.max_duration_s:
            return Reason.TOO_LONG, f"lasts {duration_s:.1f} s; the limit is {self.max_duration_s:g} s"
        if duration_s < self.min_duration_s:
            return Reason.TOO_SHORT, f"lasts {duration_s:.2f} s; the least is {self.min_duration_s:g} s"
        return None


def is_in_script(text: str, language: str) -> bool:
    """Tell whether at least half of a text's words are in its language's script.

    Words are counted rather than letters, because one foreign word may be longer than all others. A text
    without letters passes, and so does a language whose script is unknown here.
    """
    scripts = LANGUAGE_SCRIPTS.get(language)
    words = [letters for word in text.split() if (letters := _letters(word))]
    if not scripts or not words:
        return True
    inside = sum(_share(letters, scripts) >= _LEAST_SHARE for letters in words)
    return inside >= _LEAST_SHARE * len(words)


def _letters(word: str) -> list[str]:
    return [letter for letter in word if unicodedata.category(letter)[0] == "L"]


def _share(letters: list[str], scripts: frozenset[str]) -> float:
    return sum(unicodedata.name(letter, "").partition(" ")[0] in scripts for letter in letters) / len(letters)


_SCRIPT_LANGUAGES = {
    # First word of the letters' Unicode names -> languages written with them.
    "ARABIC": "ar fa ps sd ur pa",
    "ARMENIAN": "hy",
    "BENGALI": "as bn",
    "CJK": "ja ko yue zh",
    "CYRILLIC": "az ba be bg bs kk mk mn ru sr tg tk tt uk uz",
    "DEVANAGARI": "hi mr ne sa sd",
    "ETHIOPIC": "am",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "HIRAGANA": "ja",
    "KANNADA": "kn",
    "KATAKANA": "ja",
    "KATAKANA-HIRAGANA": "ja",
    "KHMER": "km",
    "LAO": "lo",
    "LATIN": "af az br bs ca cs cy da de en es et eu fi fo fr gl ha haw hr ht hu id is it jw la lb ln lt lv"
    " mg mi ms mt nl nn no oc pl pt ro sk sl sn so sq sr su sv sw tk tl tr uz vi yo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "TIBETAN": "bo",
}
LANGUAGE_SCRIPTS: dict[str, frozenset[str]] = {
    language: frozenset(script for script, users in _SCRIPT_LANGUAGES.items() if language in users.split())
    for language in LANGUAGE_NAMES
}
"""Whisper's language code -> first words of the Unicode names of its letters."""


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
