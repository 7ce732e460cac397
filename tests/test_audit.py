"""`.ci/audit` as a process, with stand-ins for the tools: what it tells, and when it stops a change."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPED = {"name": "absl-py", "skip_reason": "Dependency not found on PyPI and could not be audited"}
SOUND = {"name": "click", "version": "8.4.0", "vulns": []}
WEAK = {"name": "pyyaml", "version": "5.3", "vulns": [{"id": "CVE-2020-1747", "fix_versions": ["5.3.1"]}]}


@pytest.fixture
def audit(tmp_path):
    def run(told: str, secrets: int = 0) -> subprocess.CompletedProcess:
        (tmp_path / "told").write_text(told)
        programs = {"pip-audit": f"cat {tmp_path}/told", "detect-secrets-hook": f"exit {secrets}"}
        for name, line in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        command = [sys.executable, str(ROOT / ".ci" / "audit"), str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    return run


def dependencies(*each: dict) -> str:
    return json.dumps({"dependencies": each})


def test_what_is_sound_passes(audit):
    done = audit(dependencies(SOUND))
    assert done.returncode == 0
    assert "1 audited, 0 with known weaknesses" in done.stdout and "NOT" not in done.stdout


def test_a_weakness_stops_and_names_the_release_that_mends_it(audit):
    done = audit(dependencies(SOUND, WEAK))
    assert done.returncode == 1
    assert "pyyaml 5.3: CVE-2020-1747, mended in 5.3.1" in done.stdout


def test_what_could_not_be_looked_up_is_not_called_sound(audit):
    done = audit(dependencies(SOUND, SKIPPED))
    assert done.returncode == 0
    assert "1 audited" in done.stdout and "1 could NOT be audited" in done.stdout
    assert "absl-py" in done.stdout


def test_without_any_answer_it_says_so(audit):
    done = audit("")
    assert done.returncode == 0 and "not audited" in done.stdout


def test_a_secret_stops_whatever_the_packages_are(audit):
    done = audit(dependencies(SOUND), secrets=1)
    assert done.returncode == 1 and "see above" in done.stdout
