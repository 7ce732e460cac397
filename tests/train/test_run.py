"""Whole runs in this process: what is refused before anything is trained."""

from __future__ import annotations

import pytest

from train.errors import ExportError
from train.loop.distributed import ALONE
from train.run import run


def test_a_place_that_cannot_be_published_to_is_refused_before_anything_is_read(tiny_config, tmp_path):
    (tmp_path / "artifacts" / "another").mkdir(parents=True)
    config = tiny_config(publish_to=tmp_path / "artifacts", train_data=("nonesuch.jsonl",))
    with pytest.raises(ExportError, match=r"publish_to .*artifacts holds something other than an artifact"):
        run(config, ALONE)
    assert (tmp_path / "artifacts" / "another").is_dir() and not config.output_dir.exists()
