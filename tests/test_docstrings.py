"""What docstrings say: whose subject is named, and who must have one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUBJECTLESS = re.compile(r"^(?:\s*\w+(?:, \w+)*:\s+)?(?:of|as)\s", re.IGNORECASE)
"""`Of the base model.` or `pipeline: Of the base model.`: what is, the reader must guess."""


def sources() -> list[Path]:
    """Return every Python file of serve, train and bench."""
    return sorted(path for folder in ("serve", "train", "bench") for path in (ROOT / folder).rglob("*.py"))


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each string that stands as a statement: docstrings, and those of attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)), lineno=line):
                yield line, text


def subjectless_lines(path: Path) -> list[str]:
    """Return `FILE:LINE: text` of docstrings, and of lines in their Args and Raises, without a subject."""
    found = []
    for line, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
        first, *rest = text.split("\n")
        sections = re.split(r"^\s*(?:Args|Raises|Returns):\n", "\n".join(rest), flags=re.MULTILINE)[1:]
        # An entry's own line is `name: text`; a line that goes on with one before begins with anything.
        entries = [
            each for part in sections for each in part.split("\n") if re.match(r"\s*\w+(, \w+)*: ", each)
        ]
        found += [f"{path}:{line}: {each.strip()}" for each in (first, *entries) if SUBJECTLESS.match(each)]
    return found


def test_a_docstring_names_its_subject():
    assert [line for path in sources() for line in subjectless_lines(path)] == []


@pytest.mark.parametrize(
    "line", ["Of the base model.", "As served.", "    seed: of the draws.", "    a, b: As above."]
)
def test_what_has_no_subject_is_found(line):
    assert SUBJECTLESS.match(line)


@pytest.mark.parametrize(
    "line", ["Offline.", "    offset: Assumed.", "The text of it.", "    of: Which one."]
)
def test_what_has_one_is_not(line):
    assert not SUBJECTLESS.match(line)


def test_what_a_package_defines_in_its_init_says_what_it_is():
    for path in (path for path in sources() if path.name == "__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), f"{path} says nothing"
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name} says nothing"
