"""Samples in, segments out: the one function to read from top to bottom.

    pipeline = load_pipeline(model_dir=Path("model_artifacts/whisper-base-mr"))     # serve/loading.py
    for event in pipeline.transcribe(samples, TranscriptionOptions(language="mr")):
        ...
    transcripts = pipeline.transcribe_many(clips)                                   # offline, in batches

The service and the evaluation of a training run both go through it. Knows no web, no environment and no
runtime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from serve.engine import DecodingOptions, Engine, Hypothesis, LogMel, Task
from serve.errors import UnsupportedOption
from serve.features import MAX_WINDOW_S, SAMPLE_RATE, FeatureExtractor, Samples, window_length_s
from serve.options import DETECT, NO_ADAPTER, TranscriptionOptions
from serve.segmentation import Window, find_speech, pack_windows
from serve.transcript import End, Event, Segment, Start, Transcript, build_transcript

EngineInput = tuple[LogMel, DecodingOptions]
Decode = Callable[[Iterable[EngineInput]], Iterator[Hypothesis]]
"""Turns windows into hypotheses, in order. It pulls windows as it needs them, so that few exist at a time."""

Place = tuple[int, int]
"""Index of a clip, and of a window in it."""

TOKENS_PER_S = 24
"""Bound of the text tokens in a second of speech; fast Marathi reaches 20, three times as many as English."""

SPARE_TOKENS = 24
"""Added to that bound, for windows so short that one long word fills them."""

NO_SPEECH_PROB = 0.6
NO_SPEECH_LOGPROB = -1.0
"""A window is noise when the model says so and trusts its own words this little (openai/whisper)."""


@dataclass(frozen=True, kw_only=True)
class ServingFacts:
    """What the pipeline has to know about the model it serves. The defaults fit any bare base model."""

    adapter_name: str | None = None
    """Name under which the loaded adapter is asked for; None where there is none."""
    language: str | None = None
    """Language of requests that name none; None detects it."""
    task: Task = "transcribe"
    dynamic: bool = False
    """Whether the adapter reads windows of the speech's own length; the base model alone reads 30 s."""
    margin_s: float = 1.0
    """Silence behind the speech of a dynamic window."""
    max_window_s: float = MAX_WINDOW_S
    """Longest stretch of speech in a window."""
    max_first_window_s: float = 10.0
    """Longest first window, so that the first text comes early."""
    max_gap_s: float = 1.5
    """A longer pause ends a window."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One recording, cut into windows, and how each is decoded."""

    samples: Samples
    windows: list[Window]
    options: DecodingOptions
    dynamic: bool

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def in_language(self, language: str) -> _Job:
        return replace(self, options=replace(self.options, language=language))


class Pipeline:
    """Everything between decoded samples and a transcript."""

    def __init__(self, engine: Engine, features: FeatureExtractor, facts: ServingFacts | None = None) -> None:
        """Take a loaded engine, the features of its base model, and what is served."""
        self.engine = engine
        self.features = features
        self.facts = facts or ServingFacts()

    def transcribe(
        self, samples: Samples, options: TranscriptionOptions | None = None, decode: Decode | None = None
    ) -> Iterator[Event]:
        """Transcribe one recording, yielding a segment as soon as its window is decoded.

        Args:
            samples: (n_samples,) float32 mono at 16 kHz.
            options: What the caller asks for.
            decode: How windows reach the engine; one at a time, directly, if None.

        Yields:
            `Start`, any number of `Segment` in order, `End`.

        Raises:
            UnsupportedOption: The served model cannot do what is asked.
        """
        started = time.perf_counter()
        decode = decode or self._decode_directly
        decoding = self.resolve(options or TranscriptionOptions())
        yield Start(duration_s=len(samples) / SAMPLE_RATE, language=decoding.language)
        job = self._cut(samples, decoding)
        segments: list[Segment] = []
        for segment in _segments(job.windows, self._hypotheses(job, decode)):
            segments.append(segment)
            yield segment
        transcript = build_transcript(segments, duration_s=job.duration_s, language=decoding.language)
        yield End(transcript=transcript, processing_s=time.perf_counter() - started)

    def transcribe_many(
        self,
        clips: Sequence[Samples],
        options: TranscriptionOptions | Sequence[TranscriptionOptions] | None = None,
        *,
        max_batch_windows: int = 16,
        max_batch_s: float = 120.0,
    ) -> list[Transcript]:
        """Transcribe recordings offline, decoding windows of like length together.

        Args:
            clips: Recordings as in `transcribe`.
            options: For all clips, or one each.
            max_batch_windows: Most windows decoded together.
            max_batch_s: Most seconds of windows decoded together, padding included.
        """
        if options is None or isinstance(options, TranscriptionOptions):
            options = [options or TranscriptionOptions()] * len(clips)
        jobs = [self._cut(clip, self.resolve(option)) for clip, option in zip(clips, options, strict=True)]
        places = [(clip, index) for clip, job in enumerate(jobs) for index in range(len(job.windows))]
        hypotheses: dict[Place, Hypothesis] = {}

        # As in `transcribe`, a clip's first window settles the language of the rest.
        asked = [job.options.language for job in jobs]
        first_round = [(clip, index) for clip, index in places if index == 0 and asked[clip] is None]
        for these in (first_round, [place for place in places if place not in set(first_round)]):
            lengths_s = {place: self._window_s(jobs[place[0]], place[1]) for place in these}
            for batch in _batches(lengths_s, max_batch_windows, max_batch_s):
                log_mels, decodings = zip(*(self._input(jobs[clip], i) for clip, i in batch), strict=True)
                hypotheses.update(zip(batch, self.engine.transcribe_batch(log_mels, decodings), strict=True))
            if these is first_round:
                for clip, _ in first_round:
                    jobs[clip] = jobs[clip].in_language(hypotheses[clip, 0].language)

        transcripts = []
        for clip, job in enumerate(jobs):
            found = (hypotheses[clip, index] for index in range(len(job.windows)))
            segments = _segments(job.windows, found)
            transcripts.append(build_transcript(segments, duration_s=job.duration_s, language=asked[clip]))
        return transcripts

    def resolve(self, options: TranscriptionOptions) -> DecodingOptions:
        """Fill in what the caller left open, and refuse what the served model cannot do.

        Raises:
            UnsupportedOption: Names the option.
        """
        facts = self.facts
        served = [name for name in (facts.adapter_name, NO_ADAPTER) if name is not None]
        if options.adapter is not None and options.adapter not in served:
            raise UnsupportedOption(
                "adapter", f"'{options.adapter[:60]}' is not served here; {' or '.join(served)} is"
            )
        language = facts.language if options.language is None else options.language
        if language == DETECT:
            language = None
        if language is not None and language not in self.engine.languages:
            raise UnsupportedOption("language", f"the base model does not know '{language}'")
        return DecodingOptions(
            language=language,
            task=options.task or facts.task,
            adapter=facts.adapter_name is not None and options.adapter != NO_ADAPTER,
            temperature=options.temperature,
            seed=options.seed,
            prompt=options.prompt,
        )

    def _cut(self, samples: Samples, options: DecodingOptions) -> _Job:
        """Find the speech and pack it into windows that the model can read."""
        facts = self.facts
        dynamic = facts.dynamic and options.adapter
        longest_s = min(facts.max_window_s, MAX_WINDOW_S - facts.margin_s) if dynamic else MAX_WINDOW_S
        windows = pack_windows(
            find_speech(samples),
            len(samples),
            max_window_s=longest_s,
            max_first_window_s=min(longest_s, facts.max_first_window_s),
            max_gap_s=facts.max_gap_s,
            samples=samples,
        )
        return _Job(samples=samples, windows=windows, options=options, dynamic=dynamic)

    def _hypotheses(self, job: _Job, decode: Decode) -> Iterator[Hypothesis]:
        """Decode a job's windows; where no language is given, the first window settles it for all."""
        indices = range(len(job.windows))
        if job.options.language is None and job.windows:
            (hypothesis,) = decode([self._input(job, 0)])
            yield hypothesis
            job, indices = job.in_language(hypothesis.language), indices[1:]
        yield from decode(self._input(job, index) for index in indices)

    def _input(self, job: _Job, index: int) -> EngineInput:
        """Compute the features of a job's window, and how it is decoded."""
        window = job.windows[index]
        speech_s = sum(span.end - span.start for span in window.spans) / SAMPLE_RATE
        budget_tokens = math.ceil(speech_s * TOKENS_PER_S) + SPARE_TOKENS
        log_mel = self.features.log_mel(job.samples[window.start : window.end], self._window_s(job, index))
        return log_mel, replace(job.options, max_new_tokens=budget_tokens)

    def _window_s(self, job: _Job, index: int) -> float:
        if not job.dynamic:
            return MAX_WINDOW_S
        window = job.windows[index]
        return window_length_s(window.end - window.start, self.facts.margin_s)

    def _decode_directly(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        for log_mel, options in inputs:
            yield from self.engine.transcribe_batch([log_mel], [options])


def _segments(windows: Iterable[Window], hypotheses: Iterable[Hypothesis]) -> Iterator[Segment]:
    """Place hypotheses on the time axis, leaving out windows in which nothing was said."""
    n_segments = 0
    for window, hypothesis in zip(windows, hypotheses, strict=True):
        is_noise = hypothesis.no_speech_prob > NO_SPEECH_PROB and hypothesis.avg_logprob < NO_SPEECH_LOGPROB
        if is_noise or not hypothesis.text:
            continue
        yield Segment(
            id=n_segments,
            start_s=window.start / SAMPLE_RATE,
            end_s=window.end / SAMPLE_RATE,
            text=hypothesis.text,
            avg_logprob=hypothesis.avg_logprob,
            no_speech_prob=hypothesis.no_speech_prob,
            language=hypothesis.language,
        )
        n_segments += 1


def _batches(lengths_s: dict[Place, float], max_windows: int, max_s: float) -> Iterator[list[Place]]:
    """Group places by ascending length, the longest of a batch setting the length of all."""
    batch: list[Place] = []
    for place in sorted(lengths_s, key=lambda place: lengths_s[place]):
        if batch and (len(batch) >= max_windows or (len(batch) + 1) * lengths_s[place] > max_s):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
