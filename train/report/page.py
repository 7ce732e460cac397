"""Render `page.html.jinja`, one self-contained HTML page: style and pictures are in it, nothing is fetched.

Jinja escapes every text that goes in. Knows no run and no score.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.evaluate.pictures import Theme

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["zip"] = zip


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that scrolls sideways where the screen is narrow."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Plain text, a cell for each column."""
    numbers: Collection[str] = ()
    """Columns that are set flush right."""
    texts: Collection[str] = ()
    """Columns that hold sentences and keep room for them."""
    bar: str | None = None
    """Column of counts, behind which bars show their size."""

    def share(self, cell: str) -> int:
        """Return how large a count is, in per cent of the largest in the `bar` column."""
        assert self.bar is not None
        place = self.columns.index(self.bar)
        return round(100 * float(cell) / max(float(row[place]) for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for light and for dark pages, PNG in base64."""

    light: str
    dark: str
    description: str


def draw_picture(draw: Callable[[Theme], bytes], description: str) -> Picture:
    """Return what a function draws for both themes."""
    light, dark = (base64.b64encode(draw(theme)).decode() for theme in ("light", "dark"))
    return Picture(light=light, dark=dark, description=description)


def render(**values: Any) -> str:
    """Return the whole page."""
    return _TEMPLATES.get_template("page.html.jinja").render(values)
