"""The rows of a corpus's results, and their files: JSON lines or Parquet. Knows no storage."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from serve.transcript.events import Transcript
from serve.transcript.wire import SegmentBody, encode_json, transcript_body

ResultFormat = Literal["jsonl", "parquet"]


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Which engine wrote a text, and with which weights."""

    engine: str
    """Runtime and its version, such as `ctranslate2 4.8.5`."""
    quantization: str
    base_fingerprint: str
    """Hash of the base model's weights, which adapters name it by."""
    artifact_sha256: str | None
    """Hash of the artifact's manifest and adapter; None for a base model alone."""


class Row(EngineFacts, frozen=True, kw_only=True):
    """The result of one file."""

    path: str
    """Absolute path or URL."""
    sha256: str
    """Hash of the file's content."""
    n_bytes: int
    duration_s: float
    language: str | None
    """None where there is no speech and no language was requested."""
    language_probability: float | None
    confidence: float | None
    """Mean probability of a token, over all of the text; None where there is none."""
    text: str
    segments: list[SegmentBody]
    """With the fields of the service's JSON: times, language, text and confidences."""


class Quarantined(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file has no result."""

    path: str
    sha256: str | None
    """None where the file cannot be read, or ends whoever reads it."""
    n_bytes: int
    error: str
    """Stable name, such as `undecodable_audio`."""
    message: str


def row_of(path: str, sha256: str, n_bytes: int, transcript: Transcript, facts: EngineFacts) -> Row:
    """Return the row of a transcribed file."""
    body = transcript_body(transcript, None)
    n_tokens = sum(len(segment.tokens) for segment in transcript.segments)
    logprob = sum(segment.avg_logprob * len(segment.tokens) for segment in transcript.segments)
    return Row(
        path=path,
        sha256=sha256,
        n_bytes=n_bytes,
        duration_s=body.duration_s,
        language=body.language,
        language_probability=body.language_probability or None,
        confidence=round(math.exp(logprob / n_tokens), 4) if n_tokens else None,
        text=body.text,
        segments=body.segments,
        **msgspec.structs.asdict(facts),
    )


def encode_rows(rows: Sequence[Row], result_format: ResultFormat) -> bytes:
    """Return the file of some rows."""
    if result_format == "jsonl":
        return encode_lines(rows)
    import pyarrow
    import pyarrow.parquet

    out = io.BytesIO()
    table = pyarrow.Table.from_pylist([msgspec.to_builtins(row) for row in rows], schema=_schema())
    pyarrow.parquet.write_table(table, out, compression="zstd")
    return out.getvalue()


def decode_rows(content: bytes, result_format: ResultFormat) -> list[Row]:
    """Return the rows of a file."""
    if result_format == "jsonl":
        return [msgspec.json.decode(line, type=Row) for line in content.splitlines()]
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(io.BytesIO(content))
    return [msgspec.convert(_without_nulls(row), Row) for row in table.to_pylist()]


def encode_lines(rows: Sequence[msgspec.Struct]) -> bytes:
    """Return JSON lines."""
    return b"".join(encode_json(row) + b"\n" for row in rows)


def decode_quarantined(content: bytes) -> list[Quarantined]:
    """Return the files of a quarantine's lines."""
    return [msgspec.json.decode(line, type=Quarantined) for line in content.splitlines()]


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out what segments do not have: Parquet has null where JSON has no field."""
    segments = [{key: value for key, value in each.items() if value is not None} for each in row["segments"]]
    return {**row, "segments": segments}


def _schema() -> Any:
    """Return the columns, the same whether a file's rows use them or not."""
    import pyarrow as pa

    word = pa.struct(
        {"word": pa.string(), "start": pa.float64(), "end": pa.float64(), "probability": pa.float64()}
    )
    segment = pa.struct(
        {
            "id": pa.int32(),
            "start": pa.float64(),
            "end": pa.float64(),
            "text": pa.string(),
            "language": pa.string(),
            "avg_logprob": pa.float64(),
            "no_speech_prob": pa.float64(),
            "temperature": pa.float64(),
            "compression_ratio": pa.float64(),
            "language_probability": pa.float64(),
            "channel": pa.int32(),
            "words": pa.list_(word),
        }
    )
    return pa.schema(
        {
            "path": pa.string(),
            "sha256": pa.string(),
            "n_bytes": pa.int64(),
            "duration_s": pa.float64(),
            "language": pa.string(),
            "language_probability": pa.float64(),
            "confidence": pa.float64(),
            "text": pa.string(),
            "segments": pa.list_(segment),
            **{name: pa.string() for name in EngineFacts.__struct_fields__},
        }
    )
