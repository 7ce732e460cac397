from __future__ import annotations

import io

from rich.console import Console

from bench.serving.report import draw_speeds, headline, tables


def peer(speed: float, ratio: float | None = None) -> dict[str, object]:
    latency = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    pairs = {"median": ratio, "quartile_1": ratio, "quartile_3": ratio}
    figures = {"times_real_time": speed, "latency_s": latency, "peak_gib": 0.5, "wer": 0.1, "cer": 0.02}
    return figures | ({"time_ratio": pairs} if ratio else {})


SECTIONS = {
    "short": {
        "peers": {
            "ours": peer(20.0),
            "faster-whisper": peer(5.0, 4.0),
            "faster-whisper-batched": peer(6.0, 3.5),
            "faster-whisper-beam5": peer(8.0, 2.0),
        }
    },
    "start": {"ready_s": 4.0, "runs_s": [4.0]},
}


def test_the_headline_compares_with_the_fastest_greedy_faster_whisper():
    found = headline(SECTIONS)
    assert found["short_time_ratio_best_faster_whisper"] == 3.5
    assert found["start_to_ready_s"] == 4.0


def test_every_peer_stands_in_the_table_fastest_first():
    console = Console(width=150, file=io.StringIO(), record=True)
    for table in tables(SECTIONS):
        console.print(table)
    printed = console.export_text()
    places = [printed.index(label) for label in ("shrota", "int8, beam 5", "int8, batched", "int8  ")]
    assert places == sorted(places)
    assert "3.50 (3.50 to 3.50)" in printed and "start, ready s" in printed


def test_the_picture_is_drawn_where_there_is_something_to_compare(tmp_path):
    assert draw_speeds(SECTIONS, tmp_path / "speed.png", "two threads")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert not draw_speeds({"start": SECTIONS["start"]}, tmp_path / "none.png", "")
