"""Pictures: what is drawn, in both themes, and words in scripts that matplotlib's own font lacks."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from train.evaluate import pictures
from train.evaluate.confusions import Confusion
from train.evaluate.findings import find_findings
from train.evaluate.pictures import (
    PALETTES,
    SOURCE_COLOURS,
    draw_confusions,
    draw_durations,
    draw_learning_curve,
    draw_scores,
    draw_throughput,
    find_font,
)

ROWS = [
    {"step": step, "loss": 3.0 / step, "learning_rate": 1e-3, "samples_per_s": 2.0, "audio_s_per_s": 9.0}
    for step in range(1, 20)
]
CONFUSIONS = [Confusion(reference="किती", hypothesis="कीती", count=3)]


def colours(png: bytes) -> set[str]:
    image = (matplotlib.image.imread(io.BytesIO(png))[::2, ::2, :3] * 255).round().astype(int)
    return {f"#{colour:06x}" for colour in np.unique(image @ [1 << 16, 1 << 8, 1])}


@pytest.mark.parametrize("theme", PALETTES)
@pytest.mark.parametrize("validated", [True, False])
def test_the_curve_shows_validation_where_there_is_any(theme, validated):
    rows = [*ROWS, *([{"step": 10, "valid_loss": 0.5}] * validated)]
    shown = colours(draw_learning_curve(rows, "tiny", theme))
    assert {PALETTES[theme].paper} <= shown
    assert (PALETTES[theme].accent in shown) == validated


@pytest.mark.parametrize("theme", PALETTES)
def test_each_source_of_validation_clips_has_a_line_of_its_own(theme):
    mean = [{"step": step, "valid_loss": 0.5} for step in (10, 15)]
    each = [
        {"step": step, "set": source, "valid_loss": loss}
        for step in (10, 15)
        for source, loss in {"people": 0.9, "machines": 0.1}.items()
    ]
    kinds = [{"step": 10, "set": "kind-people", "valid_wer": 61.0, "valid_cer": 18.0}]
    both, alone = (
        colours(draw_learning_curve([*ROWS, *mean, *rows], "tiny", theme)) for rows in (each + kinds, [])
    )
    assert {PALETTES[theme].accent, *SOURCE_COLOURS[:2]} <= both
    assert SOURCE_COLOURS[2] not in both and not set(SOURCE_COLOURS) & alone


def test_steps_without_a_loss_leave_a_gap_and_no_fault():
    draw_learning_curve([{**ROWS[0], "loss": None}, *ROWS[1:]], "tiny")


@pytest.mark.parametrize("theme", PALETTES)
def test_base_and_tuned_stand_side_by_side_in_their_colours(results, theme):
    durations = find_findings(results["test-everyday"]).durations
    for picture in (draw_scores(results, theme), draw_durations(durations, theme)):
        assert {PALETTES[theme].base, PALETTES[theme].tuned} <= colours(picture)


def test_a_model_alone_and_one_without_errors_are_drawn(results):
    alone = {"test": {"base": results["test-everyday"]["base"]}}
    assert draw_scores(alone).startswith(b"\x89PNG")
    perfect = {**results["test-everyday"]["tuned"]}
    perfect["scores"] = {"marathi": {"wer": 0.0, "wer_low": 0.0, "wer_high": 0.0}}
    assert draw_scores({"test": {"tuned": perfect}}).startswith(b"\x89PNG")


def test_throughput_is_drawn():
    assert PALETTES["light"].tuned in colours(draw_throughput(ROWS))


def test_the_same_picture_twice_is_the_same_to_the_bit():
    assert draw_confusions(CONFUSIONS) == draw_confusions(CONFUSIONS)


def test_latin_needs_no_other_font_and_letters_of_no_script_find_none():
    assert find_font("abc → ∅") == "DejaVu Sans"
    assert find_font("\U0010fffd") is None  # for private use: only a font of last resort claims it


def test_without_a_font_for_its_words_the_picture_numbers_the_bars(monkeypatch):
    monkeypatch.setattr(pictures, "find_font", lambda text: None)
    assert draw_confusions(CONFUSIONS).startswith(b"\x89PNG")  # a missing letter would be a warning: an error


@pytest.mark.skipif(find_font("कीती") is None, reason="no installed font holds Devanagari")
def test_devanagari_is_shaped():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def width(text):
        figure = Figure(dpi=100)
        drawn = figure.text(0, 0, text, family=["DejaVu Sans", find_font(text)], fontsize=40)
        return drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width

    assert width("क्ष") < 0.9 * (width("क") + width("ष"))  # one conjunct, not two letters with a virama
