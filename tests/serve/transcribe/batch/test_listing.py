"""Which recordings a folder, a pattern and a manifest name."""

from __future__ import annotations

import json

import pytest

from serve.errors import ConfigError, StorageError
from serve.transcribe.batch.listing import find_recordings


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b.wav", "a/c.mp3", "a/notes.txt", "a/.hidden.wav"):
        (tmp_path / name).write_bytes(b"12345")
    return tmp_path


def test_folders_and_patterns_are_searched_for_names_of_recordings(folder):
    found = find_recordings(str(folder))
    assert [each.path for each in found] == [str(folder / "a" / "c.mp3"), str(folder / "b.wav")]
    assert found[0].n_bytes == 5 and found[0].stamp == str((folder / "a" / "c.mp3").stat().st_mtime_ns)
    assert [each.path for each in find_recordings(f"{folder}/**/*.wav")] == [str(folder / "b.wav")]


def test_a_url_of_any_storage_is_listed_like_a_folder(folder):
    found = find_recordings(f"file://{folder}")
    assert [each.path for each in found] == [f"file://{folder}/a/c.mp3", f"file://{folder}/b.wav"]
    assert [each.n_bytes for each in found] == [5, 5] and all(each.stamp for each in found)
    assert [each.path for each in find_recordings(f"file://{folder}/*.wav")] == [f"file://{folder}/b.wav"]


def test_a_manifest_names_files_relative_to_itself_whatever_else_its_lines_hold(folder):
    lines = [
        {"audio": "a/../b.wav", "text": "said"},
        {"audio": str(folder / "b.wav")},
        {"audio": "a/notes.txt"},
        {"audio": "gone.wav"},
        {"audio": f"file://{folder}/a/c.mp3"},
    ]
    manifest = folder / "all.jsonl"
    manifest.write_text("\n".join([*map(json.dumps, lines), ""]))
    found = {each.path: each.n_bytes for each in find_recordings(str(manifest))}
    assert found == {
        str(folder / "a" / "notes.txt"): 5,  # named, so it is read whatever its name
        str(folder / "b.wav"): 5,
        str(folder / "gone.wav"): None,
        f"file://{folder}/a/c.mp3": 5,
    }
    by_url = [each.path for each in find_recordings(f"file://{manifest}")]
    assert str(folder / "b.wav") in by_url and f"file://{folder}/gone.wav" in by_url


def test_a_bad_line_of_a_manifest_is_named(folder):
    (folder / "bad.jsonl").write_text('{"audio": "b.wav"}\n{"path": "b.wav"}\n')
    with pytest.raises(ConfigError, match=r"bad\.jsonl, line 2: .*audio"):
        find_recordings(str(folder / "bad.jsonl"))
    for line in (b'{"audio": "\xff.wav"}', b'{"audio": "b.wav", "more": ' + b"[" * 20_000):
        (folder / "bad.jsonl").write_bytes(b'{"audio": "b.wav"}\n' + line)
        with pytest.raises(ConfigError, match=r"bad\.jsonl, line 2: "):
            find_recordings(str(folder / "bad.jsonl"))


@pytest.mark.parametrize("where", ["nowhere", "nowhere.jsonl", "a/*.wav", "file://{folder}/empty/"])
def test_a_name_without_recordings_is_refused(folder, where):
    with pytest.raises(ConfigError):
        find_recordings(where.format(folder=folder) if "{" in where else str(folder / where))


def test_a_protocol_that_does_not_exist_is_named():
    with pytest.raises(StorageError, match="tape:// cannot be opened"):
        find_recordings("tape://reel")
