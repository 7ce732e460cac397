"""Serve speech recognition over HTTP: `shrota serve`, also `python -m serve`.

Exit status: 0 after SIGTERM or SIGINT, 1 when the service cannot start (with a sentence for each reason on
standard error), 2 for unknown words on the command line.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from serve.config.command_line import Command, config_flag, exit_with, flags_of
from serve.config.settings import Settings, unknown_settings
from serve.config.sources import PREFIX

if TYPE_CHECKING:
    from serve.engine.loading import LoadEngine
    from serve.pipeline import Pipeline


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Read settings from flags, environment and file.

    Raises:
        ConfigError: Lists every invalid value.
    """
    return Settings.from_env(os.environ, flags)


def serve(settings: Settings) -> int:
    """Serve until a signal stops it, and return the exit status."""
    import structlog

    from serve.config.logs import configure_logs, keep_libraries_out
    from serve.model.allocator import share_arenas
    from serve.service.worker.supervised import engine_loader

    share_arenas(settings.n_threads)
    keep_libraries_out()
    configure_logs(settings.log_level)
    load_engine = engine_loader(settings)
    # In this process the two would only hinder each other.
    is_early = settings.engine_process and not settings.multi_model
    loading = _loading(settings, load_engine) if is_early else None
    from serve.http.server import run  # while the model is loaded

    for sentence in unknown_settings(os.environ):
        structlog.get_logger(__name__).warning("setting.unknown", reason=sentence)
    return run(settings) if loading is None else run(settings, lambda _: loading.result())


def _loading(settings: Settings, load_engine: LoadEngine) -> Future[Pipeline]:
    """Start to load the model in a thread, which ends with the program; return what will be the pipeline."""
    loading: Future[Pipeline] = Future()

    def load() -> None:
        from serve.service.service import load_from_settings

        try:
            loading.set_result(load_from_settings(settings, load_engine))
        except BaseException as error:  # raised where the service asks for the pipeline
            loading.set_exception(error)

    threading.Thread(target=load, name="load", daemon=True).start()
    return loading


command = Command(
    "serve",
    read=read_settings,
    run=serve,
    about="Serve speech recognition over HTTP: GET /ping, POST /invocations.\n\nEvery flag is also a variable"
    " of the environment and a key of the file that --config names. A flag overrides a variable, a variable"
    " overrides the file.",
    examples="""\
shrota serve --model-dir model_artifacts/whisper-base-mr --quantization none
shrota serve --base-model openai/whisper-base --port 8081
shrota serve --config settings.yaml
SHROTA_MODEL_DIR=/opt/ml/model SHROTA_MAX_REQUESTS=32 shrota serve

curl --data-binary @speech.wav -H 'Content-Type: audio/wav' 'localhost:8080/invocations?language=mr'
curl --no-buffer -F file=@speech.mp3 -H 'Accept: application/x-ndjson' localhost:8080/invocations
""",
    flags=[
        config_flag("File of settings, YAML or TOML. [SHROTA_CONFIG]"),
        *flags_of(Settings, prefix=PREFIX),
    ],
    leaves_at_once=True,
)


if __name__ == "__main__":
    exit_with(command)
