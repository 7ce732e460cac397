"""`.ci/system-deps` as a process, with stand-ins for Debian's programs as the only ones on its PATH."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEM_DEPS = Path(__file__).parents[1] / ".ci" / "system-deps"
STAND_INS = {
    "dpkg-query": '[ "${4:-}" = ffmpeg ] && echo installed || exit 1',
    "apt-get": 'echo "$@" >> "$LOG"',
    "apt-cache": '[ "$2" = imaginary ] || echo "$2 | 1.0 | archive"',
    "sudo": 'exec "$@"',
}


@pytest.fixture
def debian(tmp_path):
    """Return a function that runs the script among these stand-ins: (its run, what apt-get was asked)."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    for program in ("bash", "env"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    log = tmp_path / "apt.log"
    log.touch()

    def run(*packages: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        answer = subprocess.run(
            [SYSTEM_DEPS, *packages],
            env={"PATH": str(tmp_path), "LOG": str(log)},
            capture_output=True,
            text=True,
            check=False,
        )
        return answer, log.read_text().splitlines()

    return run


def test_packages_that_are_there_cost_nothing(debian):
    answer, asked = debian("ffmpeg")
    assert (answer.returncode, answer.stdout, answer.stderr, asked) == (0, "", "", [])


def test_only_what_is_missing_is_installed(debian):
    answer, asked = debian("ffmpeg", "espeak-ng", "aspell")
    assert answer.returncode == 0
    assert asked[-1].endswith("install --yes --no-install-recommends espeak-ng aspell")


def test_a_package_this_distribution_lacks_is_named_and_left_out(debian):
    answer, asked = debian("imaginary", "aspell")
    assert answer.returncode == 0
    assert asked[-1].endswith("--no-install-recommends aspell")
    assert "imaginary" in answer.stderr


def test_a_system_without_apt_is_told_in_one_sentence_what_to_install(debian, tmp_path):
    (tmp_path / "apt-get").unlink()
    answer, asked = debian("ffmpeg", "espeak-ng")
    assert (answer.returncode, asked) == (0, [])
    assert len(answer.stderr.splitlines()) == 1 and "espeak-ng" in answer.stderr


def test_a_failing_install_fails_the_target(debian, tmp_path):
    (tmp_path / "apt-get").write_text('#!/bin/sh\ncase "$*" in *install*) exit 100 ;; esac\n')
    answer, _ = debian("aspell")
    assert answer.returncode == 100
