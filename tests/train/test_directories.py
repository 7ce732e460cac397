"""Replacing a directory as a whole."""

from __future__ import annotations

from train.directories import replace_directory


def test_replacing_keeps_the_new_content(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
