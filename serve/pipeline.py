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
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from serve.engine import DecodingOptions, Engine, Hypothesis, LogMel, Task
from serve.errors import UnsupportedOption
from serve.features import MAX_WINDOW_S, SAMPLE_RATE, FeatureExtractor, Samples, window_length_s
from serve.options import DETECT, NO_ADAPTER, TranscriptionOptions
from serve.segmentation import Window, iter_speech, iter_windows
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
        decoding = self.resolve(options or TranscriptionOptions())
        duration_s = len(samples) / SAMPLE_RATE
        yield Start(duration_s=duration_s, language=decoding.language)

        windows = self._windows(samples, decoding)
        decoded = self._decode(samples, windows, decoding, decode or self._decode_directly)
        segments: list[Segment] = []
        for segment in _segments(decoded):
            segments.append(segment)
            yield segment

        transcript = build_transcript(segments, duration_s=duration_s, language=decoding.language)
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
        decodings = [self.resolve(option) for option in options]
        windows = [list(self._windows(*each)) for each in zip(clips, decodings, strict=True)]
        places = [(clip, index) for clip, found in enumerate(windows) for index in range(len(found))]
        hypotheses: dict[Place, Hypothesis] = {}

        # As in `transcribe`, a clip's first window settles the language of the rest.
        asked = [decoding.language for decoding in decodings]
        settling = [(clip, index) for clip, index in places if index == 0 and asked[clip] is None]
        for these in (settling, [place for place in places if place not in set(settling)]):
            lengths_s = {(clip, i): self._window_s(windows[clip][i], decodings[clip]) for clip, i in these}
            for batch in _batches(lengths_s, max_batch_windows, max_batch_s):
                inputs = [self._input(clips[clip], windows[clip][i], decodings[clip]) for clip, i in batch]
                log_mels, each = zip(*inputs, strict=True)
                hypotheses.update(zip(batch, self.engine.transcribe_batch(log_mels, each), strict=True))
            if these is settling:
                for place in settling:
                    language = hypotheses[place].language
                    decodings[place[0]] = replace(decodings[place[0]], language=language)

        return [
            build_transcript(
                _segments((window, hypotheses[clip, index]) for index, window in enumerate(windows[clip])),
                duration_s=len(samples) / SAMPLE_RATE,
                language=asked[clip],
            )
            for clip, samples in enumerate(clips)
        ]

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

    def _windows(self, samples: Samples, decoding: DecodingOptions) -> Iterator[Window]:
        """Find the speech and pack it into windows that the model can read, going through the recording."""
        facts = self.facts
        dynamic = self._reads_short_windows(decoding)
        longest_s = min(facts.max_window_s, MAX_WINDOW_S - facts.margin_s) if dynamic else MAX_WINDOW_S
        return iter_windows(
            iter_speech(samples),
            max_window_s=longest_s,
            max_first_window_s=min(longest_s, facts.max_first_window_s),
            max_gap_s=facts.max_gap_s,
            samples=samples,
        )

    def _decode(
        self, samples: Samples, windows: Iterator[Window], decoding: DecodingOptions, decode: Decode
    ) -> Iterator[tuple[Window, Hypothesis]]:
        """Decode windows in order; where no language is given, the first window settles it for all."""
        if decoding.language is None and (first := next(windows, None)) is not None:
            (hypothesis,) = decode([self._input(samples, first, decoding)])
            yield first, hypothesis
            decoding = replace(decoding, language=hypothesis.language)
        pulled: deque[Window] = deque()

        def inputs() -> Iterator[EngineInput]:
            for window in windows:
                pulled.append(window)
                yield self._input(samples, window, decoding)

        for hypothesis in decode(inputs()):
            yield pulled.popleft(), hypothesis

    def _input(self, samples: Samples, window: Window, decoding: DecodingOptions) -> EngineInput:
        """Compute a window's features, and bound its text by the speech in it."""
        speech_s = sum(span.end - span.start for span in window.spans) / SAMPLE_RATE
        budget_tokens = math.ceil(speech_s * TOKENS_PER_S) + SPARE_TOKENS
        log_mel = self.features.log_mel(samples[window.start : window.end], self._window_s(window, decoding))
        return log_mel, replace(decoding, max_new_tokens=budget_tokens)

    def _window_s(self, window: Window, decoding: DecodingOptions) -> float:
        if not self._reads_short_windows(decoding):
            return MAX_WINDOW_S
        return window_length_s(window.end - window.start, self.facts.margin_s)

    def _reads_short_windows(self, decoding: DecodingOptions) -> bool:
        return self.facts.dynamic and decoding.adapter  # the base model alone loops on them

    def _decode_directly(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        for log_mel, options in inputs:
            yield from self.engine.transcribe_batch([log_mel], [options])


def _segments(decoded: Iterable[tuple[Window, Hypothesis]]) -> Iterator[Segment]:
    """Place hypotheses on the time axis, leaving out windows in which nothing was said."""
    n_segments = 0
    for window, hypothesis in decoded:
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
