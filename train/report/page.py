"""Write one self-contained HTML page: style and pictures are in it, nothing is fetched, nothing runs.

Every text that goes in is escaped here; callers hand over plain strings. Knows no run and no score.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NewType

from train.evaluate.pictures import Theme

Html = NewType("Html", str)
"""Markup in which every text has been escaped."""

STYLE = Path(__file__).with_name("page.css")


def page(title: str, subtitle: str, sections: Iterable[Html]) -> str:
    """Return the whole page."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="faint">{escape(subtitle)}</p>
{"".join(sections)}</body>
</html>
"""


def section(title: str, *parts: Html) -> Html:
    """Return a part of the page under a heading."""
    return Html(f"<section>\n<h2>{escape(title)}</h2>\n{''.join(parts)}</section>\n")


def heading(text: str) -> Html:
    """Return a heading within a section."""
    return Html(f"<h3>{escape(text)}</h3>\n")


def paragraph(text: str) -> Html:
    """Return a paragraph of plain text."""
    return Html(f"<p>{escape(text)}</p>\n")


def listing(text: str) -> Html:
    """Return text in which line ends and blanks stay."""
    return Html(f"<pre>{escape(text)}</pre>\n")


def folded(summary: str, part: Html) -> Html:
    """Return a part that is shown on request."""
    return Html(f"<details>\n<summary>{escape(summary)}</summary>\n{part}</details>\n")


def facts(values: Mapping[str, str]) -> Html:
    """Return named figures as tiles."""
    tiles = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values.items())
    return Html(f"<dl>{''.join(tiles)}</dl>\n")


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    texts: Sequence[str] = (),
    bar: str | None = None,
) -> Html:
    """Return a table that scrolls sideways where the screen is narrow.

    Args:
        columns: their names.
        rows: of plain text, a cell for each column.
        numbers: columns that are set flush right.
        texts: columns that hold sentences and keep room for them.
        bar: a column of counts, behind which bars show their size.
    """
    body = [list(row) for row in rows]
    kinds = [
        "number" if c in numbers else "text" if c in texts else "bar" if c == bar else "" for c in columns
    ]
    largest = max((float(row[columns.index(bar)]) for row in body), default=1.0) if bar else 1.0

    def cell(text: str, kind: str) -> str:
        style = f' style="--share:{100 * float(text) / largest:.0f}%"' if kind == "bar" else ""
        return f"<td{_class(kind)}{style}>{escape(text)}</td>"

    head = "".join(f"<th{_class(kind)}>{escape(c)}</th>" for c, kind in zip(columns, kinds, strict=True))
    lines = ("".join(cell(*pair) for pair in zip(row, kinds, strict=True)) for row in body)
    return Html(
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "".join(f"<tr>{line}</tr>\n" for line in lines)
        + "</tbody>\n</table></div>\n"
    )


def picture(draw: Callable[[Theme], bytes], description: str) -> Html:
    """Return a picture that is drawn for light and for dark pages."""
    light, dark = (base64.b64encode(draw(theme)).decode() for theme in ("light", "dark"))
    return Html(
        '<picture><source media="(prefers-color-scheme: dark)"'
        f' srcset="data:image/png;base64,{dark}">'
        f'<img src="data:image/png;base64,{light}" alt="{escape(description)}"></picture>\n'
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
