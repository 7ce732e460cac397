"""How long modules and functions may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
MOST_FUNCTION_LINES = 60
LONG_FUNCTION_LINES = 40
ONE_LONG_IN = 50


def sources() -> list[Path]:
    """Return every Python file of serve, train and bench."""
    return sorted(path for folder in ("serve", "train", "bench") for path in (ROOT / folder).rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield (`FILE:NAME`, lines) of every function of a file, its signature and docstring included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


def too_long(paths: list[Path]) -> list[str]:
    """Return what is longer than it may be."""
    modules = [f"{path.relative_to(ROOT)}: {n}" for path in paths if (n := n_lines(path)) > MOST_LINES]
    long = [f"{name}: {n}" for path in paths for name, n in functions(path) if n > MOST_FUNCTION_LINES]
    return modules + long


def n_lines(path: Path) -> int:
    """Return the lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_and_no_function_is_too_long():
    assert too_long(sources()) == []


def test_at_most_one_function_in_fifty_is_long():
    lengths = {name: n for path in sources() for name, n in functions(path)}
    long = sorted((n, name) for name, n in lengths.items() if n > LONG_FUNCTION_LINES)
    assert len(long) * ONE_LONG_IN <= len(lengths), f"of {len(lengths)}: {long}"
