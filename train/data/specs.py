"""Names of speech sources, for configurations and command lines.

    data/mr/train.jsonl            a JSONL manifest (also manifest:PATH)
    commonvoice:DIR                a Common Voice release as downloaded
    folder:DIR                     audio files with transcripts beside them or in one table
    hf:REPO[:CONFIG]               a dataset of the Hugging Face hub, or a local directory of Parquet files
    fleurs, kathbath, ...          a corpus of the hub whose columns are known
    shards:DIR                     what `shrota prepare` wrote
    channel:NAME                   an input channel of a SageMaker training job

Each may carry options: `?split=train+validation&language=mr&streaming=true&strict=false&repo=MIRROR`, and
`&kind=people&weight=3&augment=0.5&label=news`: who speaks, how often its clips are heard, how many of them
augmented, and its name in tables. Opens nothing.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal
from urllib.parse import parse_qsl

from serve.engine.languages import LANGUAGE_NAMES
from train.data.records import VoiceKind
from train.errors import DataError

Purpose = Literal["train", "valid", "test"]
"""Use of the clips, which decides the split where a source names none."""
PRESETS = (
    "common_voice",
    "common_voice_11",
    "common_voice_17",
    "fleurs",
    "indicvoices",
    "kathbath",
    "openslr64",
)
KINDS = ("manifest", "commonvoice", "folder", "hf", "shards", "channel")
_OPTIONS = ("split", "language", "streaming", "strict", "repo", "kind", "weight", "augment", "label")
_FIELDS = {"kind": "speakers"}  # option -> field, where they differ
_USUAL = (("streaming", False), ("weight", 1.0), ("augment", 1.0))  # not written
MAX_WEIGHT = 1_000.0
"""Highest weight of a source."""


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A parsed source name."""

    kind: str
    """One of `KINDS`, or `preset`."""
    location: str
    """Path, repository, channel, or name of a preset."""
    split: str | None = None
    """Splits joined by `+`; None lets the purpose decide."""
    language: str | None = None
    """Whisper's code; None takes the run's language."""
    streaming: bool = False
    """Stream from the hub instead of downloading first."""
    strict: bool | None = None
    """Whether the first bad row is an error; None lets the program decide."""
    repo: str | None = None
    """Repository or directory to read instead of a preset's own."""
    speakers: VoiceKind | None = None
    """Default kind of voice of its rows; None is people in corpora known for that, else unknown."""
    weight: float = 1.0
    """How often each clip is heard in an epoch of training: 3, or 0.2 for one epoch in five."""
    augment: float = 1.0
    """Share of its clips that the configuration's `augment` may change; the rest stay as they are."""
    label: str | None = None
    """Name in tables; None derives one. Validation sources with one label are scored together."""

    @property
    def clips_alone(self) -> SourceSpec:
        """The spec without the options on its use: what decides which clips these are."""
        return replace(self, weight=1.0, augment=1.0, label=None)

    @property
    def name(self) -> str:
        """Short name for tables and directories: `test-everyday`, `commonvoice-mr-test`, or the label."""
        if self.label:
            return self.label
        if self.kind == "manifest":
            return PurePath(self.location).stem
        words = [*([] if self.kind == "preset" else [self.kind]), *PurePath(self.location).parts[-1:]]
        parts = [*words, self.split, self.language if self.kind == "preset" else None]
        return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part)).strip("-")

    def __str__(self) -> str:
        """Return the source's name with its options in a fixed order."""
        named = {name: getattr(self, _FIELDS.get(name, name)) for name in _OPTIONS}
        texts = [
            f"{name}={_as_option(value)}"
            for name, value in named.items()
            if value is not None and (name, value) not in _USUAL
        ]
        head = self.location if self.kind == "preset" else f"{self.kind}:{self.location}"
        return head + (f"?{'&'.join(texts)}" if texts else "")


def parse_spec(text: str) -> SourceSpec:
    """Parse a source's name.

    Raises:
        DataError: The name is invalid; the message says what is allowed.
    """
    body, _, query = text.strip().partition("?")
    head, colon, rest = body.partition(":")
    if colon and head in KINDS:
        kind, location = head, rest
    elif body in PRESETS:
        kind, location = "preset", body
    elif body.endswith((".jsonl", ".json")):
        kind, location = "manifest", body
    else:
        known = ", ".join([*(f"{kind}:..." for kind in KINDS), *PRESETS])
        raise DataError(
            f"'{text}' is not a source of clips; write the path of a .jsonl manifest, or one of {known}"
        )
    if not location:
        raise DataError(f"'{text}' lacks what comes after '{kind}:'")
    values = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    if unknown := [name for name in values if name not in _OPTIONS]:
        raise DataError(f"'{text}': unknown option '{unknown[0]}'; known are {', '.join(_OPTIONS)}")
    if (language := values.get("language")) is not None and language not in LANGUAGE_NAMES:
        raise DataError(f"'{text}': '{language}' is not a language code of Whisper, such as mr or hi")
    return SourceSpec(
        kind=kind,
        location=location,
        split=values.get("split"),
        language=language,
        streaming=bool(_flag(values, "streaming", text)),
        strict=_flag(values, "strict", text),
        repo=values.get("repo"),
        speakers=_speakers(values.get("kind"), text),
        weight=_weight(values.get("weight", "1"), text),
        augment=_share(values.get("augment", "1"), text),
        label=_label(values.get("label"), text),
    )


def _as_option(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _weight(written: str, text: str) -> float:
    weight = _number(written)
    if not 0 < weight <= MAX_WEIGHT:
        raise DataError(f"'{text}': weight is a number above 0, and at most {MAX_WEIGHT:g}, not '{written}'")
    return weight


def _share(written: str, text: str) -> float:
    share = _number(written)
    if not 0 <= share <= 1:
        raise DataError(f"'{text}': augment is a share of the clips, from 0 to 1, not '{written}'")
    return share


def _number(written: str) -> float:
    try:
        return float(written)
    except ValueError:
        return math.nan


def _label(written: str | None, text: str) -> str | None:
    if written is not None and not re.fullmatch(r"[\w.-]+", written):
        raise DataError(f"'{text}': label is a word of letters, digits, '.', '-' and '_', not '{written}'")
    return written


def _speakers(written: str | None, text: str) -> VoiceKind | None:
    known: tuple[VoiceKind, ...] = ("people", "neural", "diphone", "formant")
    found = next((kind for kind in known if kind == written), None)
    if written is not None and found is None:
        raise DataError(f"'{text}': kind is who speaks, one of {', '.join(known)}, not '{written}'")
    return found


def _flag(values: dict[str, str], name: str, text: str) -> bool | None:
    if name not in values:
        return None
    if values[name] not in ("true", "false"):
        raise DataError(f"'{text}': {name} is true or false")
    return values[name] == "true"
