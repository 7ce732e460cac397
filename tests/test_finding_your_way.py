"""docs/finding-your-way.md leads to the files that hold the answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([^|]+\?) \| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs" / "finding-your-way.md").read_text(encoding="utf-8"))


def test_there_are_ten_questions():
    assert len(ROWS) == 10


@pytest.mark.parametrize(("question", "file", "name"), ROWS)
def test_the_answer_to_a_question_is_in_its_file(question, file, name):
    assert name in (ROOT / file).read_text(encoding="utf-8"), question
