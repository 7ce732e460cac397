"""A child process that holds one peer: reads a path per line, writes text and time per line.

    python -m bench.serving.worker '{"peer": "ours", "artifact_dir": ..., ...}'

The process is the peer's alone, for memory and threads. Only the call is timed, on a recording in memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from bench.serving.peers import PEERS, Job
from bench.serving.recordings import read_samples


def main() -> None:
    """Load the peer, report it, and answer until standard input ends."""
    replies = claim_stdout()
    options = json.loads(sys.argv[1])
    peer = PEERS[options.pop("peer")]
    artifact_dir, weights = Path(options.pop("artifact_dir")), Path(options.pop("weights"))
    transcribe = peer.load(Job(artifact_dir=artifact_dir, weights=weights, **options))
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        samples = read_samples(Path(line.rstrip("\n")))
        started = time.perf_counter()
        text = transcribe(samples)
        seconds = time.perf_counter() - started
        answer = {"text": " ".join(text.split()), "seconds": seconds, "peak_gib": peak_gib()}
        print(json.dumps(answer), file=replies, flush=True)


def claim_stdout() -> TextIO:
    """Return standard output for answers; redirect what libraries print to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def peak_gib() -> float:
    """Return the peak memory of this process, in GiB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 2**20


if __name__ == "__main__":
    main()
