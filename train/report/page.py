"""Render `page.html.jinja`, one self-contained HTML page with its style and pictures.

Jinja escapes all text. Knows no run and no score.
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
    """A table that scrolls sideways on narrow screens."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Plain text, a cell for each column."""
    numbers: Collection[str] = ()
    """Right-aligned columns."""
    texts: Collection[str] = ()
    """Wide columns, for sentences."""
    bar: str | None = None
    """Column of counts with bars that show their size."""

    def share(self, cell: str) -> int:
        """Return a count in per cent of the largest one in the `bar` column."""
        assert self.bar is not None
        place = self.columns.index(self.bar)
        return round(100 * float(cell) / max(float(row[place]) for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture in a light and a dark theme, PNG in base64."""

    light: str
    dark: str
    description: str


def draw_picture(draw: Callable[[Theme], bytes], description: str) -> Picture:
    """Draw a picture in both themes."""
    light, dark = (base64.b64encode(draw(theme)).decode() for theme in ("light", "dark"))
    return Picture(light=light, dark=dark, description=description)


def render(**values: Any) -> str:
    return _TEMPLATES.get_template("page.html.jinja").render(values)
