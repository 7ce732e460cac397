"""The image's verbs as SageMaker starts them: child processes in a generated /opt/ml."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Container:
    """A running `serve`."""

    process: Any
    client: httpx.Client
    base_dir: Path
    """Its /opt/ml."""
    scratch: Path
    """Its /tmp, the one place where it can write, and so its HOME."""
    outside: socket.socket
    """Whatever it asks of the world arrives here."""
    statuses_of_ping: list[int]
    """While it started, each once."""
    port: int


@pytest.fixture(scope="session")
def opt_ml(tiny_base_dir: Path, tiny_artifact_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An /opt/ml as SageMaker unpacks it for an endpoint: an artifact with its base model, read-only."""
    base_dir = tmp_path_factory.mktemp("opt") / "ml"
    shutil.copytree(tiny_artifact_dir, base_dir / "model")
    shutil.copytree(tiny_base_dir, base_dir / "model" / "base")
    for path in [base_dir, *base_dir.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    return base_dir


@pytest.fixture(scope="module")
def start_container(
    start_child: Callable[..., Any], opt_ml: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Container]]:
    """Start `serve` through the image's entry point: `start_container(**environ)`; ready when it returns."""
    started: list[Container] = []

    def start(**environ: str) -> Container:
        scratch = tmp_path_factory.mktemp("scratch")
        outside = socket.create_server(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{outside.getsockname()[1]}"
        port = free_port()
        isolated = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "XDG_CACHE_HOME": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"), proxy),
            "SAGEMAKER_BASE_DIR": str(opt_ml),
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }
        child = start_child(ROOT / "docker" / "entrypoint.sh", "serve", **isolated | environ)
        client = child.client()
        statuses: list[int] = []
        while 200 not in statuses:
            assert child.process.poll() is None, child.log
            answer = client.get("/ping")
            statuses += [] if answer.status_code in statuses else [answer.status_code]
        started.append(
            Container(
                process=child,
                client=client,
                base_dir=opt_ml,
                scratch=scratch,
                outside=outside,
                statuses_of_ping=statuses,
                port=port,
            )
        )
        return started[-1]

    yield start
    for container in started:
        container.client.close()
        container.outside.close()
        container.process.process.terminate()
        container.process.finish()


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint(start_container: Callable[..., Container]) -> Container:
    """A real-time endpoint with the settings that it has when nobody chooses any."""
    return start_container()


@pytest.fixture(scope="module")
def transform(start_container: Callable[..., Container]) -> Container:
    """The container of a batch transform whose job names its own figures, its model converted before."""
    return start_container(
        XDG_CACHE_HOME=os.environ["XDG_CACHE_HOME"],
        SAGEMAKER_BATCH="TRUE",
        SAGEMAKER_BATCH_STRATEGY="SINGLE_RECORD",
        SAGEMAKER_MAX_PAYLOAD_IN_MB="0",
        SAGEMAKER_MAX_CONCURRENT_TRANSFORMS="32",
    )
