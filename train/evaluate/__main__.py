"""Score an artifact, or a base model alone: `shrota evaluate`, also `python -m train.evaluate`.

Test sets have the names of `train.data.specs`, and are transcribed by the serving pipeline. A clip's language
is that of its row, else of its source, else `--language`. The JSON holds `summary`, flat rows with people
first, and `results`, everything by test set and model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.config.command_line import Command, exit_with, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer, flag_names, flag_of
from serve.engine import EngineName, Quantization
from serve.errors import ConfigError
from train.config import TrainConfig
from train.data.normalise import PROFILES
from train.data.records import language_faults, row_language

if TYPE_CHECKING:
    from train.examples.corpus import EvaluationSet


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What to score, on what, and where to write the results."""

    manifest: tuple[str, ...]
    """FILE.jsonl or any other source, such as fleurs; may be given several times."""
    model_dir: Path | None = None
    """Artifact, or base model directory."""
    base_model: str | None = None
    """Base model to score alone, or to combine with the artifact."""
    language: str | None = None
    """Language of clips whose row and source name none; the artifact's by default."""
    against_base: bool = False
    """Also score the base model alone."""
    profile: tuple[str, ...] = ()
    """Normalisation profile, such as raw, nfc, indic or marathi. May be given several times; the last one
    scores single utterances and groups. By default raw and marathi, which is indic for other languages."""
    engine: EngineName = "auto"
    """Runtime; auto takes ctranslate2, or transformers for int4."""
    quantization: Quantization = "int8"
    """int8 as in serving, int4 or none."""
    max_clips: int = 0
    """Score at most this many clips of each manifest; 0 scores all."""
    seed: int = 0
    """Seed of the bootstrap intervals."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    skip_bad: bool = False
    """Drop and count bad rows, instead of stopping at the first."""
    prepare_dir: Path = Path("data/prepared")
    """Directory to decode sources into that are neither manifests nor shards."""
    json: Path | None = None
    """File for scores and every utterance, as JSON."""
    markdown: Path | None = None
    """File for tables, as Markdown."""
    report: Path | None = None
    """Directory for tables, scores as JSON, and pictures as PNG."""

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            ConfigError: Lists every fault.
        """
        counts = ("max_clips", "seed", "threads")
        faults = [f"{flag_of(name)} must be at least 0" for name in counts if getattr(self, name) < 0]
        unknown = [name for name in self.profile if name not in PROFILES]
        faults += [f"--profile: '{name}' is not one of {', '.join(PROFILES)}" for name in unknown]
        faults += language_faults(self.language)
        if faults:
            raise ConfigError(faults)


def read_evaluation(flags: Mapping[str, Any]) -> Evaluation:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Evaluation, flag_layer(flags), flag_names(keys_of(Evaluation)))


def evaluate(wanted: Evaluation) -> int:
    """Score, print tables, write the requested files, and return the exit status."""
    from rich.console import Console

    from serve.options import TranscriptionOptions
    from serve.service.loading import load_pipeline
    from train.evaluate.evaluation import REPORTED_PROFILES, evaluate_models, report_left_out
    from train.evaluate.tables import comparison_rows, score_table, voices_note

    _make_places(wanted)
    code = row_language(wanted.language) or _language_of(wanted.model_dir)
    tests = _load_tests(wanted, code)
    pipeline = load_pipeline(
        wanted.model_dir,
        wanted.base_model,
        engine=wanted.engine,
        quantization=wanted.quantization,
        n_threads=wanted.threads or os.cpu_count() or 1,
    )
    results = evaluate_models(
        pipeline,
        tests,
        TranscriptionOptions(language=code),
        against_base=wanted.against_base,
        profiles=tuple(dict.fromkeys(wanted.profile or REPORTED_PROFILES)),
        seed=wanted.seed,
        max_clips=wanted.max_clips,
    )
    console = Console()
    console.print(score_table(results))
    console.print(voices_note(results))
    report_left_out(tests, console)
    for test_set, difference, clips in comparison_rows(results):
        console.print(
            f"{test_set}: WER of tuned minus base {difference}; better / worse / same clips: {clips}"
        )
    _write_results(wanted, results)
    return 0


def _load_tests(wanted: Evaluation, code: str) -> list[EvaluationSet]:
    """Load the test sets; `code` is the language of those that name none.

    Raises:
        ConfigError: Two test sets have the same name.
    """
    from train.examples.corpus import load_evaluation_set

    tests = [
        load_evaluation_set(text, code, wanted.prepare_dir, strict=not wanted.skip_bad)
        for text in wanted.manifest
    ]
    if len({test.name for test in tests}) < len(tests):
        raise ConfigError(["manifests must differ in their names: scores are listed by them"])
    return tests


def _language_of(model_dir: Path | None) -> str:
    """Return an artifact's language, for sources that name none."""
    from serve.model.artifact import MANIFEST, find_root, load_manifest

    root = model_dir and find_root(model_dir)
    if root is not None and (root / MANIFEST).is_file():
        return load_manifest(root).language or TrainConfig.language
    return TrainConfig.language


def _make_places(wanted: Evaluation) -> None:
    """Make the directories of the results, which may take hours.

    Raises:
        ConfigError: Names each place where none can be written.
    """
    directories = {name: path.parent for name in ("json", "markdown") if (path := getattr(wanted, name))}
    if wanted.report:
        directories["report"] = wanted.report
    faults = [
        f"{flag_of(name)} {path} is a directory: name a file"
        for name in ("json", "markdown")
        if (path := getattr(wanted, name)) and path.is_dir()
    ]
    for name, directory in directories.items():
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            faults.append(f"{flag_of(name)}: {directory} cannot be made a directory: {error.strerror}")
            continue
        if not os.access(directory, os.W_OK):
            faults.append(f"{flag_of(name)}: nothing can be written into {directory}")
    if faults:
        raise ConfigError(faults)


def _write_results(wanted: Evaluation, results: dict[str, Any]) -> None:
    from serve.model.durable_write import write_whole
    from train.evaluate.findings import draw_findings, findings_markdown
    from train.evaluate.tables import score_summary

    record = {
        "model_dir": str(wanted.model_dir) if wanted.model_dir else None,
        "base_model": wanted.base_model,
        "engine": wanted.engine,
        "quantization": wanted.quantization,
        "seed": wanted.seed,
        "summary": score_summary(results),
        "results": results,
    }
    report = wanted.report
    scores = json.dumps(record, ensure_ascii=False, indent=1) + "\n"
    for path in (wanted.json, report and report / "evaluation.json"):
        if path:
            write_whole(path, scores.encode())
    for path in (wanted.markdown, report and report / "evaluation.md"):
        if path:
            write_whole(path, findings_markdown(results, seed=wanted.seed).encode())
    if report:
        draw_findings(results, report, seed=wanted.seed)


command = Command(
    "evaluate",
    read=read_evaluation,
    run=evaluate,
    about="Score a model on test sets through the serving pipeline: WER, CER, confusions and worst clips.",
    examples="""\
shrota evaluate --model-dir DIR --manifest data/mr/test-everyday.jsonl
shrota evaluate --model-dir DIR --manifest FILE.jsonl --against-base --report DIR
shrota evaluate --model-dir DIR --manifest A.jsonl --manifest 'B.jsonl?language=hi&kind=people'
shrota evaluate --base-model openai/whisper-base --manifest FILE.jsonl --language mr
""",
    flags=flags_of(Evaluation, bare=True, repeated=True, choices={"profile": tuple(PROFILES)}),
    needs="train",
)


if __name__ == "__main__":
    exit_with(command)
