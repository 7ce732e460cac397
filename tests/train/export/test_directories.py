"""Replacing a directory as a whole."""

from __future__ import annotations

from train.export.directories import replace_directory


def test_replacing_keeps_the_new_content(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_whoever_may_enter_may_read(tmp_path):
    (tmp_path / "new" / "adapter").mkdir(parents=True)
    weights = tmp_path / "new" / "adapter" / "weights"
    weights.write_bytes(b"")
    weights.chmod(0o600)
    replace_directory(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "adapter" / "weights").stat().st_mode & 0o777 == 0o644
