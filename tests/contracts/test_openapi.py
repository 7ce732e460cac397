"""The OpenAPI document is true: schemathesis sends what it allows, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MAX_EXAMPLES = 10
MAX_TIME_S = 120


@pytest.fixture(scope="module")
def address(served, tiny_artifact_dir):
    """Where the service is, as `shrota serve` starts it."""
    with served(tiny_artifact_dir) as client:
        yield str(client.base_url).rstrip("/")


@pytest.mark.slow
def test_no_request_that_schemathesis_thinks_of_is_answered_otherwise_than_described(address, tmp_path):
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "run"]
    run = subprocess.run(
        [
            *(*command, f"{address}/docs/openapi.json", "--no-color", "--checks", "all"),
            *("--phases", "examples,coverage,fuzzing,stateful", "--max-examples", str(MAX_EXAMPLES)),
            *("--max-time", str(MAX_TIME_S), "--continue-on-failure", "--seed", "1"),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-20_000:]
