"""Converted models: what is kept, what is made anew, and what is refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve.engine.ctranslate2.merging import RECORD, convert, converted_model, record, write_record
from serve.engine.vocabulary import Vocabulary
from serve.errors import ConversionError
from serve.model.artifact import load_artifact

CONVERT = """
import sys
from pathlib import Path
from serve.model.artifact import load_artifact
from serve.engine.ctranslate2.merging import converted_model
artifact, base_dir, cache_dir = map(Path, sys.argv[1:])
print(converted_model(base_dir, load_artifact(artifact), "int8", cache_dir=cache_dir))
"""


@pytest.fixture
def artifact_dir(tiny_artifact_dir, tmp_path):
    return Path(shutil.copytree(tiny_artifact_dir, tmp_path / "artifact"))


@pytest.fixture
def make(tiny_base_dir, artifact_dir, tmp_path):
    """Return a function that asks for the converted model as it is on disk now."""

    def make(storage="int8"):
        return converted_model(
            tiny_base_dir, load_artifact(artifact_dir), storage, cache_dir=tmp_path / "cache"
        )

    return make


def convert_elsewhere(*directories):
    """Begin to ask for a converted model in another process, which prints where it is."""
    arguments = map(str, directories)
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, *arguments], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )


def test_a_converted_model_is_made_once_and_nothing_is_left_beside(make, tmp_path):
    first = make()
    written_ns = (first / "model.bin").stat().st_mtime_ns
    assert make() == first and (first / "model.bin").stat().st_mtime_ns == written_ns
    assert {path.name for path in first.parent.iterdir()} == {first.name, f"{first.name}.lock"}


def test_other_ingredients_give_another_model(make, artifact_dir, tiny_base_dir, tmp_path):
    kept = {make("int8"), make("float32")}
    config = artifact_dir / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
    kept |= {make("int8"), converted_model(tiny_base_dir, None, "int8", cache_dir=tmp_path / "cache")}
    assert len(kept) == 4


@pytest.mark.parametrize("damage", ["cut", "bits", "other file", "no record", "no weights"])
def test_a_damaged_model_is_made_anew(make, damage):
    model = make()
    whole = (model / "model.bin").read_bytes()
    if damage == "cut":
        os.truncate(model / "model.bin", 1000)
    elif damage in ("bits", "other file"):
        file = model / ("model.bin" if damage == "bits" else "tokenizer.json")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        (model / {"no record": RECORD, "no weights": "model.bin"}[damage]).unlink()
    assert make() == model
    assert (model / "model.bin").read_bytes() == whole


def test_two_processes_at_once_make_one_whole_model(artifact_dir, tiny_base_dir, tmp_path):
    cache_dir = tmp_path / "cache"
    children = [convert_elsewhere(artifact_dir, tiny_base_dir, cache_dir) for _ in range(2)]
    paths = {child.communicate(timeout=300)[0].splitlines()[-1] for child in children}
    assert len(paths) == 1
    (path,) = paths
    assert [each for each in (cache_dir / "converted").iterdir() if each.is_dir()] == [Path(path)]
    wanted = record(tiny_base_dir, load_artifact(artifact_dir), "int8")
    assert wanted.items() <= json.loads((Path(path) / RECORD).read_text()).items()


def test_a_model_that_the_artifact_carries_is_taken_only_while_it_fits(
    make, artifact_dir, tiny_base_dir, tmp_path
):
    artifact = load_artifact(artifact_dir)
    own = artifact_dir / "merged-ct2-int8"
    convert(tiny_base_dir, artifact, "int8", own)
    write_record(own, record(tiny_base_dir, artifact, "int8"))
    assert make() == own
    assert not (tmp_path / "cache").exists()
    found = json.loads((own / RECORD).read_text())
    (own / RECORD).write_text(json.dumps(found | {"adapter_sha256": "0" * 64}))
    assert make() != own


def test_only_with_an_adapter_may_a_text_be_empty(make, tiny_base_dir, tmp_path):
    base_alone = converted_model(tiny_base_dir, None, "int8", cache_dir=tmp_path / "cache")
    end = Vocabulary.read(tiny_base_dir).end
    adapted, alone = (
        json.loads((path / "config.json").read_text())["suppress_ids_begin"] for path in (make(), base_alone)
    )
    assert end in alone
    assert adapted == [token for token in alone if token != end] != []


def test_a_cache_that_cannot_be_written_is_named_in_one_sentence(tiny_base_dir, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConversionError, match=r"cannot be kept in .*cache.*--cache-dir"):
        converted_model(tiny_base_dir, None, "int8", cache_dir=tmp_path / "cache")


def test_a_model_that_came_with_the_machine_is_read_there_and_nothing_is_written(
    tiny_base_dir, tmp_path, monkeypatch
):
    built_in = tmp_path / "share" / "shrota"
    made = converted_model(tiny_base_dir, None, "int8", cache_dir=built_in)
    monkeypatch.setenv("XDG_DATA_DIRS", f"{tmp_path / 'absent'}:{tmp_path / 'share'}")
    before = set(built_in.rglob("*"))
    assert converted_model(tiny_base_dir, None, "int8", cache_dir=tmp_path / "cache") == made
    assert not (tmp_path / "cache").exists()
    os.truncate(made / "model.bin", 1000)
    assert converted_model(tiny_base_dir, None, "int8", cache_dir=tmp_path / "cache") != made
    assert set(built_in.rglob("*")) == before and (made / "model.bin").stat().st_size == 1000


def test_a_disk_that_takes_no_more_leaves_nothing_behind(make, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ConversionError, match="cannot be kept"):
            make()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in (tmp_path / "cache" / "converted").iterdir() if path.is_dir()]


def test_an_adapter_that_does_not_fit_is_refused_in_one_sentence(make, artifact_dir):
    config = artifact_dir / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"r": 2 * settings["r"]}))
    with pytest.raises(ConversionError, match="cannot be loaded together"):
        make()


def test_a_record_without_hashes_gets_them(make):
    model = make()
    record = json.loads((model / RECORD).read_bytes())
    hashes = record.pop("sha256_of")
    (model / RECORD).write_text(json.dumps(record))
    assert make() == model
    assert json.loads((model / RECORD).read_bytes())["sha256_of"] == hashes
