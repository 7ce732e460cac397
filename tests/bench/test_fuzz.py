"""The fuzzer: a few hundred inputs through every door of a real service, and what counts as a fault."""

import random
from pathlib import Path

import pytest

from bench.fuzz import SHARES, fuzz
from bench.fuzzing.doors import FAULT, judged
from bench.fuzzing.mutations import mutate

SAMPLE = Path(__file__).parents[1] / "data" / "sample-mr.flac"


def test_no_door_of_the_service_gives_way(tiny_artifact_dir):
    counts = {name: round(200 * share) for name, share in SHARES.items()}
    found = fuzz(counts, seed=5, model_dir=tiny_artifact_dir, clip=SAMPLE, strangers=None)
    assert [fault for door in found.values() for fault in door.faults] == []
    assert {name: sum(door.outcomes.values()) for name, door in found.items()} == counts
    assert set(found["recordings"].outcomes) >= {"200", "415"}, "some are still read, and some are not"
    assert set(found["training"].outcomes) <= {"read", "refused"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "is_fault"),
    [
        (500, {}, b"{}", True),
        (503, {}, b"{}", True),
        (503, {"retry-after": "1"}, b"{}", False),
        (400, {}, b"Traceback (most recent call last)", True),
        (415, {}, b'{"error": {"code": "undecodable_audio"}}', False),
    ],
)
def test_what_counts_as_a_fault(status, headers, body, is_fault):
    assert judged(status, headers, body).startswith(FAULT) == is_fault


def test_a_seed_fixes_the_mutations_and_each_changes_something():
    clip = SAMPLE.read_bytes()
    assert mutate(clip, random.Random(1)) == mutate(clip, random.Random(1))
    assert len({mutate(clip, random.Random(number)) for number in range(50)} - {clip}) > 45
    assert mutate(b"", random.Random(2)) is not None
