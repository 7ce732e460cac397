"""Draw a plan as PNG: instances and cost by hours a day, latency and refusals by load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from serve.errors import ConfigError
from serve.remote.capacity.plan import LoadPoint, VolumePlan

VOLUMES, LATENCY = "capacity-volumes.png", "capacity-latency.png"
_BLUE, _RED = "#2563a8", "#c44e52"
_DPI = 120
_PLAIN = "{x:,.9g}"  # 1,000 instead of a power of ten


def write_pictures(directory: Path, plans: Sequence[VolumePlan], curve: Sequence[LoadPoint]) -> None:
    """Write both pictures.

    Raises:
        ConfigError: The directory cannot be written.
    """
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "axes.spines.top": False}):
        figures = {VOLUMES: draw_volumes(plans), LATENCY: draw_latency(curve)}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name, figure in figures.items():
                figure.savefig(directory / name, dpi=_DPI)
        except OSError as error:
            raise ConfigError([f"--picture {directory} cannot be written: {error}"]) from error


def draw_volumes(plans: Sequence[VolumePlan]) -> Figure:
    """Draw instances at the peak and the cost of an hour of audio over hours of audio a day."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    hours = [each.hours for each in plans]
    axes.loglog(hours, [each.peak_instances for each in plans], "o-", color=_BLUE)
    axes.set(xlabel="hours of audio a day")
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.set_ylabel("instances at the peak", color=_BLUE)
    axes.grid(alpha=0.3)
    costs = [each.cost_per_hour for each in plans if each.cost_per_hour is not None]
    if costs:
        right = axes.twinx()
        right.semilogy(hours, costs, "s--", color=_RED)
        right.set_ylabel("cost of an hour of audio", color=_RED)
        right.yaxis.set_major_formatter(_PLAIN)
    return figure


def draw_latency(curve: Sequence[LoadPoint]) -> Figure:
    """Draw percentiles of the latency and the refused share over the load of one instance."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    loads = [100 * each.load for each in curve]
    for name, style in (("p50_s", ":"), ("p95_s", "--"), ("p99_s", "-")):
        values = [getattr(each.outcome, name) for each in curve]
        axes.plot(loads, values, style, color=_BLUE, label=name.removesuffix("_s"))
    axes.set(xlabel="load, % of what an instance sustains", ylabel="latency, s", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    right = axes.twinx()
    right.plot(loads, [100 * each.outcome.refused for each in curve], color=_RED)
    right.set_ylim(0, None)
    right.set_ylabel("refused, %", color=_RED)
    return figure
