"""The command `shrota` as a person types it: real processes, help, completion, exit statuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from serve.config.command_line import SHELLS, USAGE, run_command
from train.command_line import COMMANDS, command

ROOT = Path(__file__).parents[2]


def shrota(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    env = {**os.environ, "COLUMNS": "120", "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, "-m", "train.command_line", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_package_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"shrota": "train.command_line:main"}


def test_help_lists_every_command_and_imports_none():
    looked_up = "import sys; from train.command_line import command; from serve.config.command_line import *;"
    looked_up += "run_command(command, ['--help']); print(sorted(m for m in sys.modules if m in HEAVY))"
    heavy = {"torch", "numpy", "litestar", "train.config", "serve.config.settings", "rich", "yaml"}
    program = f"HEAVY = {heavy!r}; {looked_up}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout
    assert all(f"  {name} " in said for name in COMMANDS) and "Examples:" in said
    assert said.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_examples_and_loads_no_runtime(name):
    looked_up = "import sys; from train.command_line import command; from serve.config.command_line import *;"
    looked_up += (
        f"run_command(command, ['{name}', '--help']); print({{'torch', 'litestar'}} & set(sys.modules))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    said = subprocess.run(
        [sys.executable, "-c", looked_up], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout
    usage, _, examples = said.partition("Examples:")
    assert usage.startswith(f"Usage: shrota {name}") and f"shrota {name} " in examples
    assert said.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained(name):
    found = command.get_command(click.Context(command), name)
    assert found is not None
    for option in found.params:
        if isinstance(option, click.Option):
            assert option.help and len(option.help) > 10, option.opts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("shrota tr", {"train", "transcribe"}),
        ("shrota serve --eng", {"--engine"}),
        ("shrota export --format ct2-int8", {"ct2-int8", "ct2-int8_float16"}),
    ],
)
def test_the_tab_key_completes_commands_flags_and_values(words, said):
    n_words = len(words.split()) - 1
    answer = shrota(_SHROTA_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(n_words))
    assert said <= {line.partition(",")[2] for line in answer.stdout.splitlines()}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_script_of_each_shell_is_printed(shell):
    answer = shrota("--completion", shell)
    assert answer.returncode == 0 and f"_SHROTA_COMPLETE={shell}_complete" in answer.stdout, answer.stderr


def test_a_command_that_does_not_exist_is_named_with_the_nearest(capsys):
    assert run_command(command, ["trian"]) == USAGE
    assert capsys.readouterr().err == "error: 'trian' is not a command of shrota; did you mean train?\n"


def test_without_the_packages_of_training_one_sentence_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("train.evaluate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jiwer", None)  # as if it were not installed
    wanted = ["evaluate", "--manifest", "none.jsonl", "--model-dir", "none"]
    assert run_command(command, wanted) == 1
    assert "`shrota evaluate` needs jiwer: pip install 'shrota[train]'" in capsys.readouterr().err


def test_all_faults_of_a_training_come_together_and_status_2_says_that_words_were_wrong(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("name: tiny\noutput_dir: run\ntrain_data: [a.jsonl]\nlora_rank: many\n")
    words = ["train", "--config", str(file), "--epochss", "3", "--augment.noise", "2", "stray", "--seed"]
    assert run_command(command, words) == USAGE
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {
        "error: --seed lacks its value",
        "error: 'stray' is not an option; options are written --name value",
        "error: --epochss is not an option; did you mean --epochs?",
        "error: augment.noise is 2.0; a probability must lie between 0 and 1",
        f"error: lora_rank in {file}: 'many' is not a whole number",
    }
