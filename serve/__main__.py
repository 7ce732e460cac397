"""Serve speech recognition: `python -m serve --help` names every setting.

Exit status: 0 after SIGTERM or SIGINT, 1 when the service cannot start (one sentence on standard error), 2
for flags that cannot be parsed.
"""

from __future__ import annotations

import os
import sys

from serve.config.logs import configure_logs
from serve.config.settings import Settings
from serve.errors import ConfigError
from serve.http.server import run
from serve.model.allocator import share_arenas


def main() -> int:
    """Read the settings once, and serve."""
    try:
        settings = Settings.from_env(os.environ, sys.argv[1:])
    except ConfigError as error:
        for fault in error.faults:
            print(f"error: {fault}", file=sys.stderr)
        return 1
    share_arenas(settings.n_threads)
    configure_logs(settings.log_level)
    return run(settings)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads that are still inside a product of matrices or an ffmpeg child.
    os._exit(status)
