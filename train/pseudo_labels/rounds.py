"""Train on a model's own transcripts, round after round: `shrota selftrain`.

    transcribe twice, once with noise -> select -> train further -> score on people -> keep the better one

Each round has a directory, and what lies there already is not done again, so the same command resumes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serve.config.command_line import Command, config_flag, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer
from serve.errors import ConfigError
from train.config import TrainConfig, dump_config, load_config
from train.data.records import language_faults, row_language
from train.errors import TrainError
from train.pseudo_labels.selection import Criteria, Selection

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from train.evaluate.evaluation import Results
    from train.examples.corpus import EvaluationSet

TRAINER = Path(__file__).parents[1] / "run.py"
SUMMARY = "selftrain.json"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The recordings, the adapter to begin with, and who judges."""

    recordings: tuple[str, ...]
    """Recordings, folders of them, or quoted patterns."""
    config: Path
    """File of a training configuration; its own train_data are trained on as well."""
    model_dir: Path
    """Artifact to begin with."""
    people: tuple[str, ...]
    """Test set that decides: a new adapter is kept if it makes fewer word errors there. May be given several
    times."""
    also: tuple[str, ...] = ()
    """Test set that is only reported; may be given several times."""
    output_dir: Path
    """Directory of the rounds."""
    rounds: int = 1
    """Rounds; the first that brings no better adapter is the last."""
    language: str | None = None
    """Language code of the recordings; that of the configuration by default."""
    weight: float = 1.0
    """How often a transcript is heard in an epoch."""
    noise_db: float = 15.0
    """Speech over the noise that is added for the second transcript, in decibels."""
    keep: Criteria = field(default_factory=Criteria)

    def __post_init__(self) -> None:
        """Refuse invalid values.

        Raises:
            ConfigError: Lists every fault.
        """
        rules = (
            (self.rounds > 0, "--rounds is above 0"),
            (self.weight > 0, "--weight is above 0"),
            (bool(self.people), "--people names at least one test set"),
        )
        faults = [fault for holds, fault in rules if not holds] + language_faults(self.language)
        if faults:
            raise ConfigError(faults)


def read_wanted(flags: Mapping[str, Any]) -> Wanted:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(Wanted, flag_layer(flags), {"recordings": "recordings or a folder of them"})


def selftrain(wanted: Wanted) -> int:
    """Go round, print what each round brought, and return the exit status."""
    from rich.console import Console

    from serve.model.durable_write import write_whole
    from train.data.sources import read_held_out
    from train.evaluate.evaluation import evaluate_artifact
    from train.examples.corpus import load_evaluation_set
    from train.pseudo_labels.origin import require_same_rounds
    from train.report.results import EVALUATION

    console = Console(stderr=True)
    config = replace(
        load_config(wanted.config), test_data=(*wanted.people, *wanted.also), evaluate_base=False
    )
    tests = [
        load_evaluation_set(name, config.language, wanted.output_dir / "prepared")
        for name in config.test_data
    ]
    held_out = read_held_out(config.test_data, "test", config.language)
    recordings = find_recordings(wanted.recordings)
    require_same_rounds(wanted, config, recordings, tests)
    adapter, rounds = wanted.model_dir, []
    scored = wanted.output_dir / "before.json"
    if not scored.is_file():
        before = evaluate_artifact(adapter, config, tests, console)
        write_whole(scored, json.dumps(before, ensure_ascii=False).encode())
    before = json.loads(scored.read_text(encoding="utf-8"))
    for number in range(1, wanted.rounds + 1):
        directory = wanted.output_dir / f"round-{number}"
        selection = choose(wanted, config, adapter, recordings, directory, held_out, console)
        if not selection.kept:
            raise TrainError(
                f"round {number} has no transcript to train on: loosen --keep.min-logprob or --keep.max-cer"
            )
        trained = train_further(wanted, config, adapter, directory)
        after = json.loads((directory / "train" / EVALUATION).read_text(encoding="utf-8"))["results"]
        verdict = judge(before, after, tests[: len(wanted.people)])
        rounds.append({"selection": selection.as_dict(), **verdict, "scores": score_rows(before, after)})
        console.print(gain_table(rounds[-1]["scores"], number))
        if not verdict["kept"]:
            console.print(f"round {number} makes no fewer word errors on people: its adapter is left")
            break
        adapter, before = trained, after
    summary = {"adapter": str(adapter), "rounds": rounds}
    write_whole(
        wanted.output_dir / SUMMARY, (json.dumps(summary, ensure_ascii=False, indent=1) + "\n").encode()
    )
    console.print(f"the best adapter is {adapter}")
    return 0


def find_recordings(names: tuple[str, ...]) -> list[Path]:
    """Return the recordings that names match.

    Raises:
        ConfigError: A name matches none.
    """
    from serve.transcribe.files import find_files

    found, unknown = find_files(names)
    if unknown:
        raise ConfigError([f"{each.name}: {each.sentence}" for each in unknown])
    return [each.path for each in found]


def choose(
    wanted: Wanted,
    config: TrainConfig,
    adapter: Path,
    recordings: list[Path],
    directory: Path,
    held_out: Any,
    console: Console,
) -> Selection:
    """Transcribe all recordings twice and write the manifest of what both agree on."""
    from train.pseudo_labels.__main__ import choose_into
    from train.pseudo_labels.hearing import transcribe_into

    directory.mkdir(parents=True, exist_ok=True)
    language = row_language(wanted.language) or config.language
    outputs = directory / "heard.jsonl", directory / "heard-in-noise.jsonl"
    for output, noise_db in zip(outputs, (None, wanted.noise_db), strict=True):
        if not output.exists():
            faults = transcribe_into(output, adapter, recordings, language, noise_db, config.n_threads)
            if faults and noise_db is None:
                console.print(
                    f"{len(faults)} of {len(recordings)} recordings cannot be decoded, such as {faults[0]}"
                )
    return choose_into(directory / "pseudo.jsonl", outputs, wanted.keep, language, held_out, console)


def train_further(wanted: Wanted, config: TrainConfig, adapter: Path, directory: Path) -> Path:
    """Train the adapter further in a process of its own, and return the artifact.

    Raises:
        TrainError: Training failed.
    """
    from train.report.results import EVALUATION

    chosen = f"{directory / 'pseudo.jsonl'}?weight={wanted.weight:g}&label=pseudo"
    run = replace(
        config,
        output_dir=directory / "train",
        continue_from=adapter,
        train_data=(*config.train_data, chosen),
        publish_to=None,
    )
    artifact = run.output_dir / "artifact"
    if not (run.output_dir / EVALUATION).is_file():
        file = directory / "train.yaml"
        file.write_text(dump_config(run), encoding="utf-8")
        status = subprocess.run([sys.executable, str(TRAINER), "--config", str(file)], check=False).returncode
        if status or not (run.output_dir / EVALUATION).is_file():
            raise TrainError(
                f"training ended with status {status}; the same command goes on from its checkpoint"
            )
    return artifact


def judge(before: Results, after: Results, people: list[EvaluationSet]) -> dict[str, Any]:
    """Return how word errors on people changed, all their sets together, and whether that is better."""
    from train.evaluate.evaluation import word_errors
    from train.evaluate.scoring import compare

    errors = [
        np.vstack([word_errors(each[test.name]["tuned"]) for test in people]) for each in (before, after)
    ]
    found = compare(*errors)
    return {"kept": found.difference < 0, "people": {k: round(v, 5) for k, v in asdict(found).items()}}


def score_rows(before: Results, after: Results) -> list[dict[str, Any]]:
    """Return WER and CER of each test set before and after, as fractions."""
    rows = []
    for name, models in after.items():
        profile = models["tuned"]["profile"]
        old, new = (each[name]["tuned"]["scores"][profile] for each in (before, after))
        values = {
            f"{rate}_{when}": s[rate]
            for rate in ("wer", "cer")
            for when, s in (("before", old), ("after", new))
        }
        rows.append({"set": name, "clips": old["utterances"], **values})
    return rows


def gain_table(rows: list[dict[str, Any]], number: int) -> Table:
    """Return a table of error rates in percent."""
    from rich.table import Table

    table = Table(title=f"round {number}")
    table.add_column("test set")
    for name in ("clips", "WER before", "after", "CER before", "after"):
        table.add_column(name, justify="right")
    for row in rows:
        rates = (row[key] for key in ("wer_before", "wer_after", "cer_before", "cer_after"))
        table.add_row(row["set"], str(row["clips"]), *(f"{100 * rate:.1f}" for rate in rates))
    return table


command = Command(
    "selftrain",
    read=read_wanted,
    run=selftrain,
    about="""Train an adapter further on its own transcripts of recordings that nobody has written down.

A round transcribes every recording as it is and with noise, keeps what the model was sure of and heard both
times, trains further on that and on the configuration's own data, and scores both adapters on people. The new
one is kept if it makes fewer word errors there. The same command resumes.""",
    examples="""\
shrota selftrain calls/ --config FILE --model-dir DIR --people people.jsonl --output-dir runs/self
shrota selftrain radio/ --config FILE --model-dir DIR --people a.jsonl --output-dir OUT --rounds 3
""",
    flags=[
        config_flag("File of a training configuration; its own train_data are trained on as well."),
        *flags_of(
            Wanted,
            [name for name in keys_of(Wanted) if name not in ("recordings", "config")],
            bare=True,
            repeated=True,
        ),
    ],
    words="recordings",
    many_words=True,
    needs="train",
)
