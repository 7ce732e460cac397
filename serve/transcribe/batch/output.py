"""The files of a corpus's output: what was asked, the plans, results and quarantine by shard.

```
run.json                     the model and the options that all results come from
plan/0000.jsonl              shards: which recordings are transcribed and stored together
begun/0000-000000            how often a shard that is not done was begun
results/0000-000000.jsonl    the rows of a shard (or .parquet); where it lies, the shard is done
quarantine/0000-000000.jsonl its files without a result
quarantine.jsonl             all of these, written at the end of a run
```

Every file is written as a whole, so a process that is killed leaves a shard done or not done. Knows no
engine.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from serve.errors import ConfigError
from serve.options import TranscriptionOptions
from serve.transcribe.batch.plan import Shard, decode_plan, encode_plan
from serve.transcribe.batch.rows import (
    Quarantined,
    ResultFormat,
    Row,
    decode_quarantined,
    decode_rows,
    encode_lines,
    encode_rows,
)
from serve.transcribe.batch.stores import store_of

RUN, PLAN, BEGUN, RESULTS, QUARANTINE = "run.json", "plan", "begun", "results", "quarantine"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What all results of an output have in common."""

    format: ResultFormat
    options: TranscriptionOptions
    base_fingerprint: str
    artifact_sha256: str | None
    quantization: str


class Output:
    """An output, to plan, write and read. Workers on other machines have their own."""

    def __init__(self, where: str, result_format: ResultFormat) -> None:
        self.where = where
        self.format = result_format
        self.store = store_of(where)

    def require_same(self, record: RunRecord) -> None:
        """Refuse to go on with an output that was begun with another model or other options.

        Raises:
            ConfigError: Names what differs.
        """
        content = self.store.read(RUN)
        if content is None:
            self.store.write(RUN, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
            return
        try:
            begun = msgspec.json.decode(content, type=RunRecord)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError([f"{self.where}/{RUN} is not of this version: {error}"]) from error
        faults = [
            f"{self.where} was begun with {name} {getattr(begun, name)}, and not {getattr(record, name)}:"
            " take another --output"
            for name in RunRecord.__struct_fields__
            if getattr(begun, name) != getattr(record, name)
        ]
        if faults:
            raise ConfigError(faults)

    def plans(self) -> list[list[Shard]]:
        """Return the shards of each plan, in order."""
        contents = [self.store.read(f"{PLAN}/{name}") for name in self.store.names(PLAN)]
        return [decode_plan(content) for content in contents if content is not None]

    def add_plan(self, number: int, shards: Sequence[Shard]) -> None:
        """Write a plan, before any of its shards is done."""
        self.store.write(f"{PLAN}/{number:04d}.jsonl", encode_plan(shards))

    def done(self) -> set[str]:
        """Return the names of the shards that are done."""
        suffix = f".{self.format}"
        return {name.removesuffix(suffix) for name in self.store.names(RESULTS) if name.endswith(suffix)}

    def is_done(self, shard: str) -> bool:
        return self.store.has(f"{RESULTS}/{shard}.{self.format}")

    def begin(self, shard: str) -> int:
        """Note that a shard is begun, and return how often it has been, this time included."""
        count = int(self.store.read(f"{BEGUN}/{shard}") or 0) + 1
        self.store.write(f"{BEGUN}/{shard}", b"%d" % count)
        return count

    def write(self, shard: str, rows: Sequence[Row], quarantined: Sequence[Quarantined]) -> None:
        """Write what came of a shard: the results last, since they mean that it is done."""
        if quarantined:
            self.store.write(f"{QUARANTINE}/{shard}.jsonl", encode_lines(quarantined))
        else:
            self.store.delete(f"{QUARANTINE}/{shard}.jsonl")
        self.store.delete(f"{BEGUN}/{shard}")
        self.store.write(f"{RESULTS}/{shard}.{self.format}", encode_rows(rows, self.format))

    def rows(self, shard: str) -> list[Row]:
        """Return the rows of a shard; none where it is not done."""
        content = self.store.read(f"{RESULTS}/{shard}.{self.format}")
        return [] if content is None else decode_rows(content, self.format)

    def quarantined(self) -> dict[str, Quarantined]:
        """Return the files without a result by path; a later plan that has the path tells its fate anew."""
        kept: dict[str, Quarantined] = {}
        there, done = set(self.store.names(QUARANTINE)), self.done()
        for plan in self.plans():
            for shard in plan:
                for path in shard.paths if kept else ():
                    kept.pop(path, None)
                if f"{shard.name}.jsonl" in there and shard.name in done:
                    content = self.store.read(f"{QUARANTINE}/{shard.name}.jsonl") or b""
                    kept |= {each.path: each for each in decode_quarantined(content)}
        return kept

    def write_quarantine(self) -> int:
        """Write the list of all files without a result, and return their number."""
        files = sorted(self.quarantined().values(), key=lambda each: each.path)
        self.store.write(f"{QUARANTINE}.jsonl", encode_lines(files))
        return len(files)
