"""README.md and docs/*.md keep their word: commands, links and paths exist, figures can be remade."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from pathlib import Path

import click
import pytest

from train.command_line import COMMANDS, command

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("**/*.md"))]

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = {"sh", "bash", "shell", "console"}
MEASURED = re.compile(
    r"\d\s?%|\d\s?(?:x|×) real time|\b(?:WER|CER|RTF)\b\D{0,20}\d|\d\s?(?:ms|clips/s|samples/s)\b"
)
REMAKES = re.compile(r"\bmake [a-z]|\bshrota [a-z]|\bpython (?:-m )?[a-z]")

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def shell_lines(document: Path) -> list[str]:
    """Return each command line of the document's shell blocks: lines joined, prompts and comments off."""
    blocks = [body for language, body in FENCE.findall(document.read_text("utf-8")) if language in SHELLS]
    lines = [
        line.strip().removeprefix("$ ") for body in blocks for line in body.replace("\\\n", " ").splitlines()
    ]
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in lines if not line.startswith("#")]


def code(document: Path) -> list[str]:
    """Return all that stands as code: the lines of shell blocks, and code within sentences."""
    prose = FENCE.sub("", document.read_text("utf-8"))
    return [*filter(None, shell_lines(document)), *re.findall(r"`([^`\n]+)`", prose)]


def sections(document: Path) -> list[str]:
    """Return the text of each section, its heading first."""
    masked = FENCE.sub(lambda block: block[0].replace("\n#", "\n\0"), document.read_text("utf-8"))
    return [section.replace("\0", "#") for section in re.split(r"^(?=#+ )", masked, flags=re.MULTILINE)]


def anchor(heading: str) -> str:
    """Return the fragment under which a heading is linked."""
    return re.sub(r"[^\w\- ]", "", heading.strip("# \n").lower()).replace(" ", "-")


def test_the_readme_sets_up_with_make_serve_and_make_test():
    commands = shell_lines(README)
    assert "make serve" in commands and "make test" in commands


@every_document
def test_every_make_target_exists(document):
    targets = {
        word
        for line in code(document)
        for words in re.findall(r"(?:^|[;&|] *)make((?: +[\w.=/-]+)*)", line)
        for word in words.split()
        if "=" not in word
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    if not targets:
        return
    command = ["make", "-n", *sorted(targets)]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{' '.join(command)}: {run.stderr}"


@every_document
def test_every_command_of_shrota_exists(document):
    for line in code(document):
        for name in re.findall(r"(?:^|[;&|(] *)shrota +([a-z]\w*)", line):
            assert name in COMMANDS, line


@every_document
def test_every_python_program_exists(document):
    for line in code(document):
        for module in re.findall(r"\bpython3? -m ((?:serve|train)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file(), line
        for script in re.findall(r"\bpython3? ([\w./-]+\.py)\b", line):
            assert (ROOT / script).is_file(), line


@every_document
def test_every_flag_of_our_programs_exists(document):
    for line in code(document):
        program = re.search(r"\bshrota ([a-z]+)\b(.*)|(train/run\.py)\b(.*)", line)
        used = (
            set(re.findall(r"(?<=\s)--([a-z][\w.-]*)", program[2] or program[4] or "")) if program else set()
        )
        if program and used:
            assert {flag.replace("_", "-") for flag in used} <= known_flags(program[1] or "train"), line


@cache
def known_flags(name: str) -> set[str]:
    """Return the long options of a command, without their dashes."""
    found = command.get_command(click.Context(command), name)
    assert found is not None, name
    options = [*found.params, *command.params]
    flags = (flag for option in options for flag in (*option.opts, *option.secondary_opts))
    return {"help", *(flag.removeprefix("--").replace("_", "-") for flag in flags)}


@every_document
def test_every_path_of_the_tree_exists(document):
    for text in code(document):
        for word in text.split():
            if re.fullmatch(r"@?(?:serve|train|tests|docker|model_artifacts|docs|\.ci)/[\w./-]*", word):
                assert (ROOT / word.removeprefix("@")).exists(), text


def test_the_map_names_every_module():
    (the_map,) = [section for section in sections(README) if section.startswith("## Map")]
    named = re.findall(r"`([\w./*-]+)`", the_map)
    folders = [name for name in named if name.endswith("/")]
    modules = [
        path.relative_to(ROOT) for folder in ("serve", "train") for path in (ROOT / folder).rglob("*.py")
    ]
    missing = [
        str(module)
        for module in modules
        if not module.name.startswith("__") and not any(module.match(name) for name in named)
        if not any(str(module).startswith(folder) for folder in folders)
    ]
    assert missing == []


@every_document
def test_every_link_and_picture_of_the_tree_exists(document):
    prose = FENCE.sub("", document.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        page = (document.parent / path).resolve() if path else document
        assert page.exists(), target
        if fragment:
            assert fragment in {anchor(section.splitlines()[0]) for section in sections(page) if section}, (
                target
            )


@every_document
def test_every_section_with_measured_figures_names_the_command_that_remakes_them(document):
    for section in sections(document):
        prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", section))
        if MEASURED.search(prose):
            assert REMAKES.search(section), section.splitlines()[0]
