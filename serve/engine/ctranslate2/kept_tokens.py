"""Choose the tokens that a model for few scripts keeps, and map token numbers between both vocabularies.

For every token it emits, Whisper scores its whole vocabulary: 51,865 rows of the output layer, half of what
whisper-base reads from memory in a decoding step. Marathi text in Devanagari uses 74 of these. A model
trained on such text alone can be shipped with only the rows that its scripts need; its output changes only
where it would have left those scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np

from serve.engine.vocabulary import Vocabulary
from serve.model.scripts import is_written_in


class KeptTokens:
    """The tokens that a reduced vocabulary keeps, and the mapping to and from the full one."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """Take the kept tokens' numbers in the full vocabulary, ascending; indices are the new numbers."""
        self._full = np.asarray(tokens, dtype=np.int64)
        self._place = {token: place for place, token in enumerate(tokens)}

    def __contains__(self, token: int) -> bool:
        return token in self._place

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[int]:
        return iter(self._place)

    def to_kept(self, tokens: Iterable[int]) -> list[int]:
        """Map full numbers to kept numbers; tokens that are not kept are dropped."""
        return [self._place[token] for token in tokens if token in self._place]

    def to_full(self, tokens: Sequence[int]) -> list[int]:
        """Map kept numbers to full numbers."""
        full: list[int] = self._full[list(tokens)].tolist()
        return full


def tokens_of_scripts(vocabulary: Vocabulary, scripts: Sequence[str]) -> list[int]:
    """Return every token that text in these scripts may need, ascending.

    These are the special tokens, the 256 single bytes, and tokens wholly within the scripts, digits and
    punctuation. A token that starts or ends inside a letter is kept if its whole letters are kept. Any text
    can still be written, by single bytes.
    """
    pieces: dict[str, int] = vocabulary.tokenizer.get_vocab(with_added_tokens=False)
    kept = {number for piece, number in pieces.items() if _is_needed(_bytes_of(piece), scripts)}
    return sorted(kept | set(range(vocabulary.end, vocabulary.size)))


def _is_needed(piece: bytes, scripts: Sequence[str]) -> bool:
    if len(piece) == 1:
        return True
    start, end = 0, len(piece)
    while start < min(3, end) and piece[start] & 0xC0 == 0x80:  # continuation bytes of an earlier letter
        start += 1
    for n_begun in range(1, min(4, end - start + 1)):
        if piece[end - n_begun] & 0xC0 == 0xC0:
            if n_begun < _letter_bytes(piece[end - n_begun]):  # the letter ends in the next token
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
    """Return every multi-byte letter that text in these scripts may contain, in UTF-8."""
    letters = (chr(code) for code in range(0x80, 0x30000) if not 0xD800 <= code < 0xE000)
    return tuple(letter.encode() for letter in letters if is_written_in(letter, scripts))


def _letter_bytes(first: int) -> int:
    """Return the length in bytes of a UTF-8 letter, from its first byte."""
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


@lru_cache(maxsize=1)
def _byte_of_sign() -> dict[str, int]:
    """Return byte-level BPE's mapping from printable character to byte (openai/gpt-2, encoder.py)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    signs = {chr(byte): byte for byte in plain}
    return signs | {chr(256 + place): byte for place, byte in enumerate(others)}


def _bytes_of(piece: str) -> bytes:
    signs = _byte_of_sign()
    return bytes(signs[sign] for sign in piece if sign in signs)
