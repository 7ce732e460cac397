"""Shards in object storage: a real S3 protocol on loopback."""

from __future__ import annotations

import pytest

from train.data.preparation import Preparation, prepare_source
from train.data.specs import parse_spec
from train.data.upload import upload_shards
from train.errors import DataError


@pytest.fixture
def shards(wavs, tmp_path):
    spec = parse_spec(f"{wavs}/clips.jsonl")
    prepare_source(Preparation(spec=spec, shard_bytes=60_000), tmp_path / "shards")
    return tmp_path / "shards"


def test_shards_in_s3_are_the_bytes_on_disk_and_are_not_copied_twice(s3, shards):
    names = sorted(path.name for path in shards.iterdir() if path.name != ".lock")
    assert upload_shards(shards, "s3://bucket/corpora/mr/") == len(names)
    s3.invalidate_cache()
    assert sorted(path.rpartition("/")[2] for path in s3.ls("bucket/corpora/mr")) == names
    for name in names:
        assert s3.cat_file(f"bucket/corpora/mr/{name}") == (shards / name).read_bytes()
    assert upload_shards(shards, "s3://bucket/corpora/mr") == 3  # the two lists and the header


def test_a_bucket_that_is_not_there_is_named(s3, shards):
    with pytest.raises(DataError, match="cannot be copied to s3://nowhere/mr: "):
        upload_shards(shards, "s3://nowhere/mr")


def test_any_storage_of_fsspec_will_do(shards, tmp_path):
    assert upload_shards(shards, f"file://{tmp_path}/copy") > 3
    assert (tmp_path / "copy" / "index.json").read_bytes() == (shards / "index.json").read_bytes()


def test_a_protocol_that_does_not_exist_is_named(shards):
    with pytest.raises(DataError, match="tape://reel cannot be written to"):
        upload_shards(shards, "tape://reel")
