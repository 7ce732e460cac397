"""Change bytes as damage and malice do: flips, cuts, repeats, false numbers, pieces of other inputs."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
WORDS = (
    *(b"\0", b"\r\n", b"\r\n\r\n", b"\xff" * 16, b"[" * 200, b'"', b"\\ud800", b"\xc3\x28", b"-1", b"1e999"),
    *(b"NaN", b"null", b"../../etc/passwd", b"%00", b"%s%n", b"A" * 5_000, b"99999999999999999999", b"{}"),
)
MOST_CHANGES = 6

Change = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def mutate(seed: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return a seed with one to six changes, most of them in its first bytes, where headers are.

    Args:
        others: Inputs that pieces are taken from.
    """
    data = bytearray(seed)
    for _ in range(chance.randint(1, MOST_CHANGES)):
        chance.choice(CHANGES)(data, chance, others or (seed,))
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Return a position; every second one lies in the first 64 bytes."""
    return chance.randrange(min(len(data), 64 if chance.random() < 0.5 else len(data)) or 1)


def _flip(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    if data:
        data[_place(data, chance) % len(data)] ^= 1 << chance.randrange(8)


def _number(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    width, at = chance.choice((1, 2, 4, 8)), _place(data, chance)
    number = chance.choice(EDGES) & ((1 << 8 * width) - 1)
    data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))


def _word(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    at, word = _place(data, chance), chance.choice(WORDS)
    data[at : at + (len(word) if chance.random() < 0.5 else 0)] = word


def _cut(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randint(1, 1 + len(data) // 4)]


def _end(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    del data[_place(data, chance) :]


def _repeat(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    at = _place(data, chance)
    piece = data[at : at + chance.randint(1, 64)]
    data[at:at] = piece * chance.randint(1, 30)


def _splice(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> None:
    other = chance.choice(others)
    at, start = _place(data, chance), chance.randrange(len(other) or 1)
    data[at:at] = other[start : start + chance.randint(1, 256)]


CHANGES: tuple[Change, ...] = (_flip, _flip, _number, _number, _word, _cut, _end, _repeat, _splice)
