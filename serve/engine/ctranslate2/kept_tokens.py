"""Which tokens a model keeps that writes in few scripts, and their numbers in it. Knows no runtime.

For every token that it writes, Whisper weighs its whole vocabulary: 51,865 rows of the output layer, half of
what whisper-base reads from memory in a step of decoding. Of these, Marathi text in Devanagari uses 74. A
model that was trained on such text alone is given out with the rows that text in its scripts can need, which
changes what it writes only where it would have left them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from serve.engine.vocabulary import Vocabulary
from serve.model.scripts import is_written_in


class KeptTokens:
    """The tokens of a full vocabulary that a smaller one has, and how numbers go from one to the other."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Take the kept tokens' numbers in the full vocabulary, ascending: their places are the new ones."""
        self._full = np.asarray(tokens, dtype=np.int64)
        self._place = {token: place for place, token in enumerate(tokens)}

    def __contains__(self, token: int) -> bool:
        """Tell whether a token of the full vocabulary is kept."""
        return token in self._place

    def __len__(self) -> int:
        """Return how many tokens are kept."""
        return len(self._place)

    def __iter__(self) -> Iterator[int]:
        """Yield the kept tokens' numbers in the full vocabulary."""
        return iter(self._place)

    def to_kept(self, tokens: Iterable[int]) -> list[int]:
        """Return the numbers of tokens in the smaller vocabulary, without those that it lacks."""
        return [self._place[token] for token in tokens if token in self._place]

    def to_full(self, tokens: Sequence[int]) -> list[int]:
        """Return the numbers that tokens of the smaller vocabulary have in the full one."""
        full: list[int] = self._full[list(tokens)].tolist()
        return full


def tokens_of_scripts(vocabulary: Vocabulary, scripts: Sequence[str]) -> list[int]:
    """Return every token that text in these scripts can need, ascending: any text can be written with them.

    These are the special tokens, the 256 bytes, and what lies wholly within the scripts, digits and
    punctuation. A token that begins or ends amid a letter is kept where its whole letters are kept.
    """
    pieces: dict[str, int] = vocabulary.tokenizer.get_vocab(with_added_tokens=False)
    kept = {number for piece, number in pieces.items() if _is_needed(_bytes_of(piece), scripts)}
    return sorted(kept | set(range(vocabulary.end, vocabulary.size)))


def _is_needed(piece: bytes, scripts: Sequence[str]) -> bool:
    if len(piece) == 1:
        return True
    start, end = 0, len(piece)
    while start < min(3, end) and piece[start] & 0xC0 == 0x80:  # the rest of a letter that began before
        start += 1
    for n_begun in range(1, min(4, end - start + 1)):
        if piece[end - n_begun] & 0xC0 == 0xC0:
            if n_begun < _letter_bytes(piece[end - n_begun]):  # a letter that ends in the next token
                end -= n_begun
            break
    try:
        text = piece[start:end].decode()
    except UnicodeDecodeError:
        return False
    if text:
        return is_written_in(text, scripts)
    return any(piece in letter for letter in _letters_of(tuple(scripts)))  # part of one letter


@lru_cache(maxsize=16)
def _letters_of(scripts: tuple[str, ...]) -> tuple[bytes, ...]:
    """Return every letter of several bytes that may occur in text in these scripts."""
    letters = (chr(code) for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000)
    return tuple(letter.encode() for letter in letters if is_written_in(letter, scripts))


def _letter_bytes(first: int) -> int:
    """Return how many bytes a UTF-8 letter has that begins with this one."""
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@lru_cache(maxsize=1)
def _byte_of_sign() -> dict[str, int]:
    """Return the signs in which byte-level vocabularies write bytes (openai/gpt-2, encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    signs = {chr(byte): byte for byte in plain}
    return signs | {chr(256 + place): byte for place, byte in enumerate(others)}


def _bytes_of(piece: str) -> bytes:
    signs = _byte_of_sign()
    return bytes(signs[sign] for sign in piece if sign in signs)
