"""Names of speech sources, as people write them in configurations and on command lines.

    data/mr/train.jsonl            a JSONL manifest (also manifest:PATH)
    commonvoice:DIR                a Common Voice release as downloaded
    folder:DIR                     audio files with transcripts beside them or in one table
    hf:REPO[:CONFIG]               a dataset of the Hugging Face hub, or a local directory of Parquet files
    fleurs, kathbath, ...          a corpus of the hub whose columns are known
    shards:DIR                     what `shrota prepare` wrote
    channel:NAME                   an input channel of a SageMaker training job

Each may carry options: `?split=train+validation&language=mr&streaming=true&strict=false&repo=MIRROR`. Opens
nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal
from urllib.parse import parse_qsl

from serve.engine.languages import LANGUAGE_NAMES
from train.errors import DataError

Purpose = Literal["train", "valid", "test"]
"""What clips are wanted for: it decides which split is read where a source names none."""
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
_OPTIONS = ("split", "language", "streaming", "strict", "repo")


@dataclass(frozen=True, kw_only=True)
class SourceSpec:
    """A parsed name of a source."""

    kind: str
    """One of `KINDS`, or `preset`."""
    location: str
    """Path, repository, channel or name of a preset."""
    split: str | None = None
    """Splits joined by `+`; None leaves the choice to the purpose."""
    language: str | None = None
    """Whisper's code; None takes the language of the run."""
    streaming: bool = False
    """Read the hub as it is needed instead of downloading first."""
    strict: bool | None = None
    """Whether the first bad row ends the work; None leaves that to the program."""
    repo: str | None = None
    """Repository or directory that stands in for a preset's own."""

    @property
    def name(self) -> str:
        """Short name for tables and directories: `test-everyday`, `commonvoice-mr-test`."""
        if self.kind == "manifest":
            return PurePath(self.location).stem
        words = [*([] if self.kind == "preset" else [self.kind]), *PurePath(self.location).parts[-1:]]
        parts = [*words, self.split, self.language if self.kind == "preset" else None]
        return re.sub(r"[^\w.-]+", "-", "-".join(part for part in parts if part)).strip("-")

    def __str__(self) -> str:
        """Return the name as it would be written, options in a fixed order."""
        named = {name: getattr(self, name) for name in _OPTIONS}
        texts = [
            f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in named.items()
            if value is not None and (name, value) != ("streaming", False)
        ]
        head = self.location if self.kind == "preset" else f"{self.kind}:{self.location}"
        return head + (f"?{'&'.join(texts)}" if texts else "")


def parse_spec(text: str) -> SourceSpec:
    """Return the parts of a source's name.

    Raises:
        DataError: with what is wrong, and what would be right.
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
            f"'{text}' is no source of clips; it is the path of a .jsonl manifest, or one of {known}"
        )
    if not location:
        raise DataError(f"'{text}' lacks what comes after '{kind}:'")
    values = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    if unknown := [name for name in values if name not in _OPTIONS]:
        raise DataError(f"'{text}': unknown option '{unknown[0]}'; known are {', '.join(_OPTIONS)}")
    if (language := values.get("language")) is not None and language not in LANGUAGE_NAMES:
        raise DataError(f"'{text}': '{language}' is no language code of Whisper, such as mr or hi")
    return SourceSpec(
        kind=kind,
        location=location,
        split=values.get("split"),
        language=language,
        streaming=bool(_flag(values, "streaming", text)),
        strict=_flag(values, "strict", text),
        repo=values.get("repo"),
    )


def _flag(values: dict[str, str], name: str, text: str) -> bool | None:
    if name not in values:
        return None
    if values[name] not in ("true", "false"):
        raise DataError(f"'{text}': {name} is true or false")
    return values[name] == "true"
