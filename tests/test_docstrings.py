"""What docstrings say: whose subject is named, and who must have one."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUBJECTLESS = re.compile(r"^(?:\s*\w+(?:, \w+)*:\s+)?(?:of|as)\s", re.IGNORECASE)
"""`Of the base model.` or `pipeline: Of the base model.`: what is, the reader must guess."""


NUMBER = re.compile(r"\b(?:int|float)\b")
UNIT = re.compile(r"(?:_s|_ms|_hz|_samples|_frames|_tokens|_bytes)$|^n_")
"""Names that tell the unit of a number, or that it counts something."""


def sources() -> list[Path]:
    """Return every Python file of serve, train and bench."""
    return sorted(path for folder in ("serve", "train", "bench") for path in (ROOT / folder).rglob("*.py"))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def with_texts(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str | None]]:
    """Yield each statement with its docstring: the one inside of it, or the one below it."""
    for node, below in itertools.zip_longest(body, body[1:]):
        match node, below:
            case ((ast.FunctionDef() | ast.ClassDef()), _):
                yield node, ast.get_docstring(node)
            case _, ast.Expr(value=ast.Constant(value=str(text))):
                yield node, text
            case _:
                yield node, None


def offered_names() -> Iterator[tuple[Path, str, ast.stmt, str | None]]:
    """Yield (file, name, definition, docstring) of what each `__init__` defines, or lists in `__all__`."""
    for path in (path for path in sources() if path.name == "__init__.py"):
        tree = parsed(path)
        yield from ((path, name, *found) for name, found in definitions(tree).items())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and "__all__" in path.read_text(encoding="utf-8"):
                origin = ROOT / f"{str(node.module).replace('.', '/')}.py"
                there = definitions(parsed(origin))
                yield from ((origin, each.name, *there[each.name]) for each in node.names)


def definitions(tree: ast.Module) -> dict[str, tuple[ast.stmt, str | None]]:
    """Return the public functions, classes and constants of a module, with their docstrings."""
    found: dict[str, tuple[ast.stmt, str | None]] = {}
    for node, text in with_texts(tree.body):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node, text
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node, text
    return {name: each for name, each in found.items() if not name.startswith("_")}


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


def test_every_package_says_what_it_is():
    silent = [
        path for path in sources() if path.name == "__init__.py" and not ast.get_docstring(parsed(path))
    ]
    assert silent == []


def test_what_a_package_offers_in_its_init_says_what_it_is():
    offered = list(offered_names())
    assert {name for _, name, _, _ in offered} >= {
        "Engine",
        "EngineName",
        "TrainConfig",
        "load_config",
        "BLOCKS",
    }
    assert [f"{path}: {name}" for path, name, _, text in offered if not text] == []


def test_a_number_that_a_package_offers_has_its_unit_in_its_name_or_a_docstring():
    unsaid = [
        f"{path}: {name}.{field.target.id}"
        for path, name, node, _ in offered_names()
        if isinstance(node, ast.ClassDef)
        for field, text in with_texts(node.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if NUMBER.search(ast.unparse(field.annotation)) and not (text or UNIT.search(field.target.id))
    ]
    assert unsaid == []
