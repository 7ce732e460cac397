"""How recordings are divided into shards, and what an output remembers of them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import soundfile

from serve.errors import ConfigError
from serve.options import TranscriptionOptions
from serve.transcribe.batch.listing import find_recordings
from serve.transcribe.batch.output import Output, RunRecord
from serve.transcribe.batch.plan import Known, decode_plan, encode_plan, plan_shards
from serve.transcribe.batch.rows import Quarantined, Row

FACTS = {
    "engine": "ctranslate2 1",
    "quantization": "int8",
    "base_fingerprint": "f",
    "artifact_sha256": None,
}


@pytest.fixture
def noise(tmp_path):
    """A function that writes recordings of noise: `noise(name=seconds)`."""
    rng = np.random.default_rng(0)

    def write(**lengths_s: float):
        for name, length_s in lengths_s.items():
            samples = rng.normal(0, 0.1, round(length_s * 16_000))
            soundfile.write(tmp_path / f"{name}.wav", samples, 16_000)
        return find_recordings(str(tmp_path))

    return write


def planned(found, number=0, earlier=(), result_hash=lambda shard, path: None, shard_s=20.0):
    return plan_shards(found, number, earlier, result_hash, shard_s)


def names(shard):
    return [path.rpartition("/")[2].removesuffix(".wav") for path in shard.paths]


def row(path: str, sha256: str = "0") -> Row:
    return Row(
        path=path,
        sha256=sha256,
        n_bytes=1,
        duration_s=1.0,
        language="mr",
        language_probability=None,
        confidence=None,
        text="",
        segments=[],
        **FACTS,
    )


def refused(path: str) -> Quarantined:
    return Quarantined(path=path, sha256=None, n_bytes=0, error="empty_audio", message="it is empty")


def test_recordings_of_like_length_share_a_shard_and_the_longest_come_first(noise):
    found = noise(a=3, b=11, c=4, d=10, e=3.5, f=30)
    shards = planned(found)
    assert [names(shard) for shard in shards] == [["f"], ["b"], ["d", "c", "e"], ["a"]]
    assert [shard.name for shard in shards] == ["0000-000000", "0000-000001", "0000-000002", "0000-000003"]
    assert shards[2].expected_s == 17.5 and planned(found) == shards
    assert decode_plan(encode_plan(shards)) == shards


def test_a_small_corpus_is_divided_for_several_workers_but_not_too_finely(noise):
    assert [len(shard.paths) for shard in planned(noise(**{f"n{n}": 25 for n in range(8)}), shard_s=600)] == [
        2,
        2,
        2,
        2,
    ]


def test_equal_contents_are_one_and_equal_sizes_alone_are_not(noise, tmp_path):
    noise(a=2, b=2)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (shard,) = planned(find_recordings(str(tmp_path)))
    assert [[name.path for name in content.names] for content in shard.contents] == [
        [str(tmp_path / "a.wav"), str(tmp_path / "copy.wav")],
        [str(tmp_path / "b.wav")],
    ]
    assert shard.n_files == 3 and shard.expected_s == 4.0


def test_a_content_that_an_earlier_plan_has_is_found_there(noise, tmp_path):
    (first,) = planned(noise(a=2))
    (tmp_path / "copy.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    sha256 = hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest()
    new = [each for each in noise(b=2) if not each.path.endswith("/a.wav")]
    (shard,) = planned(new, 1, [first], lambda shard, path: sha256)
    assert {names(shard)[n]: content.known for n, content in enumerate(shard.contents)} == {
        "b": None,
        "copy": Known("0000-000000", str(tmp_path / "a.wav")),
    }
    (unfinished,) = planned(new, 1, [first])
    assert {content.known for content in unfinished.contents} == {None}


def test_what_cannot_be_read_or_measured_is_planned_all_the_same(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"audio": "gone.wav"}\n{"audio": "empty.wav"}\n{"audio": "x.wav"}\n')
    (tmp_path / "empty.wav").touch()
    (tmp_path / "x.wav").write_bytes(b"x" * 64_000)
    (shard,) = planned(find_recordings(str(tmp_path / "all.jsonl")))
    assert sorted(names(shard)) == ["empty", "gone", "x"] and shard.expected_s == 4.0


@pytest.mark.parametrize("result_format", ["jsonl", "parquet"])
def test_a_shard_is_done_once_its_results_lie_there(noise, tmp_path, result_format):
    output = Output(str(tmp_path / "out"), result_format)
    (shard,) = shards = planned(noise(a=1, b=2))
    output.add_plan(0, shards)
    assert output.plans() == [shards] and output.done() == set() and output.rows(shard.name) == []

    a, b = shard.paths
    output.store.write(f"quarantine/{shard.name}.jsonl", b"killed before the results")
    assert not output.is_done(shard.name) and output.quarantined() == {}
    output.write(shard.name, [row(a)], [refused(b)])
    assert output.is_done(shard.name) and output.done() == {shard.name}
    assert output.rows(shard.name) == [row(a)] and output.quarantined() == {b: refused(b)}
    output.write(shard.name, [row(a), row(b)], [])
    assert output.quarantined() == {}


def test_a_later_plan_tells_anew_what_became_of_a_file(noise, tmp_path):
    output = Output(str(tmp_path / "out"), "jsonl")
    found = noise(a=1)
    for number in range(2):
        (shard,) = planned(found, number)
        output.add_plan(number, [shard])
        if number == 0:
            output.write(shard.name, [], [refused(found[0].path)])
            assert output.write_quarantine() == 1
    assert output.quarantined() == {}  # it is being tried again
    output.write(shard.name, [row(found[0].path)], [])
    assert output.write_quarantine() == 0 and (tmp_path / "out" / "quarantine.jsonl").read_bytes() == b""


def test_an_output_belongs_to_one_model_and_one_set_of_options(tmp_path):
    def record(language, **more):
        facts = {"base_fingerprint": "f", "artifact_sha256": None, "quantization": "int8", **more}
        return RunRecord(format="jsonl", options=TranscriptionOptions(language=language), **facts)

    output = Output(str(tmp_path / "out"), "jsonl")
    output.require_same(record("mr"))
    output.require_same(record("mr"))
    with pytest.raises(ConfigError) as other:
        output.require_same(record("mr", quantization="none", base_fingerprint="g"))
    assert len(other.value.faults) == 2
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="not of this version"):
        output.require_same(record("mr"))
