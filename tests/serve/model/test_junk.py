"""What file managers leave behind is passed over, by one rule."""

import shutil

import pytest

from serve.model.adapter_source import read_adapter
from serve.model.base_model import base_fingerprint, resolve_base_model
from serve.model.junk import is_junk
from serve.service.loading import find_served
from serve.transcribe.files import find_files

JUNK = (
    "._model.safetensors",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "._manifest.json",
    "._adapter_config.json",
)


@pytest.mark.parametrize(
    "name", [*JUNK, "a/._b.wav", "DESKTOP.INI", "thumbs.db", "__MACOSX", "__MACOSX/a/b.wav", "a/.ds_store"]
)
def test_notes_of_other_programs_are_junk(name):
    assert is_junk(name)


@pytest.mark.parametrize(
    "name", ["", "a.wav", ".hidden.wav", "_._.wav", "a._b", "DS_Store", "a.DS_Store", "x.ini"]
)
def test_everything_else_is_not(name):
    assert not is_junk(name)


def littered(source, target):
    """A copy of a directory, with junk in every folder of it."""
    shutil.copytree(source, target)
    for folder in [target, *(path for path in target.rglob("*") if path.is_dir())]:
        for name in JUNK:
            (folder / name).write_bytes(b"\x00\x05\x16\x07\x00\x02")
    return target


def test_a_base_model_with_junk_is_the_same_one(tiny_base_dir, tmp_path):
    base = littered(tiny_base_dir, tmp_path / "base")
    assert resolve_base_model(str(base)) == base
    assert base_fingerprint(base) == base_fingerprint(tiny_base_dir)
    assert find_served(base, None).base_dir == base


def test_an_adapter_with_junk_is_the_same_one(tiny_base_dir, tiny_artifact_dir, tmp_path):
    artifact = littered(tiny_artifact_dir, tmp_path / "artifact")
    assert read_adapter(artifact, [tmp_path], tiny_base_dir, base_fingerprint(tiny_base_dir)).path == artifact
    found = find_served(artifact, None).artifact
    assert found is not None and found.manifest.name == "tiny-mr"


def test_junk_is_no_recording(tmp_path):
    (tmp_path / "__MACOSX").mkdir()
    for name in ("a.wav", "._a.wav", "__MACOSX/a.wav"):
        (tmp_path / name).touch()
    files, _ = find_files([str(tmp_path)])
    assert [file.path.name for file in files] == ["a.wav"] and len(files) == 1
