"""What a process logs, in a child of its own: logging is set up once for all of it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

DYING_THREAD = """
import threading
from serve.config.logs import configure_logs

configure_logs("info")
thread = threading.Thread(target=lambda: 1 / 0, name="free-adapter")
thread.start()
thread.join()
"""


def test_the_error_that_ends_a_thread_is_logged_though_nobody_waits_for_it():
    child = subprocess.run([sys.executable, "-c", DYING_THREAD], cwd=ROOT, capture_output=True, text=True)
    (line,) = [json.loads(line) for line in child.stderr.splitlines()]
    assert (line["event"], line["thread"], line["error"]) == (
        "thread.failed",
        "free-adapter",
        "ZeroDivisionError",
    )
    assert "division by zero" in line["exception"]
