"""Turn evaluation results into tables for terminal and Markdown. Knows no model and no page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from train.data.records import SYNTHETIC, VOICE_KINDS
from train.evaluate.confusions import Confusion
from train.evaluate.durations import DurationBucket

SCORE_COLUMNS = (
    *("voices", "language", "test set", "clips", "model", "profile", "WER % (95 % interval)", "CER %"),
    *("in script %", "S / D / I"),
)
DURATION_COLUMNS = ("clip lasts", "model", "clips", "WER % (95 % interval)")
CONFUSION_COLUMNS = ("no.", "said", "written", "times")
COMPARISON_COLUMNS = ("test set", "WER, tuned minus base (95 % interval)", "better / worse / same clips")
UTTERANCE_COLUMNS = ("WER %", "S / D / I", "seconds", "voice", "said", "written")
NO_WORD = "\u2205"  # shown for a missing word

Row = tuple[str, ...]


def score_summary(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the headline scores as flat rows: one for each test set and each group in it, people first.

    A row holds `test_set`, `kind` (of voice), `language`, `profile`, `clips`, `audio_s`, and the scores of
    `base` and `tuned`, or None. A test set with several kinds or languages has a row for each, and one for
    the whole, whose kind or language is `all`.

    Args:
        results: {test set: {model: result}}.
    """
    rows = []
    for test_set, models in results.items():
        first = next(iter(models.values()))
        kinds, languages = list(first.get("by_kind", {})), list(first.get("by_language", {}))
        kind, language = _only(kinds), _only(languages)
        headline = first.get("profile") or list(first["scores"])[-1]
        groups: list[tuple[str, str, str, str]] = [("scores", headline, kind, language)]
        if len(kinds) > 1:
            groups += [("by_kind", name, name, language) for name in kinds]
        if len(languages) > 1:
            groups += [("by_language", name, kind, name) for name in languages]
        for part, name, group_kind, group_language in groups:
            scores = {label: result[part][name] for label, result in models.items()}
            values = next(iter(scores.values()))
            row = {
                "test_set": test_set,
                "kind": group_kind,
                "language": group_language,
                "profile": values["profile"],
                "clips": values["utterances"],
                "audio_s": values.get("audio_s"),
            }
            rows.append(row | {label: scores.get(label) for label in ("base", "tuned")})
    order = (*VOICE_KINDS, "all")
    return sorted(rows, key=lambda row: order.index(row["kind"]))


def voices_note(results: dict[str, Any]) -> str:
    """Return a sentence or two on what the scores say about people, and in which languages."""
    if not results:
        return ""
    rows = score_summary(results)
    kinds = {row["kind"] for row in rows}
    languages = dict.fromkeys(
        name
        for models in results.values()
        for result in models.values()
        for name in result.get("by_language", ())
    )
    said = f"Scored on speech in {', '.join(languages)}. " if languages else ""
    if "people" not in kinds:
        return (
            f"{said}No recording of people is known to be among what was scored. Figures on synthetic speech"
            " say little about people, whom a model may not understand at all."
        )
    if kinds & SYNTHETIC:
        return f"{said}Figures on synthetic speech say little about people: go by the rows of people."
    return f"{said}People speak in what was scored."


def score_table(results: dict[str, Any]) -> Table:
    """Return a table of {test set: {model: result}}, in per cent, for a terminal of 80 columns."""
    table = Table(title="per cent; lower is better, except script", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("voices", "lang"):
        table.add_column(column, no_wrap=True)
    table.add_column("test set", overflow="fold")
    table.add_column("model", no_wrap=True)
    for column in ("WER", "95 % interval", "CER", "script"):
        table.add_column(column, justify="right", no_wrap=True)
    for row, label, values in _scored(results):
        names = ("wer", "wer_low", "wer_high", "cer", "script_fidelity")
        wer, low, high, cer, script = (f"{100 * values[name]:.1f}" for name in names)
        group = (row["kind"], row["language"], row["test_set"])
        table.add_row(*group, label, wer, f"{low} to {high}", cer, script)
    return table


def score_rows(results: dict[str, Any]) -> list[Row]:
    """Return a row of `SCORE_COLUMNS` for each model and row of the summary, people first."""
    return [
        (
            row["kind"],
            row["language"],
            row["test_set"],
            str(v["utterances"]),
            label,
            v["profile"],
            _interval(v["wer"], v["wer_low"], v["wer_high"]),
            f"{100 * v['cer']:.1f}",
            f"{100 * v['script_fidelity']:.0f}",
            _counts(v),
        )
        for row, label, v in _scored(results)
    ]


def comparison_rows(results: dict[str, Any]) -> list[Row]:
    """Return a row of `COMPARISON_COLUMNS` for each test set with scores of both models."""
    return [
        (
            test_set,
            "{:+.1f} ({:+.1f} to {:+.1f}) points".format(
                *(100 * found[name] for name in ("difference", "low", "high"))
            ),
            f"{found['better']} / {found['worse']} / {found['equal']}",
        )
        for test_set, models in results.items()
        if (found := models.get("tuned", {}).get("against_base"))
    ]


def duration_rows(buckets: Mapping[str, Sequence[DurationBucket]]) -> list[Row]:
    """Return a row of `DURATION_COLUMNS` for each model's groups, shortest clips first."""
    rows = [(bucket, label) for label, found in buckets.items() for bucket in found]
    return [
        (bucket.label, label, str(bucket.utterances), _interval(bucket.wer, bucket.wer_low, bucket.wer_high))
        for bucket, label in sorted(rows, key=lambda row: row[0].low_s)
    ]


def confusion_rows(confusions: Sequence[Confusion]) -> list[Row]:
    """Return a numbered row of `CONFUSION_COLUMNS` for each confusion."""
    return [
        (str(number), found.reference or NO_WORD, found.hypothesis or NO_WORD, str(found.count))
        for number, found in enumerate(confusions, 1)
    ]


def worst_utterances(result: dict[str, Any], limit: int = 20) -> list[Row]:
    """Return a row of `UTTERANCE_COLUMNS` for the utterances with the highest error rates."""
    worst = sorted(result["utterances"], key=lambda row: (-row["wer"], -row["cer"]))[:limit]
    return [
        (
            f"{100 * row['wer']:.0f}",
            _counts(row),
            f"{row['duration_s']:.1f}",
            row["voice"] or "",
            row["reference"],
            row["hypothesis"],
        )
        for row in worst
        if row["wer"] > 0
    ]


def score_markdown(results: dict[str, Any]) -> str:
    """Return the scores as a Markdown table."""
    return markdown_table(SCORE_COLUMNS, score_rows(results)) if results else "Not evaluated."


def markdown_table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a Markdown table; bars in cells are escaped, and line ends become spaces."""
    lines = [columns, ["---"] * len(columns), *([_markdown_cell(cell) for cell in row] for row in rows)]
    head, rule, *body = lines
    return "\n".join(
        [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(r)} |" for r in body)]
    )


def _scored(results: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    """Yield (row of the summary, model, its score) for each scored model."""
    for row in score_summary(results):
        yield from ((row, label, row[label]) for label in ("base", "tuned") if row[label])


def _only(names: Sequence[str]) -> str:
    """Return the only name of a group, `all` for several, or `unknown` for none."""
    return "all" if len(names) > 1 else next(iter(names), "unknown")


def _markdown_cell(text: str) -> str:
    for character in ("\\", "|", "*", "_", "`", "<", "["):
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _interval(wer: float, low: float, high: float) -> str:
    return f"{100 * wer:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _counts(values: dict[str, Any]) -> str:
    return f"{values['substitutions']} / {values['deletions']} / {values['insertions']}"
