"""Hours of sound in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

TRANSCRIBE = """
import json, resource, sys
from pathlib import Path
import numpy as np
from serve.engine.transformers.engine import TransformersEngine
from serve.audio.features import FeatureExtractor
from serve.pipeline import Pipeline, ServingFacts
from serve.audio.recording import Recording

def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

base_dir, speech = Path(sys.argv[1]), np.load(sys.argv[2])
engine = TransformersEngine.load(base_dir, quantization="none", dynamic=True)
# A window of the speech's own length is far cheaper than one of 30 s.
facts = ServingFacts(adapter_name="none at all", language="mr", dynamic=True, max_window_s=12.0)
pipeline = Pipeline(engine, FeatureExtractor(base_dir), facts)
minute = np.concatenate([speech, np.zeros(60 * 16_000 - len(speech), np.float32)])
found = {}
for minutes in (10, 180):
    *events, end = pipeline.transcribe(Recording(minute[None].copy() for _ in range(minutes)))
    duration_s = end.transcript.duration_s
    found[minutes] = {"peak_bytes": peak_bytes(), "duration_s": duration_s, "n_events": len(events)}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_three_hours_take_the_memory_of_ten_minutes(tiny_base_dir, speech, tmp_path):
    import numpy as np

    np.save(tmp_path / "speech.npy", speech)
    command = [sys.executable, "-c", TRANSCRIBE, str(tiny_base_dir), str(tmp_path / "speech.npy")]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True)
    short, long = json.loads(child.stdout.splitlines()[-1]).values()
    assert (short["duration_s"], long["duration_s"]) == (600.0, 10_800.0)
    assert short["n_events"] == 11 and long["n_events"] == 181, "a start, and a segment a minute"
    grown_bytes = long["peak_bytes"] - short["peak_bytes"]
    assert grown_bytes < 30_000_000, "the samples alone take 690 MB"
