"""Read corpora of the Hugging Face hub, or a local directory of Parquet files, as records.

Audio stays the uploaded bytes, in any format; the service's own decoder reads them later. `datasets` no
longer runs loading scripts. Where a repository has one, the hub's Parquet conversion (revision
`refs/convert/parquet`) is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.engine.languages import LANGUAGE_NAMES
from train.data.filters import DropLog, Reason
from train.data.records import Record, transcript
from train.data.specs import Purpose, SourceSpec
from train.errors import DataError

COMMON_VOICE_MOVED = (
    "Common Voice left the Hugging Face hub for the Mozilla Data Collective: download the tarball of your"
    " language from https://mozilladatacollective.com, unpack it, and name the directory that holds train.tsv"
    " as commonvoice:DIR"
)
_SPLITS: dict[Purpose, str] = {"train": "train", "valid": "validation", "test": "test"}
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How to read a corpus."""

    repo: str
    config: str
    """Name of one language's configuration; `{code}`, `{name}`, `{region}` stand for `mr`, `marathi`,
    `mr_in`."""
    audio: str = "audio"
    text: str = "sentence"
    voice: str | None = None
    splits: Mapping[Purpose, str]
    """Split for each purpose; purposes without one are missing."""
    converted: bool = False
    """Read the hub's Parquet conversion, because the repository holds a loading script."""
    advice: str
    """What the user can do if the corpus cannot be loaded."""


_GATED = "accept its terms on https://huggingface.co/datasets/{repo}, then run `hf auth login`"
_COMMON_VOICE_SPLITS: dict[Purpose, str] = {
    "train": "train+validation",
    "valid": "validation",
    "test": "test",
}
_AI4BHARAT_SPLITS: dict[Purpose, str] = {"train": "train", "valid": "valid", "test": "valid"}


def _common_voice(version: str) -> Preset:
    return Preset(
        repo=f"mozilla-foundation/common_voice_{version}_0",
        config="{code}",
        voice="client_id",
        splits=_COMMON_VOICE_SPLITS,
        advice=COMMON_VOICE_MOVED,
    )


def _ai4bharat(repo: str) -> Preset:
    return Preset(
        repo=repo,
        config="{name}",
        audio="audio_filepath",
        text="text",
        voice="speaker_id",
        splits=_AI4BHARAT_SPLITS,
        advice=_GATED.format(repo=repo),
    )


PRESETS: dict[str, Preset] = {
    "common_voice_11": _common_voice("11"),
    "common_voice_17": _common_voice("17"),
    "fleurs": Preset(
        repo="google/fleurs",
        config="{region}",
        text="transcription",
        splits=_SPLITS,
        converted=True,
        advice="download the language's files from https://huggingface.co/datasets/google/fleurs and name"
        " the directory as folder:DIR",
    ),
    "indicvoices": _ai4bharat("ai4bharat/IndicVoices"),
    "kathbath": _ai4bharat("ai4bharat/Kathbath"),
    "openslr64": Preset(
        repo="openslr/openslr",
        config="SLR64",
        splits={"train": "train"},
        converted=True,
        advice="download mr_in_female.zip and line_index.tsv from https://openslr.org/64, unpack them into"
        " one directory, and name it as folder:DIR",
    ),
}
_REGIONS = {
    region.partition("_")[0].replace("cmn", "zh"): region
    for region in (
        *("am_et", "ar_eg", "cmn_hans_cn", "de_de", "en_us", "es_419", "fa_ir", "fr_fr", "id_id"),
        *("it_it", "ja_jp", "ko_kr", "my_mm", "ne_np", "nl_nl", "pl_pl", "ps_af", "pt_br"),
        *("ru_ru", "sw_ke", "th_th", "tr_tr", "uk_ua", "ur_pk", "vi_vn", "yo_ng", "yue_hant_hk"),
    )
}
"""FLEURS names a language with the country of its recordings; for languages not listed it is India."""

_AUDIO_COLUMNS = ("audio", "audio_filepath", "path", "file")
_TEXT_COLUMNS = ("sentence", "transcription", "text", "transcript")
_VOICE_COLUMNS = ("client_id", "speaker_id", "speaker", "voice")


def read_hub(spec: SourceSpec, purpose: Purpose, language: str, log: DropLog) -> Iterator[Record]:
    """Yield the records of a corpus: a preset, or any repository as `hf:REPO[:CONFIG]`.

    Raises:
        DataError: The corpus cannot be loaded, or its columns are unknown; the message says what to do.
    """
    if spec.kind == "preset" and spec.location == "common_voice":
        raise DataError(COMMON_VOICE_MOVED)
    preset = PRESETS[spec.location] if spec.kind == "preset" else None
    splits = spec.split or (preset.splits if preset else _SPLITS).get(purpose)
    if splits is None:
        raise DataError(f"{spec.location} has no part for {purpose}; choose one with ?split=NAME")
    for split in splits.split("+"):
        label, rows = _open(spec, preset, split, spec.language or language)
        yield from _records(rows, preset, f"{label}/{split}", spec.language or language, log)


def _open(spec: SourceSpec, preset: Preset | None, split: str, language: str) -> tuple[str, Any]:
    """Return a label for messages, and the rows of one split with undecoded audio."""
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "corpora of the hub need the package `datasets`: pip install 'shrota[hub]'"
        ) from error
    options: dict[str, Any] = {}
    if preset:
        repo = spec.repo or preset.repo
        config = _config_name(preset.config, language)
        if preset.converted:
            options["data_dir"] = config
            options["revision"] = None if spec.repo else _CONVERTED
        else:
            options["name"] = config
        label = f"{spec.location}:{config}"
    else:
        repo, _, config = spec.location.partition(":")
        options["name"] = config or None
        label = spec.location
    if "name" in options and Path(repo).is_dir():  # in a directory of Parquet files, parts are directories
        options["data_dir"] = options.pop("name")
    try:
        rows = datasets.load_dataset(repo, split=split, streaming=spec.streaming, **options)
        audio = _column(rows.column_names, preset.audio if preset else None, _AUDIO_COLUMNS, label, "audio")
        return label, rows.cast_column(audio, datasets.Audio(decode=False))
    except DataError:
        raise
    # `datasets` raises whatever errors the network, the hub, the cache or the file format raise.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        advice = (
            f"; {preset.advice}" if preset else f"; is {repo} its name, and have you run `hf auth login`?"
        )
        raise DataError(f"{label}, split {split}, cannot be loaded: {reason}{advice}") from error


def _records(rows: Any, preset: Preset | None, label: str, language: str, log: DropLog) -> Iterator[Record]:
    names = list(rows.column_names)
    audio_name = _column(names, preset.audio if preset else None, _AUDIO_COLUMNS, label, "audio")
    text_name = _column(names, preset.text if preset else None, _TEXT_COLUMNS, label, "text")
    voice_name = (preset.voice if preset else None) or next((n for n in _VOICE_COLUMNS if n in names), None)
    kept = {audio_name, text_name, *([voice_name] if voice_name in names else [])}
    for number, row in enumerate(rows.select_columns([name for name in names if name in kept]), 1):
        origin = f"{label}:{number}"
        audio = row[audio_name] or {}
        if not audio.get("bytes") and not audio.get("path"):
            log.drop(Reason.MISSING, origin, "the row holds no audio")
            continue
        voice = row.get(voice_name) if voice_name else None
        yield Record(
            audio=audio.get("bytes") or Path(audio["path"]),
            text=transcript(row[text_name] or ""),
            origin=origin,
            language=language,
            voice=None if voice is None else str(voice),
            source=label.partition("/")[0],
        )


def _column(
    names: list[str] | None, wanted: str | None, usual: tuple[str, ...], label: str, what: str
) -> str:
    candidates = [wanted] if wanted else usual
    found = next((name for name in candidates if name in (names or [])), None)
    if found is None:
        listed = ", ".join(names or ["none"])
        raise DataError(
            f"{label}: no column holds {what}; there are {listed}, expected {' or '.join(candidates)}"
        )
    return found


def _config_name(template: str, language: str) -> str:
    name = re.sub(r"\W+", "_", LANGUAGE_NAMES.get(language, language))
    return template.format(code=language, name=name, region=_REGIONS.get(language, f"{language}_in"))
