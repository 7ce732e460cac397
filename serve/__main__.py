"""Serve speech recognition over HTTP: `shrota serve`, which `python -m serve` is as well.

Exit status: 0 after SIGTERM or SIGINT, 1 when the service cannot start (a sentence for each reason on
standard error), 2 for words that are no flags.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from serve.config.command_line import Command, config_flag, exit_with, flags_of
from serve.config.settings import Settings, unknown_settings
from serve.config.sources import PREFIX


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """Return the settings that flags, environment and file come to.

    Raises:
        ConfigError: Lists every value that is wrong.
    """
    return Settings.from_env(os.environ, flags)


def serve(settings: Settings) -> int:
    """Serve until a signal ends it, and return the exit status."""
    import structlog

    from serve.config.logs import configure_logs
    from serve.http.server import run
    from serve.model.allocator import share_arenas

    share_arenas(settings.n_threads)
    configure_logs(settings.log_level)
    for sentence in unknown_settings(os.environ):
        structlog.get_logger(__name__).warning("setting.unknown", reason=sentence)
    return run(settings)


command = Command(
    "serve",
    read=read_settings,
    run=serve,
    about="Serve speech recognition over HTTP: GET /ping, POST /invocations.\n\nEvery flag is also a variable"
    " of the environment and a key of the file that --config names. A flag wins over a variable, a variable"
    " over the file.",
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
