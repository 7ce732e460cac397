r"""Is each window written in the language that is spoken? Sixty recordings through `language=auto`.

    python bench/language.py --speech en=people/english --speech hi=people/hindi-valid.jsonl \
        --speech mr=people/marathi.jsonl --speech mr=data/mr/test-neural.jsonl

Each source is a manifest (JSONL) or a directory of recordings. Clips of one speaker, or of one source where
speakers are not told apart, are joined with pauses to recordings of 3 to 40 s; some of them go on in another
language. They go through the serving pipeline, as a request with `language=auto` does; with `--no-text` only
drafts are decoded, which takes less time and changes no language, but windows in which nothing is said are
counted as well. Writes bench/language.json, anew after each recording: how many windows with more
than 2 s of speech are in the right language, and how many were written in a language in doubt though both
neighbours were sure of another. Name no clips here on which the constants of `serve/language.py` were chosen.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track as progress  # noqa: E402
from rich.table import Table  # noqa: E402

from bench.serving.machine import machine_facts  # noqa: E402
from bench.serving.setup import SHIPPED  # noqa: E402
from serve.audio.decode import AudioLimits, decode_audio  # noqa: E402
from serve.audio.samples import SAMPLE_RATE, Samples  # noqa: E402
from serve.audio.segmentation import Window, WindowLimits, iter_windows  # noqa: E402
from serve.engine import EngineInput, Hypothesis, LanguageProbs  # noqa: E402
from serve.engine.scheduling.scheduler import Scheduler  # noqa: E402
from serve.engine.scheduling.ticket import Ticket  # noqa: E402
from serve.options import TranscriptionOptions  # noqa: E402
from serve.pipeline import Pipeline, is_said  # noqa: E402
from serve.service.loading import load_pipeline  # noqa: E402
from train.data.manifest import load_samples, read_manifest  # noqa: E402

RECORDING_S = (3.0, 40.0)
PAUSE_S = (0.3, 1.2)
LEAST_SPEECH_S = 2.0
"""A window with less speech is not counted."""
DOUBT_PROB = 0.5
SURE_PROB = 0.9
SUFFIXES = (".flac", ".wav", ".ogg", ".mp3", ".opus", ".m4a")


@dataclass(frozen=True)
class Source:
    """Clips in one language."""

    language: str
    path: Path
    speakers: tuple[tuple[Any, ...], ...]
    """The clips of each: of a manifest, or paths."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.language} {self.path.stem}"


@dataclass(frozen=True)
class Recording:
    """Speech whose languages are known."""

    name: str
    samples: Samples
    spoken: tuple[tuple[float, str], ...]
    """The second in which a language begins, and which."""

    def language_of(self, window: Window) -> str:
        """Return the language that is spoken in the most of a window."""
        ends = [start for start, _ in self.spoken[1:]] + [math.inf]
        first_s, last_s = window.start / SAMPLE_RATE, window.end / SAMPLE_RATE
        shares = [
            (min(end, last_s) - max(start, first_s), language)
            for (start, language), end in zip(self.spoken, ends, strict=True)
        ]
        return max(shares)[1]


@dataclass
class Noting:
    """Stands before the scheduler, and notes what the pipeline asks and what it is told."""

    ticket: Ticket
    writes_text: bool
    windows: list[Window] = field(default_factory=list)
    probs: list[LanguageProbs] = field(default_factory=list)
    heard: list[Hypothesis] = field(default_factory=list)
    n_drafts: int = 0

    def cut(self, blocks: Iterable[Samples], limits: WindowLimits) -> Iterator[tuple[Window, Samples]]:
        """Cut as the service does."""
        for window, samples in iter_windows(blocks, limits):
            self.windows.append(window)
            yield window, samples

    def detect_languages(self, windows: Sequence[EngineInput]) -> list[LanguageProbs]:
        """Ask, and note what the base model says of each window alone."""
        self.probs += (found := self.ticket.detect_languages(windows))
        return found

    def draft(self, windows: Sequence[EngineInput]) -> list[Hypothesis]:
        """Ask for drafts, and count them."""
        self.n_drafts += len(windows)
        return self.ticket.draft(windows)

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        """Decode, and note the language."""
        for hypothesis in self.ticket.decode(inputs) if self.writes_text else map(_unwritten, inputs):
            self.heard.append(hypothesis)
            yield hypothesis


def _unwritten(given: EngineInput) -> Hypothesis:
    """Return what stands for the text of a window that is not decoded."""
    assert given.options.language is not None, "it is settled before a window is decoded"
    language = given.options.language
    return Hypothesis(tokens=(), text="-", language=language, avg_logprob=0.0, no_speech_prob=0.0)


def read_source(text: str) -> Source:
    """Read `LANGUAGE=PATH`."""
    language, found, name = text.partition("=")
    path = Path(name)
    if not found or not path.exists():
        raise click.BadParameter(
            f"'{text}': name a language and what lies there, such as hi=people/hindi.jsonl"
        )
    speakers: dict[str, list[Any]] = {}
    if path.is_dir():
        speakers[""] = sorted(each for each in path.rglob("*") if each.suffix.lower() in SUFFIXES)
    else:
        for clip in read_manifest(path):
            speakers.setdefault(clip.voice or "", []).append(clip)
    if not any(speakers.values()):
        raise click.BadParameter(f"'{text}' holds no recordings")
    return Source(language, path, tuple(tuple(clips) for _, clips in sorted(speakers.items())))


def joined(source: Source, least_s: float, rng: np.random.Generator) -> Samples:
    """Join clips of one speaker until they last about `least_s`, or none is left; a lone long clip is cut."""
    clips = list(source.speakers[rng.integers(len(source.speakers))])
    rng.shuffle(clips)
    pieces: list[Samples] = []
    n_samples = 0
    while clips and n_samples < least_s * SAMPLE_RATE:
        clip = clips.pop()
        samples = (
            decode_audio(clip.read_bytes(), AudioLimits()) if isinstance(clip, Path) else load_samples(clip)
        )
        pause = rng.normal(0, 5e-4, round(rng.uniform(*PAUSE_S) * SAMPLE_RATE))
        pieces += [samples, pause.astype(np.float32)]
        n_samples += len(samples) + len(pause)
    return np.concatenate(pieces)[: round(RECORDING_S[1] * SAMPLE_RATE)]


def recordings(sources: Sequence[Source], count: int, n_switching: int, seed: int) -> list[Recording]:
    """Make recordings: of each language in turn, and of its sources in turn; some switch."""
    rng = np.random.default_rng(seed)
    languages = sorted({source.language for source in sources})
    turns = {code: [source for source in sources if source.language == code] for code in languages}

    def next_of(language: str) -> Source:
        turns[language].append(turns[language].pop(0))
        return turns[language][-1]

    # One further each time, so that they begin with different languages.
    turning = {int((each + 0.5) * count / n_switching) + each for each in range(n_switching)}
    made = []
    for number in range(count):
        source = next_of(languages[number % len(languages)])
        least_s = math.exp(rng.uniform(*np.log(RECORDING_S)))
        if number not in turning:
            samples = joined(source, least_s, rng)
            made.append(Recording(source.name, samples, ((0.0, source.language),)))
            continue
        other = next_of(
            languages[(number + 1 + number // len(languages) % (len(languages) - 1)) % len(languages)]
        )
        first, second = (joined(each, max(4.0, least_s / 2), rng) for each in (source, other))
        spoken = ((0.0, source.language), (len(first) / SAMPLE_RATE, other.language))
        made.append(Recording(f"{source.name} > {other.name}", np.concatenate([first, second]), spoken))
    return made


def hear(pipeline: Pipeline, scheduler: Scheduler, recording: Recording, writes_text: bool) -> dict[str, Any]:
    """Transcribe a recording; return its windows, each with what is spoken and what was written."""
    options = TranscriptionOptions(language="auto", beam_size=1)  # the text is not scored
    with scheduler.admit() as ticket:
        noting = Noting(ticket, writes_text)
        for _ in pipeline.transcribe(recording.samples, options, noting, noting.cut):
            pass
    windows = [
        {
            "speech_s": round(window.speech_samples / SAMPLE_RATE, 2),
            "spoken": recording.language_of(window),
            "written": hypothesis.language if is_said(window, hypothesis) else None,
            "own_prob": round(probs[hypothesis.language], 4),
            "likeliest": (best := max(probs, key=probs.__getitem__)),
            "likeliest_prob": round(probs[best], 4),
        }
        for window, probs, hypothesis in zip(noting.windows, noting.probs, noting.heard, strict=True)
    ]
    return {
        "recording": recording.name,
        "duration_s": round(len(recording.samples) / SAMPLE_RATE, 2),
        "drafts": noting.n_drafts,
        "windows": windows,
    }


def doubtful(windows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the windows written in a language in doubt, though each neighbour was sure of another."""
    for index, window in enumerate(windows):
        neighbours = [windows[each] for each in (index - 1, index + 1) if 0 <= each < len(windows)]
        sure = {each["likeliest"] for each in neighbours if each["likeliest_prob"] >= SURE_PROB}
        is_agreed = len(sure) == 1 and all(each["likeliest_prob"] >= SURE_PROB for each in neighbours)
        if (
            window["written"]
            and window["own_prob"] < DOUBT_PROB
            and is_agreed
            and window["written"] not in sure
        ):
            yield window


def figures_of(heard: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the whole, and of each kind of recording."""

    def share(some: Iterable[dict[str, Any]]) -> dict[str, Any]:
        counted = [window for window in some if window["speech_s"] > LEAST_SPEECH_S and window["written"]]
        n_right = sum(window["written"] == window["spoken"] for window in counted)
        wrong = Counter(
            f"{window['spoken']} as {window['written']}"
            for window in counted
            if window["written"] != window["spoken"]
        )
        percent = round(100 * n_right / len(counted), 1) if counted else None
        return {"windows": len(counted), "right": n_right, "right_percent": percent, "wrong": dict(wrong)}

    def windows_of(names: Iterable[str]) -> list[dict[str, Any]]:
        chosen = set(names)
        return [window for each in heard if each["recording"] in chosen for window in each["windows"]]

    names = sorted({each["recording"] for each in heard})
    everything = windows_of(names)
    return {
        "headline": {
            **share(everything),
            "recordings": len(heard),
            "recordings_that_switch": sum(" > " in each["recording"] for each in heard),
            "windows_without_text": sum(window["written"] is None for window in everything),
            "drafts": sum(each["drafts"] for each in heard),
            "doubtful_between_sure": sum(len(list(doubtful(each["windows"]))) for each in heard),
        },
        "switching": share(windows_of(name for name in names if " > " in name)),
        "sources": {name: share(windows_of([name])) for name in names if " > " not in name},
    }


def table_of(figures: dict[str, Any]) -> Table:
    """Return the shares as a table."""
    table = Table("recordings", "windows", "right", "%", "wrong")
    rows = {**figures["sources"], "that switch": figures["switching"], "all": figures["headline"]}
    for name, row in rows.items():
        wrong = ", ".join(f"{count} {what}" for what, count in row["wrong"].items())
        table.add_row(name, str(row["windows"]), str(row["right"]), str(row["right_percent"]), wrong)
    return table


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--speech", multiple=True, required=True, help="LANGUAGE=PATH of a manifest or directory.")
@click.option(
    "--model-dir",
    type=click.Path(exists=True, path_type=Path),
    default=SHIPPED,
    help="Artifact that is served.",
)
@click.option("--recordings", "count", default=60, show_default=True, help="How many are made.")
@click.option("--switching", default=5, show_default=True, help="How many of them change their language.")
@click.option("--seed", default=1, show_default=True, help="Of what is joined to what.")
@click.option("--text/--no-text", "writes_text", default=True, help="Whether windows are decoded.")
@click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="CPU threads of the engine.")
@click.option("--calibration", multiple=True, help="What the constants were chosen on; noted in the output.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=ROOT / "bench" / "language.json",
    help="Where the figures go.",
)
def main(
    speech: tuple[str, ...],
    model_dir: Path,
    count: int,
    switching: int,
    seed: int,
    writes_text: bool,
    threads: int,
    calibration: tuple[str, ...],
    output: Path,
) -> None:
    """Join recordings, hear them with `language=auto`, and count the windows in the right language."""
    sources = [read_source(each) for each in speech]
    if len({source.language for source in sources}) < 2 and switching:
        raise click.BadParameter("recordings that switch need --speech in two languages")
    console = Console(width=140)
    pipeline = load_pipeline(model_dir=model_dir, n_threads=threads)
    record: dict[str, Any] = {
        "command": " ".join(["python", "bench/language.py", *sys.argv[1:]]),
        "machine": machine_facts(threads),
        "calibrated_on": list(calibration),
        "windows_decoded": writes_text,
    }
    heard: list[dict[str, Any]] = []
    with Scheduler(pipeline.engine) as scheduler:
        for recording in progress(recordings(sources, count, switching, seed), console=console):
            heard.append(hear(pipeline, scheduler, recording, writes_text))
            figures = figures_of(heard)
            whole = json.dumps({**record, **figures, "heard": heard}, ensure_ascii=False, indent=1)
            output.write_text(whole + "\n", encoding="utf-8")
    console.print(table_of(figures))


if __name__ == "__main__":
    main()
