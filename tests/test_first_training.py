"""The whole line of training: text is spoken, ten steps train an 8-bit base, the result is served."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEVANAGARI = re.compile(r"[\u0900-\u097f]")


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    run = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Forty everyday sentences, and four of each held-out set."""
    directory = tmp_path_factory.mktemp("corpus")
    sizes = ["--everyday", "40", "--catalogue", "0", "--exchanged", "0", "--words", "0"]
    sizes += ["--kokoro", "0", "--piper", "0", "--hindi", "0", "--test", "4"]
    run_python("-m", "train.command_line", "data", "--output-dir", str(directory), *sizes)
    return directory


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory) -> tuple[Path, str]:
    """The run directory after the one command of an engineer, and what the command printed."""
    run_dir = tmp_path_factory.mktemp("run")
    manifests = {
        "train_data": corpus / "train.jsonl",
        "valid_data": corpus / "valid.jsonl",
        "test_data": corpus / "test-everyday.jsonl",
    }
    options = {**manifests, "output_dir": run_dir, "max_eval_clips": 2}
    overrides = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    run = run_python("train/run.py", "--config", "train/configs/smoke.yaml", *overrides)
    return run_dir, run.stderr


def test_ten_steps_lower_the_loss_on_training_and_on_unseen_sentences(trained):
    run_dir, _ = trained
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    unseen = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert len(losses) == 10 and len(unseen) == 2
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert unseen[1] < unseen[0]


def test_the_artifact_says_how_it_was_made_and_how_well_it_hears(trained):
    run_dir, printed = trained
    manifest = json.loads((run_dir / "artifact" / "manifest.json").read_text())
    assert manifest["name"] == "smoke" and manifest["language"] == "mr"
    assert manifest["training"]["steps"] == 10 and manifest["training"]["quantization"] == "int8"
    scores = manifest["evaluation"]["test-everyday"]
    fidelity = {label: scores[label]["scores"]["raw"]["script_fidelity"] for label in ("base", "tuned")}
    assert fidelity["base"] < 0.5 < fidelity["tuned"]  # Devanagari is the first thing it learns
    assert (run_dir / "artifact" / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
    assert "test-everyday" in (run_dir / "artifact" / "README.md").read_text("utf-8")
    page = (run_dir / "report" / "index.html").read_text("utf-8")
    assert "Test set test-everyday" in page and "data:image/png;base64," in page
    assert "base in int8" in printed and "test-everyday" in printed and "Warning" not in printed


def test_a_child_process_serves_the_artifact_and_answers_in_devanagari(trained, corpus, served):
    run_dir, _ = trained
    clip = json.loads((corpus / "test-everyday.jsonl").read_text("utf-8").splitlines()[0])
    with served(run_dir / "artifact") as client:
        answer = client.post("/invocations", content=(corpus / clip["audio"]).read_bytes())
    assert answer.status_code == 200, answer.text
    assert DEVANAGARI.search(answer.json()["text"])
