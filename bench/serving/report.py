"""Show the figures of a run: headline ratios, tables for the terminal, and a picture. Measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from bench.serving.figures import Figures
from bench.serving.peers import FASTER_WHISPER, OURS, PEERS, REFERENCE
from train.evaluate.tables import score_table

OUR_COLOUR, THEIR_COLOUR = "#c2410c", "#94a3b8"
SECTIONS_WITH_PEERS = {
    "short": "clips of 2 to 8 s, one at a time",
    "concurrent": "eight clients at once; faster-whisper in turn",
    "long": "minutes of speech with pauses",
}


def headline(sections: Figures) -> Figures:
    """Return the figures to quote: ratios above 1 say how many times faster ours is."""
    return {
        name: value
        for section, figures in sections.items()
        if section in _HEADLINES
        for name, value in _HEADLINES[section](figures)
        if value is not None
    }


def _accuracy_headline(figures: Figures) -> Iterator[tuple[str, Any]]:
    for name, models in figures.items():
        for rate in ("wer", "cer"):
            yield f"{rate}_{name}", models["tuned"]["scores"]["marathi"][rate]


def _short_headline(figures: Figures) -> Iterator[tuple[str, Any]]:
    peers = figures["peers"]
    yield "short_times_real_time", peers[OURS]["times_real_time"]
    for name, found in peers.items():
        if name not in (OURS, REFERENCE):
            yield f"short_time_ratio_{name}", found["time_ratio"]["median"]
    yield (
        "short_time_ratio_best_faster_whisper",
        _least({name: peers[name]["time_ratio"]["median"] for name in FASTER_WHISPER if name in peers}),
    )
    yield from _wers("short", peers)


def _concurrent_headline(figures: Figures) -> Iterator[tuple[str, Any]]:
    peers = figures["peers"]
    yield "concurrent_times_real_time", peers[OURS]["times_real_time"]
    yield (
        "concurrent_throughput_ratio_best_faster_whisper",
        _least({name: peers[name]["throughput_ratio"] for name in FASTER_WHISPER if name in peers}),
    )


def _long_headline(figures: Figures) -> Iterator[tuple[str, Any]]:
    peers = figures["peers"]
    yield "long_times_real_time", peers[OURS]["times_real_time"]
    for name, found in peers.items():
        if name != OURS:
            yield f"long_time_ratio_{name}", found["time_ratio"]
    yield (
        "long_time_ratio_best_faster_whisper",
        _least({name: peers[name]["time_ratio"] for name in FASTER_WHISPER if name in peers}),
    )
    yield from _wers("long", peers)


def _wers(section: str, peers: Figures) -> Iterator[tuple[str, Any]]:
    for name, found in peers.items():
        if name != REFERENCE:
            yield f"{section}_wer_{name}", found["wer"]


def _least(ratios: dict[str, float]) -> float | None:
    """Return the ratio of the fastest peer."""
    return min(ratios.values(), default=None)


_HEADLINES: dict[str, Callable[[Figures], Iterable[tuple[str, Any]]]] = {
    "accuracy": _accuracy_headline,
    "streaming": lambda figures: [("first_segment_share", figures["first_segment_share"])],
    "short": _short_headline,
    "drift": lambda figures: [("wer_drift", figures["wer_difference"]["ours_minus_reference"])],
    "concurrent": _concurrent_headline,
    "long": _long_headline,
    "beside": lambda figures: [
        ("clip_beside_recording_p50_s", figures["beside_s"]["p50"]),
        ("clip_beside_recording_p95_s", figures["beside_s"]["p95"]),
    ],
    "upload": lambda figures: [("first_segment_after_upload_s", figures["first_segment_after_upload_s"])],
    "memory": lambda figures: [
        (f"peak_gib_{name.replace(' ', '_')}", found["peak_gib"]) for name, found in figures.items()
    ],
    "start": lambda figures: [("start_to_ready_s", figures["ready_s"])],
    "cuts": lambda figures: [
        (name, figures[name]) for name in ("times_out_of_order_or_outside", "streamed_text_differs")
    ],
    "no_speech": lambda figures: [
        (f"empty_share_{name}", found["empty_share"]) for name, found in figures["peers"].items()
    ],
}


def tables(sections: Figures) -> Iterator[Table]:
    """Yield a table for the scores, one for each comparison with peers, and one for the rest."""
    if "accuracy" in sections:
        yield score_table(sections["accuracy"])
    for name, title in SECTIONS_WITH_PEERS.items():
        if name in sections:
            yield _peer_table(title, sections[name]["peers"])
    rest = Table("figure", "value", title="the service", box=box.SIMPLE_HEAD)
    for name in (
        "drift",
        "streaming",
        "beside",
        "upload",
        "memory",
        "start",
        "cuts",
        "no_speech",
        "bad_input",
    ):
        for label, value in _flat(sections.get(name, {}), name):
            rest.add_row(label, str(value))
    if rest.row_count:
        yield rest


def _peer_table(title: str, peers: Figures) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("", no_wrap=True)
    for column in ("x real time", "ours faster by", "p50 s", "p95 s", "p99 s", "WER %", "CER %", "GiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in sorted(peers.items(), key=lambda item: -item[1]["times_real_time"]):
        latency = found.get("latency_s", {})
        table.add_row(
            PEERS[name].label,
            f"{found['times_real_time']:.1f}",
            _ratio_text(found.get("time_ratio", found.get("throughput_ratio"))),
            *(f"{latency[p]:.2f}" if latency else "" for p in ("p50", "p95", "p99")),
            f"{100 * found['wer']:.1f}",
            f"{100 * found['cer']:.1f}",
            f"{found['peak_gib']:.2f}" if "peak_gib" in found else "",
            style="bold" if name == OURS else None,
        )
    return table


def _ratio_text(ratio: Any) -> str:
    if isinstance(ratio, dict):
        return f"{ratio['median']:.2f} ({ratio['quartile_1']:.2f} to {ratio['quartile_3']:.2f})"
    return "" if ratio is None else f"{ratio:.2f}"


def _flat(figures: Figures, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in figures.items():
        if key == "scores":
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}, {key}")
        else:
            yield f"{prefix}, {key}".replace("_", " "), value


def draw_speeds(sections: Figures, path: Path, subtitle: str) -> bool:
    """Draw each peer's speed against real time; return False where nothing was compared."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [name for name in SECTIONS_WITH_PEERS if len(sections.get(name, {}).get("peers", {})) > 1]
    if not drawn:
        return False
    heights = [len(sections[name]["peers"]) + 1.2 for name in drawn]
    figure, all_axes = pyplot.subplots(
        len(drawn), figsize=(9, 0.8 + 0.36 * sum(heights)), height_ratios=heights, squeeze=False
    )
    for axes, name in zip(all_axes[:, 0], drawn, strict=True):
        peers = sorted(sections[name]["peers"].items(), key=lambda item: item[1]["times_real_time"])
        speeds = [found["times_real_time"] for _, found in peers]
        colours = [OUR_COLOUR if peer == OURS else THEIR_COLOUR for peer, _ in peers]
        bars = axes.barh([PEERS[peer].label for peer, _ in peers], speeds, color=colours)
        labels = [
            f"{speed:.1f}   WER {100 * found['wer']:.0f} %"
            for speed, (_, found) in zip(speeds, peers, strict=True)
        ]
        axes.bar_label(bars, labels, padding=4, fontsize=9)
        for label, (peer, _) in zip(axes.get_yticklabels(), peers, strict=True):
            label.set_fontweight("bold" if peer == OURS else "normal")
        axes.set_xlim(0, 1.25 * max(speeds))
        axes.set_title(SECTIONS_WITH_PEERS[name], loc="left", fontsize=11)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    all_axes[-1, 0].set_xlabel("seconds of audio transcribed in a second")
    figure.suptitle(subtitle, fontsize=10, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return True
