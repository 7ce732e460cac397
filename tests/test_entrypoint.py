"""The container, as far as it shows without Docker: the entry point as a process, the Dockerfile as text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
DOCKERFILE = ROOT / "Dockerfile"

SAYS_HOW_IT_WAS_STARTED = """#!/bin/sh
echo "$$"
for argument in "$@"; do echo "$argument"; done
echo "offline=${SHROTA_OFFLINE:-unset},${HF_HUB_OFFLINE:-unset}" >&2
echo "cache=${SHROTA_CACHE_DIR:-unset}" >&2
"""
DRAINS_ON_SIGTERM = """#!/bin/sh
trap 'echo drained; exit 7' TERM
echo ready
while :; do sleep 0.05; done
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a run of the entry point came to."""

    pid: int
    """Process id of the entry point itself."""
    returncode: int
    lines: list[str]
    stderr: str


def start(
    tmp_path: Path, *arguments: str, python: str = SAYS_HOW_IT_WAS_STARTED, **env: str
) -> subprocess.Popen[str]:
    """Start the entry point with a stand-in for `python` first on PATH."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(python)
    fake.chmod(0o755)
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "SAGEMAKER_", "SHROTA_", "TRAIN_"))
    }
    return subprocess.Popen(
        [ENTRYPOINT, *arguments],
        env={
            **inherited,
            "PATH": f"{fake.parent}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path / "tmp"),
            **env,
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path: Path, *arguments: str, **env: str) -> Answer:
    """Run the entry point to its end."""
    process = start(tmp_path, *arguments, **env)
    stdout, stderr = process.communicate(timeout=30)
    return Answer(pid=process.pid, returncode=process.returncode, lines=stdout.splitlines(), stderr=stderr)


def test_serve_becomes_the_server_and_hands_its_flags_on(tmp_path):
    answer = run(tmp_path, "serve", "--port", "9000", "--model-dir", "a directory")
    assert answer.lines == [str(answer.pid), "-m", "serve", "--port", "9000", "--model-dir", "a directory"]


@pytest.mark.parametrize(
    "flags", [[], ["--config", "/my own.yaml", "--max-steps=3"], ["--", "sh", "-c", "x"]]
)
def test_train_becomes_the_training_container_and_hands_its_flags_on(tmp_path, flags):
    answer = run(tmp_path, "train", *flags)
    assert answer.lines == [str(answer.pid), "-m", "train.container", *flags]


def test_serving_looks_at_no_hub_unless_told_to(tmp_path):
    assert "offline=true,1\n" in run(tmp_path, "serve").stderr
    told_to = {"SHROTA_OFFLINE": "false", "HF_HUB_OFFLINE": "0"}
    assert "offline=false,0\n" in run(tmp_path, "serve", **told_to).stderr
    assert "offline=unset,unset\n" in run(tmp_path, "train").stderr


def test_serving_keeps_what_it_converts_below_tmp_beside_the_base_model_of_the_image(tmp_path):
    built_in = tmp_path / "cache" / "shrota" / "base"
    built_in.mkdir(parents=True)
    for _ in range(2):  # a container that is started again finds its link
        answer = run(tmp_path, "serve", XDG_CACHE_HOME=str(tmp_path / "cache"))
        assert f"cache={tmp_path}/tmp/shrota\n" in answer.stderr
    assert (tmp_path / "tmp" / "shrota" / "base").resolve() == built_in
    assert list(built_in.iterdir()) == []
    assert "cache=/kept\n" in run(tmp_path, "serve", SHROTA_CACHE_DIR="/kept").stderr
    assert "cache=unset\n" in run(tmp_path, "train").stderr


def test_an_image_without_a_base_model_serves_too(tmp_path):
    answer = run(tmp_path, "serve", XDG_CACHE_HOME=str(tmp_path / "nothing"))
    assert answer.returncode == 0 and not (tmp_path / "tmp" / "shrota" / "base").exists()


def test_the_entry_point_works_when_started_through_a_link(tmp_path):
    link = tmp_path / "start"
    link.symlink_to(ENTRYPOINT)
    answer = subprocess.run([link, "echo", "hello"], capture_output=True, text=True, check=True)
    assert answer.stdout == "hello\n"


def test_any_other_command_runs_as_it_stands(tmp_path):
    answer = run(tmp_path, "sh", "-c", 'echo "$$"; exit 5')
    assert (answer.returncode, answer.lines) == (5, [str(answer.pid)])


def test_an_unknown_verb_is_named_in_one_sentence(tmp_path):
    answer = run(tmp_path, "sevre")
    assert answer.returncode == 127
    assert len(answer.stderr.splitlines()) == 1 and "'sevre'" in answer.stderr


def test_no_verb_at_all_prints_the_usage(tmp_path):
    answer = run(tmp_path)
    assert answer.returncode == 64 and answer.stderr.startswith("usage:")


@pytest.mark.parametrize("verb", ["serve", "train"])
def test_sigterm_reaches_the_program_and_its_status_comes_back(tmp_path, verb):
    with start(tmp_path, verb, python=DRAINS_ON_SIGTERM) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            stdout, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (stdout, process.returncode) == ("drained\n", 7)


def instructions() -> Iterator[tuple[str, str]]:
    """Yield every instruction of the Dockerfile with its arguments on one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            keyword, _, arguments = line.partition(" ")
            yield keyword, arguments.strip()


def arguments_of(keyword: str) -> list[str]:
    """Return the arguments of each such instruction."""
    return [arguments for name, arguments in instructions() if name == keyword]


def test_every_outside_image_is_pinned_to_a_patch_release():
    defaults = dict(argument.split("=", 1) for argument in arguments_of("ARG"))
    stages = [line.split(" AS ")[1] for line in arguments_of("FROM")]
    for line in arguments_of("FROM"):
        image = re.sub(r"\$\{(\w+)\}", lambda name: defaults[name[1]], line.split(" AS ")[0])
        assert image in stages or re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", image), image


def test_the_entry_point_and_the_command_have_the_exec_form_and_exist():
    (entrypoint,) = arguments_of("ENTRYPOINT")
    (path,) = json.loads(entrypoint)
    assert path == "/opt/shrota/docker/entrypoint.sh"
    assert os.access(ENTRYPOINT, os.X_OK)
    assert json.loads(*arguments_of("CMD")) == ["serve"]


@pytest.mark.parametrize("capability", ["accept-bind-to-port", "multi-models", "bidirectional-streaming"])
def test_sagemaker_reads_what_the_image_can_do_off_its_labels(capability):
    assert f'com.amazonaws.sagemaker.capabilities.{capability}="true"' in " ".join(arguments_of("LABEL"))
    assert arguments_of("EXPOSE") == ["8080"]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    for keyword, arguments in instructions():
        if keyword == "FROM":
            name = arguments.split(" AS ")[1]
            found[name] = []
        elif found:
            found[name].append((keyword, arguments))
    return found


def test_the_last_stage_installs_ffmpeg_and_nothing_that_builds():
    name, last = list(stages().items())[-1]
    assert name == "runtime"
    runs = [arguments for keyword, arguments in last if keyword == "RUN"]
    (install,) = [re.search(r"apt-get install ([^&]*)", line) for line in runs]
    assert install is not None
    assert [word for word in install[1].split() if not word.startswith("--")] == ["ffmpeg"]
    assert not any("pip" in line for line in runs)


def test_nobody_may_write_to_the_code():
    assert any("chmod --recursive a-w /opt/shrota" in line for line in arguments_of("RUN"))
    copied = [line for line in arguments_of("COPY") if "docker/" in line]
    assert all("--chmod=0555" in line for line in copied) and copied


@pytest.mark.parametrize("argument", ["TORCH_INDEX_URL", "EXTRAS", "BASE_MODEL", "PYTHON_IMAGE"])
def test_every_choice_of_a_build_is_declared_before_it_is_used(argument):
    lines = list(instructions())
    declared = [
        n for n, (keyword, text) in enumerate(lines) if keyword == "ARG" and text.startswith(argument)
    ]
    used = [n for n, (_, text) in enumerate(lines) if re.search(rf"\$\{{?{argument}\b", text)]
    assert len(declared) == 1 and used and declared[0] < min(used)


def test_nothing_of_the_image_lies_under_opt_ml():
    assert [line for _, line in instructions() if "/opt/ml" in line] == []


def test_output_is_not_buffered_so_that_logs_arrive_as_they_are_written():
    assert "PYTHONUNBUFFERED=1" in arguments_of("ENV")[-1]


def test_a_failure_within_a_pipe_fails_the_build():
    for line in arguments_of("SHELL"):
        assert "pipefail" in json.loads(line)


def test_debian_packages_bring_no_recommendations_and_leave_no_lists():
    installs = [line for line in arguments_of("RUN") if "apt-get install" in line]
    assert installs
    for line in installs:
        assert "--no-install-recommends" in line and "rm -rf /var/lib/apt/lists/*" in line


def test_python_packages_install_under_the_constraints():
    installs = re.findall(r"pip install[^;&]*", " ".join(arguments_of("RUN")))
    assert installs and all("--constraint constraints.txt" in command for command in installs)


def test_the_image_carries_the_version_of_the_distribution():
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f'org.opencontainers.image.version="{version}"' in " ".join(arguments_of("LABEL"))


def test_every_copied_file_exists_and_is_let_through_to_the_build():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    admitted = [line[1:] for line in lines if line.startswith("!")]
    copies = [line.split() for line in arguments_of("COPY") if "--from=" not in line]
    sources = [word for words in copies for word in words[:-1] if not word.startswith("--")]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == name or source.startswith(f"{name}/") for name in admitted), source
