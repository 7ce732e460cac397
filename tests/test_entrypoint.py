"""The container, as far as it shows without Docker: the entry point as a process, the Dockerfile as text."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from serve.model.base_model import built_in_dirs

ROOT = Path(__file__).parents[1]
ENTRYPOINT = ROOT / "docker" / "entrypoint.sh"
DOCKERFILE = ROOT / "Dockerfile"

SAYS_HOW_IT_WAS_STARTED = """#!/bin/sh
echo "$$"
for argument in "$@"; do echo "$argument"; done
echo "offline=${SHROTA_OFFLINE:-unset},${HF_HUB_OFFLINE:-unset}" >&2
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
        env={**inherited, "PATH": f"{fake.parent}:{os.environ['PATH']}", **env},
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
    assert answer.lines == [str(answer.pid), "-m", "train.sagemaker.container", *flags]


def test_serving_looks_at_no_hub_unless_told_to(tmp_path):
    assert "offline=true,1\n" in run(tmp_path, "serve").stderr
    told_to = {"SHROTA_OFFLINE": "false", "HF_HUB_OFFLINE": "0"}
    assert "offline=false,0\n" in run(tmp_path, "serve", **told_to).stderr
    assert "offline=unset,unset\n" in run(tmp_path, "train").stderr


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
def test_the_image_says_what_sagemaker_may_ask_of_it(capability):
    assert f'com.amazonaws.sagemaker.capabilities.{capability}="true"' in " ".join(arguments_of("LABEL"))
    assert arguments_of("EXPOSE") == ["8080"]


def test_nothing_of_the_image_lies_under_opt_ml():
    assert [line for _, line in instructions() if "/opt/ml" in line] == []


def test_output_is_not_buffered_so_that_logs_arrive_as_they_are_written():
    assert "PYTHONUNBUFFERED=1" in arguments_of("ENV")[-1]


def test_a_failure_within_a_pipe_fails_the_build():
    for line in arguments_of("SHELL"):
        assert "pipefail" in json.loads(line)


def shipped() -> list[tuple[str, str]]:
    """Return the instructions of the last stage, which is what is shipped."""
    stages = list(instructions())
    last = max(index for index, (keyword, _) in enumerate(stages) if keyword == "FROM")
    return stages[last:]


def settings_of_the_image() -> dict[str, str]:
    """Return the environment of the image that is shipped."""
    (env,) = [arguments for keyword, arguments in shipped() if keyword == "ENV"]
    return dict(pair.split("=", 1) for pair in env.split())


def test_no_compiler_comes_into_the_image():
    assert shipped()[0][1].startswith("${PYTHON_IMAGE}")
    commands = " ".join(arguments for keyword, arguments in shipped() if keyword == "RUN")
    assert not re.search(r"g\+\+|gcc|build-essential|\bmake\b|pip install", commands)


def test_the_image_comes_with_cuda_or_without():
    defaults = dict(argument.split("=", 1) for argument in arguments_of("ARG"))
    assert defaults["VARIANT"] == '"cuda"'
    (install,) = [line for line in arguments_of("RUN") if "$VARIANT" in line]
    assert "cuda)" in install and "cpu)" in install and "exit 1" in install
    assert '--index-url "$TORCH_INDEX_URL" torch torchaudio' in install
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"gpu", "train"} <= set(extras)


def test_the_base_model_is_baked_in_unless_a_build_leaves_it_out():
    assert 'BASE_MODEL="openai/whisper-base"' in arguments_of("ARG")
    assert any('[ -n "$BASE_MODEL" ]' in line for line in arguments_of("RUN"))
    place = "/usr/local/share/shrota"  # where it is looked for, unless XDG_DATA_DIRS names other places
    (bake,) = [line for line in arguments_of("RUN") if f'docker/build_in.py "$BASE_MODEL" {place};' in line]
    assert f"chmod --recursive a+rX {place}" in bake  # for any user
    assert ("COPY", f"--from=base-model {place} {place}") in shipped()
    assert "XDG_DATA_DIRS" not in settings_of_the_image()
    assert Path(place) in built_in_dirs()


LOOK = """
from serve.model.base_model import resolve_base_model
from serve.engine.ctranslate2.merging import converted_model
base_dir = resolve_base_model("openai/whisper-base", offline=True)
print(base_dir)
print(converted_model(base_dir, None, "int8"))
"""


@pytest.mark.slow
def test_what_is_baked_in_is_found_and_nothing_is_written(tmp_path):
    into = tmp_path / "share" / "shrota"
    run_python = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    run_python([sys.executable, "docker/build_in.py", "openai/whisper-base", into], env=environ)
    assert not any(path.is_symlink() for path in into.rglob("*"))
    environ |= {"XDG_DATA_DIRS": str(into.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = run_python([sys.executable, "-c", LOOK], env=environ | {"HF_HOME": str(tmp_path / "hub")})
    base_dir, converted = map(Path, found.stdout.splitlines())
    assert base_dir == into / "base" / "openai--whisper-base" and converted.parent == into / "converted"
    assert not (tmp_path / "cache").exists()


def test_the_libraries_of_cuda_lie_where_the_loader_looks():
    (python,) = [line for line in arguments_of("ARG") if line.startswith("PYTHON_IMAGE=")]
    (version,) = re.findall(r"python:(3\.\d+)\.", python)
    assert f"/lib/python{version}/site-packages/nvidia/" in settings_of_the_image()["LD_LIBRARY_PATH"]


def test_any_user_can_run_the_image_and_none_can_write_its_code():
    env = settings_of_the_image()
    assert "USER" not in {keyword for keyword, _ in instructions()}  # SageMaker's volumes belong to root
    assert env["HOME"] == "/tmp"
    caches = {name: value for name, value in env.items() if re.search("CACHE|CONFIG|_HOME", name)}
    assert {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"} <= set(caches)
    assert all(value.startswith("/tmp/") for value in caches.values()), caches
    assert env["PYTHONDONTWRITEBYTECODE"] == "1"
    assert any("chmod --recursive a-w /opt/shrota" in line for line in arguments_of("RUN"))
    assert any("--chmod=0555 docker/entrypoint.sh" in line for line in arguments_of("COPY"))


def test_nothing_of_the_image_comes_from_an_address_that_no_hash_or_index_vouches_for():
    commands = " ".join(arguments_of("RUN"))
    assert "ADD" not in {keyword for keyword, _ in instructions()}
    assert not re.search(r"\b(curl|wget|git clone)\b", commands)
    assert all("://" not in line for line in arguments_of("COPY"))


def test_no_library_of_the_image_reports_its_use():
    env = settings_of_the_image()
    assert env["ORT_DISABLE_TELEMETRY"] == env["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("left_out", ["data", "runs", ".venv", ".git", "tests", "bench", "docs"])
def test_the_build_sees_neither_recordings_nor_environments(left_out):
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert first == "*" and f"!{left_out}" not in rest


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
