"""An artifact is served only if it is whole, and what is wrong with it is said by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from serve.errors import ArtifactError
from serve.model.artifact import load_artifact, load_manifest, write_manifest
from serve.service.loading import find_served


@pytest.fixture
def copy(tiny_artifact_dir, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_artifact_dir, tmp_path / "artifact"))


def edit(directory: Path, **changes) -> None:
    path = directory / "manifest.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


def test_a_manifest_is_read_as_it_was_written(copy):
    manifest = load_manifest(copy)
    write_manifest(copy, manifest)
    assert load_artifact(copy).manifest == manifest
    assert load_artifact(copy).adapter_dir == copy / "adapter"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"language": ...}, "language"),
        ({"schema_version": 99}, "schema_version is 99"),
        ({"surprise": 1}, "surprise"),
        ({"max_window_s": 31}, "max_window_s is 31"),
        ({"max_window_s": "long"}, "max_window_s"),
        ({"window_margin_s": -1}, "window_margin_s is -1"),
        ({"encoder_context": "elastic"}, "encoder_context"),
        ({"task": "sing"}, "task"),
        ({"base_model": "openai/whisper-base"}, "base_model"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_its_file(copy, changes, named):
    edit(copy, **changes)
    with pytest.raises(ArtifactError, match=named) as caught:
        load_artifact(copy)
    assert str(copy / "manifest.json") in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(copy)


@pytest.mark.parametrize(
    "file", ["manifest.json", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
)
def test_a_file_that_is_missing_is_named(copy, file):
    (copy / file).unlink()
    with pytest.raises(ArtifactError, match="missing") as caught:
        load_artifact(copy)
    assert str(copy / file) in str(caught.value)


def test_half_an_adapter_is_refused(copy):
    weights = copy / "adapter" / "adapter_model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        load_artifact(copy)


def packed_with_folder(copy, tmp_path, *folders):
    """Move an artifact into folders of its own, as archives have them that were packed from outside."""
    top = tmp_path / "model"
    inner = top.joinpath(*folders)
    inner.parent.mkdir(parents=True)
    copy.rename(inner)
    return top, inner


@pytest.mark.parametrize("folders", [("whisper-mr",), ("export", "artifact")])
def test_an_artifact_in_the_only_folder_is_that_artifact(copy, tmp_path, folders):
    top, inner = packed_with_folder(copy, tmp_path, *folders)
    (top / "._whisper-mr").touch()
    (top / ".DS_Store").touch()
    assert load_artifact(top).path == inner
    served = find_served(top, None)
    assert served.artifact is not None and served.artifact.path == inner


def test_a_base_model_in_the_only_folder_is_that_model(tiny_base_dir, tmp_path):
    shutil.copytree(tiny_base_dir, tmp_path / "model" / "whisper")
    assert find_served(tmp_path / "model", None).base_dir == tmp_path / "model" / "whisper"


def test_several_artifacts_leave_a_choice_which_is_named(copy, tmp_path):
    top, inner = packed_with_folder(copy, tmp_path, "b")
    shutil.copytree(inner, top / "a")
    for load in (load_artifact, lambda path: find_served(path, None)):
        with pytest.raises(
            ArtifactError, match=r"models in the folders below it \(a, b\): name one of these"
        ):
            load(top)


def test_an_artifact_without_its_manifest_is_not_taken_for_the_base_model_in_it(
    copy, tiny_base_dir, tmp_path
):
    shutil.copytree(tiny_base_dir, copy / "base")
    (copy / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="holds neither"):
        find_served(copy, None)


def test_an_archive_is_told_from_an_artifact(copy, tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "packed" / "model"), "gztar", copy))
    with pytest.raises(ArtifactError, match=r"model\.tar\.gz is an archive: unpack it"):
        find_served(archive.parent, None)
    with pytest.raises(ArtifactError, match="is a file: unpack it"):
        find_served(archive, None)
    with pytest.raises(ArtifactError, match="the directory is empty"):
        (tmp_path / "empty").mkdir()
        find_served(tmp_path / "empty", None)
    with pytest.raises(ArtifactError, match="the directory does not exist"):
        find_served(tmp_path / "nowhere", None)
