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


def show(planner: Planner, plans: Sequence[VolumePlan]) -> None:
    """Print a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    audio = planner.sustained_per_s * planner.mean_audio_s
    table = Table(box=box.SIMPLE, title=f"An instance transcribes at most {audio:.1f} s of audio in a second")
    for heading in ("hours/day", "peak req/s", "instances", "mean of day", "p50", "p95", "p99", "refused"):
        table.add_column(heading, justify="right")
    with_cost = any(each.day_cost is not None for each in plans)
    for heading in ("cost/day", "cost/hour") if with_cost else ():
        table.add_column(heading, justify="right")
    for each in plans:
        peak = each.peak
        costs = (f"{each.day_cost:,.2f}", f"{each.cost_per_hour:,.4f}") if with_cost else ()
        table.add_row(
            f"{each.hours:,g}" if each.hours < 1e4 else f"{each.hours:,.0f}",
            f"{each.peak_rate_per_s:.3g}",
            f"{each.peak_instances:,}",
            f"{each.mean_instances:,.1f}",
            *(f"{latency_s:.2f} s" for latency_s in (peak.p50_s, peak.p95_s, peak.p99_s)),
            f"{peak.refused:.2%}",
            *costs,
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
