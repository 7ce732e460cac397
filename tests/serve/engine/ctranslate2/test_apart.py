"""Models are converted in a process of their own, and its faults arrive as ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from serve.engine.ctranslate2.apart import convert_apart
from serve.errors import ConversionError

CONVERT = """
import sys, json
from pathlib import Path
from serve.engine.ctranslate2.merging import converted_model
made = converted_model(Path(sys.argv[1]), None, "int8", cache_dir=Path(sys.argv[2]))
print(json.dumps([str(made), [name for name in ("torch", "transformers", "peft") if name in sys.modules]]))
"""


def test_whoever_asks_for_a_model_imports_nothing_to_make_it(tiny_base_dir, tmp_path):
    command = [sys.executable, "-c", CONVERT, str(tiny_base_dir), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made, imported = json.loads(done.stdout.splitlines()[-1])
    assert imported == []
    assert (Path(made) / "model.bin").stat().st_size > 10_000


def test_what_cannot_be_converted_is_told_in_the_same_sentence(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConversionError, match="empty"):
        convert_apart(empty, None, "int8", tmp_path / "into")


def test_a_process_that_is_ended_is_told_of(tiny_base_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConversionError, match="ended early"):
        convert_apart(tiny_base_dir, None, "int8", tmp_path / "into")
