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


LIBRARY = """
import os
from serve.config.logs import configure_logs, keep_libraries_out
import structlog

keep_libraries_out()
configure_logs("debug")
os.write(2, b"[src/libmpg123/layer3.c] error: bits missing\\n" + b"x" * 5_000)
structlog.get_logger("ours").info("said")
os.close(2)
import threading
[thread.join() for thread in threading.enumerate() if thread.name == "library-log"]
"""


def test_what_a_library_writes_to_standard_error_becomes_lines_of_json():
    child = subprocess.run([sys.executable, "-c", LIBRARY], cwd=ROOT, capture_output=True, text=True)
    lines = [json.loads(line) for line in child.stderr.splitlines()]
    said = [line["line"] for line in lines if line["event"] == "library"]
    assert said[0].endswith("bits missing")
    assert all(len(line) <= 1_024 for line in said)
    assert [line["logger"] for line in lines if line["event"] == "said"] == ["ours"]
