"""Evaluating a tiny artifact through the serving pipeline, and the command that does it."""

from __future__ import annotations

import json

import pytest

from serve.config.command_line import run_command
from serve.options import NO_ADAPTER, TranscriptionOptions
from serve.service.loading import load_pipeline
from train.evaluate.__main__ import command
from train.evaluate.evaluation import evaluate_models
from train.examples.corpus import load_evaluation_set


def test_base_and_tuned_are_scored_and_compared_on_the_same_clips(tiny_artifact_dir, tiny_manifest, tmp_path):
    tones = load_evaluation_set(str(tiny_manifest), "mr", tmp_path)
    pipeline = load_pipeline(tiny_artifact_dir, quantization="none")
    results = evaluate_models(
        pipeline, [tones], TranscriptionOptions(), against_base=True, profiles=("nfc",), max_clips=3
    )
    pipeline.engine.close()
    models = results["tones"]
    assert list(models) == ["base", "tuned"] and models["tuned"]["profile"] == "nfc"
    assert list(models["tuned"]["scores"]) == ["nfc"]
    row = models["tuned"]["utterances"][0]
    assert row["duration_s"] == pytest.approx(0.7) and len(models["tuned"]["utterances"]) == 3
    assert row["hits"] + row["substitutions"] + row["deletions"] == 3
    found = models["tuned"]["against_base"]
    assert found["better"] + found["worse"] + found["equal"] == 3


def test_the_command_writes_scores_tables_and_pictures(tiny_artifact_dir, tiny_manifest, tmp_path, capsys):
    options = ["--model-dir", str(tiny_artifact_dir), "--manifest", str(tiny_manifest), "--max-clips", "2"]
    options += ["--quantization", "none", "--against-base", "--profile", "raw", "--seed", "3"]
    outputs = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    assert run_command(command, [*options, *outputs, "--report", str(tmp_path / "report")]) == 0
    record = json.loads((tmp_path / "out.json").read_text("utf-8"))
    assert record["seed"] == 3 and len(record["results"]["tones"]["base"]["utterances"]) == 2
    assert record == json.loads((tmp_path / "report" / "evaluation.json").read_text("utf-8"))
    assert (tmp_path / "out.md").read_text() == (tmp_path / "report" / "evaluation.md").read_text()
    assert (tmp_path / "report" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert "tuned minus base" in capsys.readouterr().out


@pytest.fixture
def several(tiny_manifest, tmp_path):
    """Two manifests over the same tones: one by formants, then one by people, half of it in Hindi."""
    rows = [json.loads(line) for line in tiny_manifest.read_text("utf-8").splitlines()[:4]]
    rows = [{**row, "audio": str(tiny_manifest.parent / row["audio"])} for row in rows]
    said = {
        "machine": [{**row, "voice": "espeak-m3"} for row in rows[:2]],
        "people": [
            {**row, "kind": "people", "language": "mr" if number < 2 else "hi"}
            for number, row in enumerate(rows)
        ],
    }
    for name, each in said.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in each)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return [tmp_path / f"{name}.jsonl" for name in said]


def test_each_clip_is_heard_in_its_own_language_by_base_and_tuned(tiny_artifact_dir, several, tmp_path):
    asked = []
    pipeline = load_pipeline(tiny_artifact_dir, quantization="none")
    transcribe = pipeline.transcribe_many

    def noted(waves, options):
        asked.extend((option.language, option.adapter) for option in options)
        return transcribe(waves, options)

    pipeline.transcribe_many = noted
    tests = [load_evaluation_set(str(path), "mr", tmp_path) for path in several]
    results = evaluate_models(pipeline, tests, TranscriptionOptions(language="mr"), against_base=True)
    pipeline.engine.close()
    assert list(results) == ["people", "machine"]  # people first
    of_people = [("mr", NO_ADAPTER)] * 2 + [("hi", NO_ADAPTER)] * 2 + [("mr", None)] * 2 + [("hi", None)] * 2
    assert asked == of_people + [("mr", NO_ADAPTER)] * 2 + [("mr", None)] * 2
    for model in ("base", "tuned"):
        found = results["people"][model]
        assert {code: each["profile"] for code, each in found["by_language"].items()} == {
            "mr": "marathi",
            "hi": "indic",
        }
        assert found["by_kind"]["people"] == found["scores"]["marathi"]
        assert [row["language"] for row in found["utterances"]] == ["mr", "mr", "hi", "hi"]
    assert list(results["machine"]["tuned"]["by_kind"]) == ["formant"]


def test_one_command_scores_several_manifests_in_several_languages(
    tiny_artifact_dir, several, tmp_path, capsys
):
    options = ["--model-dir", str(tiny_artifact_dir), "--quantization", "none", "--against-base"]
    options += [word for path in several for word in ("--manifest", str(path))]
    assert run_command(command, [*options, "--json", str(tmp_path / "out.json")]) == 0
    summary = json.loads((tmp_path / "out.json").read_text("utf-8"))["summary"]
    assert [(row["kind"], row["language"], row["test_set"], row["clips"]) for row in summary] == [
        ("people", "all", "people", 4),
        ("people", "mr", "people", 2),
        ("people", "hi", "people", 2),
        ("formant", "mr", "machine", 2),
    ]
    assert all(row["base"]["cer"] >= 0 and row["tuned"]["cer"] >= 0 for row in summary)
    assert "go by the rows of people" in " ".join(capsys.readouterr().out.split())


def test_a_language_that_whisper_lacks_is_refused(tiny_manifest, capsys):
    assert run_command(command, ["--manifest", str(tiny_manifest), "--language", "klingon"]) == 1
    assert "'klingon' is not a language of Whisper" in capsys.readouterr().err


def test_places_for_results_are_made_before_anything_is_heard(tiny_manifest, tmp_path, capsys):
    (tmp_path / "file").write_text("no directory")
    words = ["--manifest", str(tiny_manifest), "--model-dir", str(tmp_path / "none"), "--json", str(tmp_path)]
    assert run_command(command, [*words, "--report", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert "--json" in said and "is a directory: name a file" in said
    assert "--report" in said and "cannot be made a directory" in said and "none" not in said


def test_the_language_is_that_of_an_artifact_in_a_folder_of_its_archive(
    write_tiny_artifact, tiny_manifest, tmp_path
):
    write_tiny_artifact(tmp_path / "up" / "hi", language="hi")
    words = ["--manifest", str(tiny_manifest), "--model-dir", str(tmp_path / "up"), "--max-clips", "1"]
    assert run_command(command, [*words, "--quantization", "none", "--json", str(tmp_path / "out.json")]) == 0
    (row,) = json.loads((tmp_path / "out.json").read_text("utf-8"))["results"]["tones"]["tuned"]["utterances"]
    assert row["language"] == "hi"


def test_two_test_sets_of_one_name_are_refused(tiny_manifest, capsys):
    twice = ["--manifest", str(tiny_manifest)] * 2
    assert run_command(command, twice) == 1
    assert "differ in their names" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--manifest", "a.jsonl", "--profile", "nonsense"], "nonsense"),
        (["--manifest", "a.jsonl", "--quantization", "int3"], "int3"),
    ],
)
def test_an_option_that_cannot_be_is_named(options, named, capsys):
    assert run_command(command, options) == 1
    assert named in capsys.readouterr().err
