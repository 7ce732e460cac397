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


SERVE = [sys.executable, "-m", "serve", "--host", "127.0.0.1", "--port", "0"]


@pytest.fixture
def one_model(served, tiny_artifact_dir):
    """Where the service is, as `shrota serve` starts it."""
    with served(tiny_artifact_dir) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def many_models(start_child, tiny_artifact_dir, tiny_base_dir):
    """The same for a multi-model service with one model, which a chain of requests may unload."""
    roots = f"{tiny_artifact_dir}:{tiny_base_dir}"
    child = start_child(*SERVE, "--adapter-roots", roots, SAGEMAKER_MULTI_MODEL="true")
    child.wait_for("models.ready")
    with child.client() as client:
        new = {"model_name": "marathi", "url": str(tiny_artifact_dir)}
        assert client.post("/models", json=new, timeout=300).status_code == 200  # a model is converted
        yield str(client.base_url).rstrip("/")


@pytest.mark.slow
@pytest.mark.parametrize("service", ["one_model", "many_models"])
def test_no_request_that_schemathesis_thinks_of_is_answered_otherwise_than_described(
    request, tmp_path, service
):
    address = request.getfixturevalue(service)
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
