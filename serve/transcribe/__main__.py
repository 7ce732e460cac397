"""Transcribe files from the command line: `python -m serve.transcribe --help` has examples.

Exit status: 0 when every file has its transcript, 1 when one has none (a sentence on standard error says
why), 2 for flags that cannot be parsed, 130 when interrupted.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from rich.console import Console

from serve.audio.decode import AudioLimits
from serve.config.flags import add_flag, field_docs
from serve.config.logs import configure_logs
from serve.config.progress import audio_bar
from serve.config.settings import ENV_PREFIX, Settings, add_setting_flags
from serve.errors import ServiceError, ShrotaError
from serve.options import TranscriptionOptions, parse_options
from serve.service.loading import load_pipeline
from serve.transcribe.files import Job, Problem, find_files, plan_jobs
from serve.transcribe.transcriber import Measured, Transcriber, fault_of, measure, watched
from serve.transcript.formats import FORMATS, Format, named_format

SHIPPED_ARTIFACT = Path(__file__).parents[2] / "model_artifacts" / "whisper-base-mr"
"""What a checkout uses where no model is named."""

MODEL_FLAGS = tuple(inspect.signature(load_pipeline).parameters)
LIMIT_FLAGS = ("max_audio_s", "max_batch_windows", "max_batch_s")
OPTION_FLAGS = tuple(spec.name for spec in fields(TranscriptionOptions))

INTERRUPTED = 130

Report = Callable[[Problem], None]


def main(arguments: Sequence[str]) -> int:
    """Transcribe what the arguments name, and return the exit status."""
    args = _parser().parse_args(arguments)
    configure_logs("error")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        problems.append(problem)
        print(f"error: {problem.name}: {problem.sentence}", file=sys.stderr)

    try:
        settings = Settings.from_flags(_environ(os.environ, args), vars(args))
        answer_format = named_format(args.format)
        given = {name: value for name in OPTION_FLAGS if (value := getattr(args, name)) is not None}
        options = parse_options(given)
        if len(args.files) == 1 and Path(args.files[0]).is_file() and args.output_dir is None:
            _print_transcript(Path(args.files[0]), settings, options, answer_format, report)
        else:
            _write_transcripts(args, settings, options, answer_format, report)
    except ShrotaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: whole transcripts stay, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 1 if problems else 0


def _print_transcript(
    path: Path, settings: Settings, options: TranscriptionOptions, answer_format: Format, report: Report
) -> None:
    """Write one transcript to standard output, as it becomes known where the format allows it."""
    output = sys.stdout.buffer
    encoder = answer_format.new_encoder()
    with _transcriber(settings, options, answer_format) as transcriber:
        try:
            measured = measure(Job(path, Path("-")))
            # On a terminal, text that comes as it is heard shows best how far the work is.
            shown = not (answer_format.streams and sys.stdout.isatty())
            whole = b""
            with audio_bar(path.name, measured.expected_s, shown=shown) as bar:
                for event in watched(transcriber.transcribe(path), bar, measured.expected_s):
                    piece = encoder.encode(event)
                    if answer_format.streams:
                        output.write(piece)
                        output.flush()
                    else:
                        whole += piece
            output.write(whole)
            output.flush()
        except BrokenPipeError:  # whoever reads has read enough; nor shall the interpreter's last flush fail
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except (ServiceError, OSError) as error:
            report(Problem(str(path), fault_of(error)))


def _write_transcripts(
    args: argparse.Namespace,
    settings: Settings,
    options: TranscriptionOptions,
    answer_format: Format,
    report: Report,
) -> None:
    """Write a transcript for every recording that has none yet, and say what became of them."""
    files, unknown = find_files(args.files)
    jobs, clashes = plan_jobs(files, answer_format.suffix, args.output_dir)
    to_do = [job for job in jobs if args.overwrite or not job.target.exists()]
    measured = list(_measured(to_do, report))
    for problem in (*unknown, *clashes):
        report(problem)
    if n_done := len(jobs) - len(to_do):
        print(f"{n_done} have transcripts already; --overwrite writes them anew", file=sys.stderr)
    if not measured:
        return
    n_written = 0

    def announce(job: Job) -> None:
        nonlocal n_written
        n_written += 1
        print(job.target, flush=True)

    with _transcriber(settings, options, answer_format) as transcriber:
        started = time.monotonic()
        with audio_bar("transcribing", sum(each.expected_s for each in measured)) as bar:
            transcriber.write_all(measured, bar, on_written=announce, on_problem=report)
        speed = bar.done_s / (time.monotonic() - started)
    figures = f"{bar.done_s:.0f} s of audio at {speed:.1f} x real time"
    print(f"{n_written} transcripts written, {len(measured) - n_written} failed: {figures}", file=sys.stderr)


def _measured(jobs: Sequence[Job], report: Report) -> Iterator[Measured]:
    for job in jobs:
        try:
            yield measure(job)
        except OSError as error:
            report(Problem(str(job.source), fault_of(error)))


@contextmanager
def _transcriber(
    settings: Settings, options: TranscriptionOptions, answer_format: Format
) -> Iterator[Transcriber]:
    """Load the model, and free it afterwards.

    Raises:
        StartupError: It cannot be loaded.
        UnsupportedOption: It cannot do what is asked.
    """
    with Console(stderr=True).status("loading the model"):
        pipeline = load_pipeline(**{name: getattr(settings, name) for name in MODEL_FLAGS})
    transcriber = Transcriber(
        pipeline,
        options,
        answer_format,
        audio_limits=AudioLimits(max_audio_s=settings.max_audio_s),
        max_batch_windows=settings.max_batch_windows,
        max_batch_s=settings.max_batch_s,
    )
    try:
        yield transcriber
    finally:
        transcriber.close()


def _environ(environ: Mapping[str, str], args: argparse.Namespace) -> Mapping[str, str]:
    """Return the environment, with the shipped artifact as the model where nothing names another."""
    named = [args.model_dir, args.base_model]
    named += [environ.get(f"{ENV_PREFIX}{name}") for name in ("MODEL_DIR", "BASE_MODEL")]
    if any(named) or Settings().model_dir.exists() or not SHIPPED_ARTIFACT.exists():
        return environ
    return {**environ, f"{ENV_PREFIX}MODEL_DIR": str(SHIPPED_ARTIFACT)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serve.transcribe",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="a recording, a folder of recordings, or a quoted pattern"
    )
    names = ", ".join(each.name for each in FORMATS)
    parser.add_argument(
        "--format", metavar="NAME", default="text", help=f"how transcripts are written: {names} [text]"
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", type=Path, help="where transcripts go, in folders like the recordings'"
    )
    parser.add_argument("--overwrite", action="store_true", help="write transcripts that exist anew")
    options = parser.add_argument_group("what to hear", "the options of the service, with the same values")
    defaults, docs = TranscriptionOptions(), field_docs(TranscriptionOptions)
    for name in OPTION_FLAGS:
        switch = isinstance(getattr(defaults, name), bool)
        add_flag(options, name, docs[name], switch=switch, bare=True)
    model = parser.add_argument_group("model and machine")
    add_setting_flags(model, (*MODEL_FLAGS, *LIMIT_FLAGS), bare_switches=True)
    return parser


_DESCRIPTION = """\
Transcribe recordings. The transcript of a single file is printed. Of several files,
and of folders, each gets a file of its own, beside the recording or in --output-dir;
its name is printed. Transcripts that exist are not written again, so a run that was
stopped goes on where it was. Where no model is named, the one in /opt/ml/model hears,
or else the Marathi adapter of this checkout.
"""

_EXAMPLES = """\
examples:
  python -m serve.transcribe speech.mp3
  python -m serve.transcribe lecture.mp4 --format srt > lecture.srt
  python -m serve.transcribe recordings/ --output-dir transcripts --format verbose_json --word-timestamps
  python -m serve.transcribe 'calls/**/*.wav' --channels split --format ndjson --model-dir my-artifact
"""


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: it would wait for threads that are still inside a product of matrices or an ffmpeg child.
    os._exit(status)
