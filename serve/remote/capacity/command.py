"""Say what an endpoint needs for hours of audio a day: `shrota capacity`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from serve.config.command_line import Command, flags_of
from serve.config.reader import keys_of, read_or_raise
from serve.config.sources import flag_layer, flag_names
from serve.remote.capacity.options import CapacityOptions
from serve.remote.capacity.plan import LoadPoint, Planner, VolumePlan


def read(flags: Mapping[str, Any]) -> CapacityOptions:
    """Read flags.

    Raises:
        ConfigError: Lists every fault.
    """
    return read_or_raise(CapacityOptions, flag_layer(flags), flag_names(keys_of(CapacityOptions)))


def run(options: CapacityOptions) -> int:
    """Print the plan, and draw it where that is asked for.

    Raises:
        ConfigError: A file cannot be read, or the pictures' directory cannot be written.
    """
    planner = Planner(options)
    plans = [planner.plan(hours) for hours in options.hours]
    curve = planner.load_curve() if options.picture or options.json else []
    if options.json:
        print(as_json(planner, plans, curve))
    else:
        show(planner, plans)
    if options.picture:
        from serve.remote.capacity.pictures import write_pictures

        write_pictures(options.picture, plans, curve)
    return 0


def as_json(planner: Planner, plans: Sequence[VolumePlan], curve: Sequence[LoadPoint]) -> str:
    """Return all figures; a percentile of no request is null."""
    figures = {
        "sustained_requests_per_s": planner.sustained_per_s,
        "sustained_audio_s_per_s": planner.sustained_per_s * planner.mean_audio_s,
        "plans": [dataclasses.asdict(each) for each in plans],
        "loads": [dataclasses.asdict(each) for each in curve],
    }
    return json.dumps(_without_nan(figures), indent=1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float) -> str:
    """Write a number with about three digits."""
    return f"{value:,.3f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def show(planner: Planner, plans: Sequence[VolumePlan]) -> None:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    audio = planner.sustained_per_s * planner.mean_audio_s
    table = Table(
        box=box.SIMPLE, padding=0, title=f"An instance keeps up with {audio:.1f} s of audio in a second."
    )
    table.caption = "Instances at the peak and in the mean of the day; requests and latency at the peak."
    headings = ["hours/day", "req/s", "peak", "mean", "p50 s", "p95 s", "p99 s", "refused"]
    if any(each.day_cost is not None for each in plans):
        headings += ["cost/day", "cost/h"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in plans:
        peak = each.peak
        table.add_row(
            f"{each.hours:,.15g}",
            _short(each.peak_rate_per_s),
            f"{each.peak_instances:,}",
            _short(each.mean_instances),
            *(f"{latency_s:.2f}" for latency_s in (peak.p50_s, peak.p95_s, peak.p99_s)),
            f"{peak.refused:.2%}",
            *(
                f"{cost:,.{n}f}"
                for cost, n in ((each.day_cost, 2), (each.cost_per_hour, 4))
                if cost is not None
            ),
        )
    Console().print(table)


command = Command(
    "capacity",
    read=read,
    run=run,
    about="Say how many instances hours of audio a day need, how fast they answer and what they cost,"
    " by simulating the service at the peak of the day.",
    examples="""\
shrota capacity                                              # 1 to 1,000,000 hours a day
shrota capacity --hours 500 --price 0.20 --mean-s 8          # voice messages
shrota capacity --manifest calls.jsonl --peak-factor 4 --target-requests 2
shrota capacity --measured bench/capacity.json --json        # an instance that you measured
shrota capacity --price 0.20 --picture pictures
""",
    flags=flags_of(CapacityOptions),
    needs="capacity",
)
