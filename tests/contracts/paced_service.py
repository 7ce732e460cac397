"""A service whose engine waits for a file to appear, after so many windows that do not.

python tests/contracts/paced_service.py FILE WINDOWS [--flag value ...]
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from serve.config.logs import configure_logs
from serve.config.settings import Settings
from serve.engine import CPU_BATCH, Engine, Hypothesis
from serve.http.server import run
from serve.pipeline import Pipeline, ServingFacts


class PacedEngine(Engine):
    """Hears "x" in every window; the first `n_free` do not wait."""

    languages = frozenset({"mr"})
    has_adapter = False
    n_workers = 1
    usual_batch = CPU_BATCH

    def __init__(self, go_on: Path, n_free: int) -> None:
        self._go_on, self._n_free = go_on, n_free

    def kind(self, window):
        return window.options.adapter, window.n_frames

    def decode(self, windows):
        while self._n_free == 0 and not self._go_on.exists():
            time.sleep(0.02)
        self._n_free = max(0, self._n_free - 1)
        heard = {
            "text": "x",
            "tokens": (1,),
            "avg_logprob": 0.0,
            "no_speech_prob": 0.0,
        }
        return [Hypothesis(language="mr", **heard) for _ in windows]

    def unsupported(self, options): ...

    def bytes_to_load(self, options):
        return 0

    def close(self): ...


class Frames:
    def log_mel(self, samples, window_s):
        return np.zeros((80, 3000), np.float32)


if __name__ == "__main__":
    go_on, n_free, *flags = sys.argv[1:]
    configure_logs("info")
    engine = PacedEngine(Path(go_on), 1 + int(n_free))  # the warm-up is a window as well
    pipeline = Pipeline(engine, Frames(), ServingFacts(language="mr", max_first_window_s=1.0))
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    named = {flag[2:].replace("-", "_"): value for flag, value in given.items()}
    settings = Settings.from_env({"SHROTA_HOST": "127.0.0.1", "SHROTA_PORT": "0"}, named)
    os._exit(run(settings, lambda settings: pipeline))
