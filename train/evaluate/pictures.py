"""Draw a run and its evaluation as PNG: curves, error rates with intervals, confusions.

Every picture has a light and a dark theme. matplotlib shapes words in any script; where no installed font has
the letters, bars carry the numbers of the accompanying table.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

from train.evaluate.confusions import Confusion
from train.evaluate.durations import DurationBucket
from train.evaluate.tables import NO_WORD

Theme = Literal["light", "dark"]
Rows = Sequence[Mapping[str, Any]]

_WIDTH_IN = 8.0
_DPI = 120
_LAST_RESORT = "Last Resort"  # a font of boxes that claims every letter
_LOG_RANGE = 8.0  # a larger ratio between rates is drawn on a log scale
_SANS = "DejaVu Sans"  # comes with matplotlib
SOURCE_COLOURS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#7f7f7f")
"""Line colours for several sources, distinct to the colour-blind and visible on both backgrounds."""


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Colours of one theme."""

    paper: str
    ink: str
    grid: str
    base: str
    tuned: str
    accent: str


PALETTES: dict[Theme, Palette] = {
    "light": Palette(
        paper="#ffffff", ink="#24292f", grid="#d8dee4", base="#9a6700", tuned="#2563a8", accent="#c44e52"
    ),
    "dark": Palette(
        paper="#161b22", ink="#d5dbe2", grid="#3a424c", base="#e0b252", tuned="#6cb2f5", accent="#f08a80"
    ),
}


def draw_learning_curve(rows: Rows, title: str, theme: Theme = "light") -> bytes:
    """Draw training loss, validation loss and learning rate over the steps of `metrics.jsonl`.

    If there are several validation sources, each has a line, and so has their mean.
    """
    palette = PALETTES[theme]
    trained = [row for row in rows if row.get("loss") is not None]
    valid = [row for row in rows if "valid_loss" in row and "set" not in row]
    figure, axes = _canvas(palette, 5.0)
    axes.plot(*_series(trained, "loss"), color=palette.tuned, alpha=0.85, label="training (augmented)")
    if valid:
        each = [row for row in rows if "valid_loss" in row and "set" in row]
        sources = list(dict.fromkeys(row["set"] for row in each))
        told = "mean of the sources" if sources else "unseen sentences"
        axes.plot(*_series(valid, "valid_loss"), "o-", color=palette.accent, label=f"validation, {told}")
        for number, source in enumerate(sources):
            axes.plot(
                *_series([row for row in each if row["set"] == source], "valid_loss"),
                ".-",
                color=SOURCE_COLOURS[number % len(SOURCE_COLOURS)],
                lw=1.0,
                label=f"validation, {source}",
            )
    axes.set(title=title, xlabel="step", ylabel="loss (nats a token, log scale)", yscale="log")
    _plain_log_ticks(axes.yaxis)
    axes.grid(color=palette.grid, lw=0.6)
    rate = axes.twinx()
    rate.plot(*_series(trained, "learning_rate"), color="grey", lw=0.9, ls=":", label="learning rate")
    rate.set_ylabel("learning rate", color=palette.ink)
    _colour(rate, palette)
    handles, labels = (
        [*one, *other]
        for one, other in zip(axes.get_legend_handles_labels(), rate.get_legend_handles_labels(), strict=True)
    )
    # Below the axes, because the lines may be anywhere within them.
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, labelcolor=palette.ink, facecolor=palette.paper
    )
    return _png(figure)


def draw_throughput(rows: Rows, theme: Theme = "light") -> bytes:
    """Draw examples and seconds of audio trained on per second of wall-clock time."""
    palette = PALETTES[theme]
    trained = [row for row in rows if "samples_per_s" in row]
    figure, axes = _canvas(palette, 2.8)
    axes.plot(*_series(trained, "audio_s_per_s"), color=palette.tuned, label="seconds of audio")
    axes.plot(*_series(trained, "samples_per_s"), color=palette.base, label="examples")
    axes.set(xlabel="step", ylabel="per second")
    axes.set_ylim(bottom=0)
    axes.grid(color=palette.grid, lw=0.6)
    axes.legend(labelcolor=palette.ink, facecolor=palette.paper)
    return _png(figure)


def draw_scores(results: Mapping[str, Mapping[str, Any]], theme: Theme = "light") -> bytes:
    """Draw the WER of base and tuned model side by side for each test set, with 95 % intervals."""
    palette = PALETTES[theme]
    rates = {
        label: [
            (place, *(100 * models[label]["scores"][models[label]["profile"]][name] for name in _RATES))
            for place, models in enumerate(results.values())
            if label in models
        ]
        for label in ("base", "tuned")
    }
    figure, axes = _canvas(palette, 1.4 + 0.75 * len(results))
    _draw_rates(axes, rates, palette, upright=False)
    axes.set_yticks(range(len(results)), list(results))
    axes.set_ylim(len(results) - 0.5, -0.5)
    return _png(figure)


def draw_durations(buckets: Mapping[str, Sequence[DurationBucket]], theme: Theme = "light") -> bytes:
    """Draw the WER of each model by clip duration, with 95 % intervals."""
    palette = PALETTES[theme]
    shown = sorted({(found.low_s, found.label) for each in buckets.values() for found in each})
    places = {label: place for place, (_, label) in enumerate(shown)}
    rates = {
        model: [
            (places[found.label], 100 * found.wer, 100 * found.wer_low, 100 * found.wer_high)
            for found in each
        ]
        for model, each in buckets.items()
    }
    clips = {found.label: found.utterances for each in buckets.values() for found in each}
    figure, axes = _canvas(palette, 3.4)
    _draw_rates(axes, rates, palette, upright=True)
    axes.set_xticks(range(len(shown)), [f"{label}\n{clips[label]} clips" for _, label in shown])
    axes.set_xlim(-0.5, len(shown) - 0.5)
    return _png(figure)


def draw_confusions(confusions: Sequence[Confusion], theme: Theme = "light") -> bytes:
    """Draw how often words were mistaken, most frequent first, numbered as in the table."""
    from matplotlib.ticker import MaxNLocator

    palette = PALETTES[theme]
    words = [f"{found.reference or NO_WORD} \u2192 {found.hypothesis or NO_WORD}" for found in confusions]
    family = find_font("".join(words))
    labels = [f"{word}   {number}" if family else f"no. {number}" for number, word in enumerate(words, 1)]
    figure, axes = _canvas(palette, 1.0 + 0.3 * max(1, len(words)))
    bars = axes.barh(range(len(words)), [found.count for found in confusions], color=palette.tuned)
    axes.bar_label(bars, padding=3, color=palette.ink)
    axes.set_yticks(range(len(words)), labels, family=[_SANS, *([family] if family else [])])
    axes.set_ylim(len(words) - 0.4, -0.6)
    axes.set_xlabel("times")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _png(figure)


def find_font(text: str) -> str | None:
    """Return the family of an installed font with the letters that matplotlib's own lacks, if any."""
    return _find_font(frozenset(map(ord, text)) - {ord(" ")})


@cache
def _find_font(letters: frozenset[int]) -> str | None:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    own = FT2Font(font_manager.findfont(_SANS)).get_charmap()
    missing = letters - own.keys()
    if not missing:
        return _SANS
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith(_LAST_RESORT)]
    for font in sorted(fonts, key=lambda font: ("Sans" not in font.name, font.weight != 400, font.name)):
        try:
            if missing <= FT2Font(font.fname).get_charmap().keys():
                return font.name
        except (OSError, RuntimeError):  # the font was removed, or has no outlines
            continue
    return None


_RATES = ("wer", "wer_low", "wer_high")
_Rate = tuple[float, float, float, float]  # place, rate, and both ends of its interval, in per cent


def _draw_rates(axes: Axes, rates: Mapping[str, Sequence[_Rate]], palette: Palette, *, upright: bool) -> None:
    """Draw points with intervals, models side by side, on a log scale if rates lie far apart."""
    rates = {model: found for model, found in rates.items() if found}
    for number, (model, found) in enumerate(rates.items()):
        shift = 0.14 * (2 * number - len(rates) + 1)
        places = [place + shift for place, *_ in found]
        values = [rate for _, rate, _, _ in found]
        ends = [[rate - low for _, rate, low, _ in found], [high - rate for _, rate, _, high in found]]
        colour = palette.base if model == "base" else palette.tuned
        style: dict[str, Any] = {"fmt": "o", "color": colour, "capsize": 3, "label": model}
        if upright:
            axes.errorbar(places, values, yerr=ends, **style)
        else:
            axes.errorbar(values, places, xerr=ends, **style)
        for place, value in zip(places, values, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (place, value) if upright else (value, place),
                (7, 0) if upright else (0, 6),
                textcoords="offset points",
                color=colour,
                fontsize=8,
                va="center" if upright else "baseline",
                ha="left" if upright else "center",
            )
    everything = [end for found in rates.values() for rate in found for end in rate[1:]]
    axis = axes.yaxis if upright else axes.xaxis
    name = "word error rate, per cent"
    if everything and min(everything) > 0 and max(everything) > _LOG_RANGE * min(everything):
        (axes.set_yscale if upright else axes.set_xscale)("log")
        _plain_log_ticks(axis)
        name += " (log scale)"
    elif upright:
        axes.set_ylim(bottom=0)
    else:
        axes.set_xlim(left=0)
    axis.set_label_text(name)
    axis.grid(color=palette.grid, lw=0.6)
    if rates:
        axes.legend(labelcolor=palette.ink, facecolor=palette.paper)


def _plain_log_ticks(axis: Axis) -> None:
    """Mark a log scale at 1, 2, 5, 10, ..., written as 0.2, not 2 x 10^-1."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _canvas(palette: Palette, height_in: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained", facecolor=palette.paper)
    axes = figure.add_subplot()
    _colour(axes, palette)
    return figure, axes


def _colour(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.paper)
    axes.tick_params(colors=palette.ink, which="both")
    for spine in axes.spines.values():
        spine.set_color(palette.grid)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(palette.ink)
    axes.set_axisbelow(True)


def _series(rows: Rows, name: str) -> tuple[list[int], list[float]]:
    return [row["step"] for row in rows], [row[name] for row in rows]


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
