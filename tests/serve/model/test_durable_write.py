"""Files and directories that are there whole or not at all."""

from __future__ import annotations

import pytest

from serve.model.durable_write import put_in_place, write_whole


def test_a_file_is_written_whole_with_its_folders(tmp_path):
    target = tmp_path / "deep" / "er" / "a.txt"
    for content in (b"one", b"two"):
        write_whole(target, content)
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "a.txt", b"one")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_directory_replaces_an_older_one_and_nothing_else_stays(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "content").write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "deep" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_what_an_interrupted_replacement_left_behind_is_cleared_away(tmp_path):
    for name in ("new", "target", ".target.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    put_in_place(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
