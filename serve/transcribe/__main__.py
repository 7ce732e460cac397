"""Transcribe files: `shrota transcribe`, also `python -m serve.transcribe`.

Exit status: 0 if every file has its transcript, 1 if one has none (a sentence on standard error says why), 2
for unknown words on the command line, 130 when interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve.config.command_line import INTERRUPTED, Command, config_flag, exit_with, flags_of
from serve.config.reader import Given, read_dataclass
from serve.config.settings import CONFIG, Settings, unknown_settings
from serve.config.sources import PREFIX, flag_layer
from serve.errors import ConfigError, RequestError, ServiceError
from serve.options import TranscriptionOptions, parse_options
from serve.transcript.events import Event, Failure
from serve.transcript.formats import FORMATS, Encoder, Format, named_format

if TYPE_CHECKING:
    from serve.transcribe.files import Job, Problem
    from serve.transcribe.transcriber import Measured, Transcriber

SHIPPED_ARTIFACT = Path(__file__).parents[2] / "model_artifacts" / "whisper-base-mr"
"""Artifact that a checkout serves where no model is named."""

MODEL_FLAGS = (
    *("model_dir", "base_model", "encoder_context", "engine", "quantization"),
    *("n_threads", "cache_dir", "offline"),
)
"""Parameters of `serve.service.loading.load_pipeline`; importing that module would be too slow for --help."""
LIMIT_FLAGS = ("max_audio_s", "max_batch_windows", "max_batch_s")
FORMAT_NAMES = tuple(each.name for each in FORMATS)
OPTION_FLAGS = tuple(spec.name for spec in fields(TranscriptionOptions))

_MODEL = "Model and machine"

Report = Callable[["Problem"], None]


@dataclass(frozen=True, kw_only=True)
class Files:
    """Which recordings to transcribe, and where to write transcripts."""

    files: tuple[str, ...]
    """A recording, a folder of recordings, or a quoted pattern."""
    format: str = "text"
    """Format of the transcripts."""
    output_dir: Path | None = None
    """Directory for transcripts, with the recordings' folder structure; by default beside the recordings."""
    overwrite: bool = False
    """Replace existing transcripts."""


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """A checked command: files, format, options and settings."""

    files: Files
    format: Format
    options: TranscriptionOptions
    settings: Settings


def read_transcription(flags: Mapping[str, Any]) -> Transcription:
    """Read flags, environment and settings file.

    Raises:
        ConfigError: Lists every fault.
    """
    faults: list[str] = []
    own = {name: flags[name] for name in ("files", "format", "output_dir", "overwrite") if name in flags}
    files = read_dataclass(Files, flag_layer(own), faults, names={"files": "a recording or folder"})
    answer_format = None
    options, settings = read_options(flags, faults), read_settings(flags, faults)
    try:
        answer_format = named_format(flags.get("format", Files.format))
    except ServiceError as error:
        faults.append(str(error))
    if files is None or options is None or answer_format is None or settings is None:
        raise ConfigError(faults)
    return Transcription(files=files, format=answer_format, options=options, settings=settings)


def read_options(flags: Mapping[str, Any], faults: list[str]) -> TranscriptionOptions | None:
    """Read the options of a transcription; faults are appended."""
    try:
        return parse_options({name: flags[name] for name in OPTION_FLAGS if name in flags})
    except ServiceError as error:
        faults.append(str(error))
        return None


def read_settings(flags: Mapping[str, Any], faults: list[str]) -> Settings | None:
    """Read model and limits from flags, environment and settings file; faults are appended.

    The adapter of this checkout stands in where no model is named.
    """
    named = {name: flags[name] for name in (CONFIG, *MODEL_FLAGS, *LIMIT_FLAGS) if name in flags}
    has_own = Settings().model_dir.exists() or not SHIPPED_ARTIFACT.exists()
    shipped = {} if has_own else {"model_dir": Given(str(SHIPPED_ARTIFACT), "the shipped artifact")}
    try:
        return Settings.from_env(os.environ, named, fallback=shipped)
    except ConfigError as error:
        faults += error.faults
        return None


def transcribe(wanted: Transcription) -> int:
    """Transcribe the given files, and return the exit status."""
    from serve.config.logs import configure_logs

    configure_logs("error")
    for sentence in unknown_settings(os.environ):
        print(f"warning: {sentence}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        problems.append(problem)
        print(f"error: {problem.name}: {problem.sentence}", file=sys.stderr)

    names = wanted.files.files
    try:
        if len(names) == 1 and Path(names[0]).is_file() and wanted.files.output_dir is None:
            _print_transcript(Path(names[0]), wanted, report)
        else:
            _write_transcripts(wanted, report)
    except KeyboardInterrupt:
        print("interrupted: whole transcripts stay, and the same command resumes from there", file=sys.stderr)
        return INTERRUPTED
    return 1 if problems else 0


def _print_transcript(path: Path, wanted: Transcription, report: Report) -> None:
    """Print one transcript, as it comes if the format allows that."""
    from serve.config.progress import audio_bar
    from serve.transcribe.files import Job, Problem
    from serve.transcribe.transcriber import fault_of, measure, watched

    output = sys.stdout.buffer
    encoder = wanted.format.new_encoder()
    with _transcriber(wanted) as transcriber:
        try:
            measured = measure(Job(path, Path("-")))
            # On a terminal, streamed text replaces the progress bar.
            shown = not (wanted.format.streams and sys.stdout.isatty())
            whole = b""
            with audio_bar(path.name, measured.expected_s, shown=shown) as bar:
                events = watched(transcriber.transcribe(path), bar, measured.expected_s)
                if wanted.format.streams:
                    for piece in _streamed(events, encoder):
                        output.write(piece)
                        output.flush()
                else:
                    whole = b"".join([encoder.encode(event) for event in events])
            output.write(whole)
            output.flush()
        except BrokenPipeError:  # the reader has closed the pipe: the interpreter's last flush must not fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ServiceError, OSError) as error:
            report(Problem(str(path), fault_of(error)))


def _streamed(events: Iterator[Event], encoder: Encoder) -> Iterator[bytes]:
    """Yield a transcript piece by piece; if it breaks off, its last piece says so, as over HTTP.

    Raises:
        ServiceError: The recording is not usable, or the transcription broke off.
    """
    is_begun = False
    try:
        for event in events:
            yield encoder.encode(event)
            is_begun = True
    except ServiceError as error:
        if is_begun:
            is_callers = isinstance(error, RequestError)
            yield encoder.encode(Failure(code=error.code, message=str(error), is_callers=is_callers))
        raise


def _write_transcripts(wanted: Transcription, report: Report) -> None:
    """Write the missing transcripts, and print a summary."""
    from serve.config.progress import audio_bar
    from serve.transcribe.files import find_files, plan_jobs

    files, unknown = find_files(wanted.files.files)
    jobs, clashes = plan_jobs(files, wanted.format.suffix, wanted.files.output_dir)
    to_do = [job for job in jobs if wanted.files.overwrite or not job.target.exists()]
    measured = list(_measured(to_do, report))
    for problem in (*unknown, *clashes):
        report(problem)
    if n_done := len(jobs) - len(to_do):
        print(f"{n_done} have transcripts already; --overwrite replaces them", file=sys.stderr)
    if not measured:
        return
    n_written = 0

    def announce(job: Job) -> None:
        nonlocal n_written
        n_written += 1
        sys.stdout.buffer.write(os.fsencode(job.target) + b"\n")  # a name need not be UTF-8
        sys.stdout.buffer.flush()

    with _transcriber(wanted) as transcriber:
        started = time.monotonic()
        with audio_bar("transcribing", sum(each.expected_s for each in measured)) as bar:
            transcriber.write_all(measured, wanted.format, bar, on_written=announce, on_problem=report)
        speed = bar.done_s / (time.monotonic() - started)
    figures = f"{bar.done_s:.0f} s of audio at {speed:.1f} x real time"
    print(f"{n_written} transcripts written, {len(measured) - n_written} failed: {figures}", file=sys.stderr)


def _measured(jobs: Sequence[Job], report: Report) -> Iterator[Measured]:
    from serve.transcribe.files import Problem
    from serve.transcribe.transcriber import fault_of, measure

    for job in jobs:
        try:
            yield measure(job)
        except OSError as error:
            report(Problem(str(job.source), fault_of(error)))


@contextmanager
def _transcriber(wanted: Transcription) -> Iterator[Transcriber]:
    """Load the model, and free it afterwards.

    Raises:
        StartupError: The model cannot be loaded.
        UnsupportedOption: The model does not support an option.
    """
    from rich.console import Console

    from serve.audio.decode import AudioLimits
    from serve.service.loading import load_pipeline
    from serve.transcribe.transcriber import Transcriber

    settings = wanted.settings
    with Console(stderr=True).status("loading the model"):
        pipeline = load_pipeline(**{name: getattr(settings, name) for name in MODEL_FLAGS})
    transcriber = Transcriber(
        pipeline,
        wanted.options,
        audio_limits=AudioLimits(max_audio_s=settings.max_audio_s),
        max_batch_windows=settings.max_batch_windows,
        max_batch_s=settings.max_batch_s,
    )
    try:
        yield transcriber
    finally:
        transcriber.close()


def engine_flags() -> list[click.Option]:
    """Return the flags of options, model and limits."""
    return [
        *flags_of(
            TranscriptionOptions,
            heading="Transcription options, with the same values as in requests",
            bare=True,
        ),
        config_flag("File of settings, YAML or TOML. [SHROTA_CONFIG]", heading=_MODEL),
        *flags_of(Settings, (*MODEL_FLAGS, *LIMIT_FLAGS), heading=_MODEL, prefix=PREFIX, bare=True),
    ]


command = Command(
    "transcribe",
    read=read_transcription,
    run=transcribe,
    about="""Transcribe recordings.

The transcript of a single file is printed. For several files, and for folders, each transcript is written
to a file, beside the recording or in --output-dir, and the file's name is printed. Existing transcripts are
kept, so the same command resumes a run that was stopped. The default model is the one in /opt/ml/model, or
else the Marathi adapter of this checkout.""",
    examples="""\
shrota transcribe speech.mp3
shrota transcribe lecture.mp4 --format srt > lecture.srt
shrota transcribe recordings/ --output-dir transcripts --format verbose_json --word-timestamps
shrota transcribe 'calls/**/*.wav' --channels split --format ndjson --model-dir my-artifact
""",
    flags=[
        *flags_of(Files, ("format", "output_dir", "overwrite"), bare=True, choices={"format": FORMAT_NAMES}),
        *engine_flags(),
    ],
    words="files",
    many_words=True,
    leaves_at_once=True,
)


if __name__ == "__main__":
    exit_with(command)
