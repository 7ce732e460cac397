"""Samples in, segments out: the one function to read from top to bottom.

    pipeline = load_pipeline(model_dir=Path("model_artifacts/whisper-base-mr"))     # serve/service/loading.py
    with open_audio(data, AudioLimits()) as recording:                              # serve/audio/decode.py
        for event in pipeline.transcribe(recording, TranscriptionOptions(language="mr")):
            ...
    transcripts = pipeline.transcribe_many(clips)                                   # offline, concurrently

The service, the transcription of files, and the evaluation of a training run all use this module, which
reaches the engine through a scheduler. It knows no web, no environment and no runtime. A request passes
through these calls, from its route to its text:

     1  transcribe_body           serve/http/transcription.py           in the event loop
     2  asked_outside_body        serve/http/sagemaker/invocations.py   options by headers and query
     3  Service.admit             serve/service/service.py              before the body, and again after it
     4  read_body                 serve/http/door/body.py
     5  Invocation.read_recording serve/http/sagemaker/invocations.py   recording and options of the body
     6  whole_answer              serve/http/transcription.py
     7  Service.transcribe        serve/service/service.py
     8  Place.transcribe          serve/service/place.py                in the request's thread
     9  open_audio                serve/audio/decode.py
    10  Pipeline.transcribe       serve/pipeline.py
    11  Pipeline._decoded         serve/pipeline.py
    12  Ticket.decode             serve/engine/scheduling/ticket.py
    13  Pipeline._inputs          serve/pipeline.py                     features, while there is room
    14  Scheduler._run            serve/engine/scheduling/scheduler.py  in an engine thread
    15  Scheduler._call           serve/engine/scheduling/scheduler.py  a batch of one kind
    16  CTranslate2Engine.decode  serve/engine/ctranslate2/engine.py      in the engine's own process
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from serve.audio.features import MAX_WINDOW_S, FeatureExtractor, window_length_s
from serve.audio.mixing import chosen_channels
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import Window, WindowLimits, find_speech, iter_windows
from serve.engine import (
    SERVED_ADAPTER,
    DecodingOptions,
    Engine,
    EngineInput,
    Hypothesis,
    Task,
    tracing,
)
from serve.engine.fallback import NO_SPEECH_PROB, is_no_speech
from serve.engine.scheduling.admission import Admission
from serve.engine.scheduling.fair_queue import BatchLimits
from serve.engine.scheduling.scheduler import Scheduler
from serve.errors import UnsupportedOption
from serve.language import (
    LanguageTrack,
    Listening,
    in_language,
    settle_recording,
    settle_windows,
    whole_window,
)
from serve.options import DETECT, NO_ADAPTER, TranscriptionOptions
from serve.transcript.events import End, Event, Segment, Start, Transcript, build_transcript
from serve.transcript.timeline import Timeline

MAX_SIDE_BY_SIDE = 64
"""Recordings transcribed concurrently offline."""

USUAL_BEAM_SIZE = 2
"""Takes a tenth more time than greedy search, for up to one point lower word error rate in echo and noise."""

TOKENS_PER_S = 24
"""Limit of text tokens per second of speech; fast Marathi reaches 20, three times as many as English."""

SPARE_TOKENS = 24
"""Added to that limit, for windows so short that one long word fills them."""

MAX_GAP_UNTOLD_S = 0.3
"""The longest pause in a window whose language is not told: behind it another language may be spoken."""

DOUBTFUL_SPEECH_PROB = 0.75
DOUBTED_LOGPROB = -0.5
"""If a window lies below both, the model's no-speech probability decides. Of 598 clips of speech, some in
echoing rooms and by telephone, 5 lie below the first, and none of these below the second. Noise that the base
model takes for a word lies below both."""


@dataclass(frozen=True, kw_only=True)
class ServingFacts:
    """What the pipeline needs to know about the served model. The defaults fit a base model alone."""

    adapter_name: str | None = None
    """Name of the loaded adapter in requests; None where there is none."""
    adapter_key: str = SERVED_ADAPTER
    """Key of the adapter in the engine."""
    language: str | None = None
    """Language of requests that name none; None detects it."""
    task: Task = "transcribe"
    dynamic: bool = False
    """Whether the adapter reads windows of the speech's own length; the base model alone needs 30 s."""
    margin_s: float = 1.0
    """Silence after the speech of a dynamic window, in seconds."""
    max_window_s: float = MAX_WINDOW_S
    """Longest span of speech in a window, in seconds."""
    max_packed_s: float = 8.0
    """Longest dynamic window of several spans. Every token attends to the whole window, and so does every
    encoder frame: ten minutes in windows of up to 14 s take a third longer than in windows of 8 s."""
    max_first_window_s: float = 10.0
    """Longest first window, so that the first text comes early, in seconds."""
    max_gap_s: float = 1.5
    """A longer pause ends a window, in seconds."""
    timestamps: bool = False
    """Whether the adapter was trained to emit the times of sentences."""
    known_text: str | None = None
    """What the exported adapter wrote for a known recording."""


Cut = Callable[[Iterable[Samples], WindowLimits], Iterator[tuple[Window, Samples]]]
"""Finds windows in blocks of samples, each (n_channels, n_samples)."""


class Decoder(Listening, Protocol):
    """How windows reach the engine: a scheduler's ticket, or a wrapper of one."""

    def decode(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        """Yield a hypothesis for every window, in order; windows are read as needed."""


class Pipeline:
    """Turns samples into a transcript."""

    def __init__(
        self,
        engine: Engine,
        features: FeatureExtractor,
        facts: ServingFacts | None = None,
        *,
        base_dir: Path | None = None,
        prepare: Callable[[DecodingOptions], None] = lambda decoding: None,
    ) -> None:
        """Wrap a loaded engine.

        Args:
            base_dir: Checkpoint of the base model, for adapters that are added later.
            prepare: Loads what options need; called before the first event of a recording.
        """
        self.engine = engine
        self.features = features
        self.facts = facts or ServingFacts()
        self.base_dir = base_dir
        self.prepare = prepare
        """Loads what options need."""

    def transcribe(
        self,
        recording: Recording | Samples,
        options: TranscriptionOptions | None = None,
        decoder: Decoder | None = None,
        cut: Cut = iter_windows,
    ) -> Iterator[Event]:
        """Transcribe one recording, yielding each segment once its window is decoded.

        Args:
            recording: Read block by block as decoding goes on; or float32 samples at 16 kHz, (n_samples,) or
                (n_channels, n_samples).
            decoder: How windows reach the engine; None makes a scheduler for this recording alone.
            cut: Cuts the recording into windows; a caller may look on.

        Yields:
            `Start`, any number of `Segment` in order of their start, `End`.

        Raises:
            UnsupportedOption: The served model does not support an option.
            ServiceError: Reading or decoding the recording failed.
        """
        if decoder is None:
            with Scheduler(self.engine, frees_engine=False) as scheduler, scheduler.admit() as ticket:
                yield from self.transcribe(recording, options, ticket, cut)
            return
        started = time.perf_counter()
        options = options or TranscriptionOptions()
        decoding = self.resolve(options)
        if not isinstance(recording, Recording):
            recording = Recording.of(recording)
        is_split = options.channels == "split"
        recording = chosen_channels(recording, split=is_split)
        self.prepare(decoding)
        yield Start(duration_s=recording.duration_s, language=decoding.language, sound=recording.report)

        windows = tracing.each("find speech", cut(recording.blocks(), self._limits(decoding)))
        timeline = Timeline(split=is_split, words=decoding.word_timestamps)
        said: list[Hypothesis] = []
        track = LanguageTrack(decoding.expected_language)
        for window, hypothesis in self._decoded(windows, decoding, decoder, track):
            heard = hypothesis if is_said(window, hypothesis) else None
            if heard is not None:
                said.append(heard)
            yield from timeline.place(window, heard)
        yield from timeline.rest()

        transcript = _transcript(timeline.segments, decoding, said, recording)
        yield End(transcript=transcript, processing_s=time.perf_counter() - started)

    def transcribe_many(
        self,
        clips: Sequence[Samples],
        options: TranscriptionOptions | Sequence[TranscriptionOptions] | None = None,
        limits: BatchLimits | None = None,
    ) -> list[Transcript]:
        """Transcribe recordings offline and concurrently, so that windows of one kind share batches.

        Args:
            clips: Samples as in `transcribe`.
            options: For all clips, or one for each.
            limits: The largest batch; None takes the engine's usual one.
        """
        if options is None or isinstance(options, TranscriptionOptions):
            options = [options or TranscriptionOptions()] * len(clips)
        usual = self.engine.usual_batch
        n_together = min(MAX_SIDE_BY_SIDE, 2 * usual.windows * self.engine.n_workers)
        scheduler = Scheduler(
            self.engine,
            admission=Admission(max_requests=n_together),
            limits=limits or BatchLimits(target_s=math.inf),  # nobody waits for the next batch
            frees_engine=False,
            fills_batches=True,
        )

        def transcript(clip: Samples, option: TranscriptionOptions) -> Transcript:
            with scheduler.admit() as ticket:
                *_, end = self.transcribe(clip, option, ticket)
            assert isinstance(end, End), "a pipeline ends with its transcript"
            return end.transcript

        with scheduler, ThreadPoolExecutor(n_together) as threads:
            return list(threads.map(transcript, clips, options))

    def resolve(self, options: TranscriptionOptions) -> DecodingOptions:
        """Fill in defaults, and refuse options that the served model does not support.

        Raises:
            UnsupportedOption: Names the option.
        """
        facts = self.facts
        served = [name for name in (facts.adapter_name, NO_ADAPTER) if name is not None]
        if options.adapter is not None and options.adapter not in served:
            raise UnsupportedOption(
                "adapter", f"'{options.adapter[:60]}' is not served here; {' or '.join(served)} is"
            )
        tuned = facts.adapter_name is not None and options.adapter != NO_ADAPTER
        usual = 1 if options.temperature > 0 else USUAL_BEAM_SIZE
        decoding = DecodingOptions(
            language=self._language(options),
            expected_language=facts.language if tuned else None,
            task=options.task or facts.task,
            adapter=facts.adapter_key if tuned else None,
            beam_size=options.beam_size or usual,
            temperature=options.temperature,
            seed=options.seed,
            prompt=options.prompt,
            hotwords=options.hotwords,
            suppress=options.suppress,
            word_timestamps=options.word_timestamps,
        )
        if options.beam_size is None and self.engine.unsupported(decoding):
            decoding = replace(decoding, beam_size=1)
        if (refused := self.engine.unsupported(decoding)) is not None:
            raise UnsupportedOption(*refused)
        # Sentence times are not an option: they are used wherever model and engine support them.
        timed = replace(decoding, timestamps=tuned and facts.timestamps)
        return decoding if self.engine.unsupported(timed) else timed

    def _language(self, options: TranscriptionOptions) -> str | None:
        """Return the requested language; None for detection."""
        known = self.engine.languages
        language = options.language or self.facts.language
        if language in (None, DETECT):
            return next(iter(known)) if len(known) == 1 else None
        if language not in known:
            raise UnsupportedOption("language", f"the base model does not know '{language}'")
        return language

    def _limits(self, decoding: DecodingOptions) -> WindowLimits:
        """Return the window lengths that the model can read."""
        facts = self.facts
        dynamic = self.reads_short_windows(decoding)
        longest_s = min(facts.max_window_s, MAX_WINDOW_S - facts.margin_s) if dynamic else MAX_WINDOW_S
        max_gap_s = facts.max_gap_s if decoding.language else min(facts.max_gap_s, MAX_GAP_UNTOLD_S)
        return WindowLimits(
            max_window_s=longest_s,
            max_packed_s=facts.max_packed_s if dynamic else longest_s,
            max_first_window_s=facts.max_first_window_s,
            max_gap_s=max_gap_s,
        )

    def _decoded(
        self,
        windows: Iterator[tuple[Window, Samples]],
        decoding: DecodingOptions,
        decoder: Decoder,
        track: LanguageTrack,
    ) -> Iterator[tuple[Window, Hypothesis]]:
        """Decode windows in order, each in the language that is given or else its own."""
        pulled: deque[tuple[Window, float | None]] = deque()
        for hypothesis in decoder.decode(self._inputs(windows, decoding, decoder, track, pulled)):
            window, language_prob = pulled.popleft()
            yield window, replace(hypothesis, language_prob=language_prob)

    def _inputs(
        self,
        windows: Iterable[tuple[Window, Samples]],
        decoding: DecodingOptions,
        decoder: Decoder,
        track: LanguageTrack,
        pulled: deque[tuple[Window, float | None]],
    ) -> Iterator[EngineInput]:
        """Yield the engine's inputs; append each window and its language's probability to `pulled`."""
        given = ((window, self.engine_input(window, samples, decoding)) for window, samples in windows)
        if decoding.language is not None:
            for window, each in given:
                pulled.append((window, None))
                yield each
            return
        for window, each, language_prob in settle_windows(given, decoder, track):
            pulled.append((window, language_prob))
            yield each

    def engine_input(self, window: Window, samples: Samples, decoding: DecodingOptions) -> EngineInput:
        """Compute a window's features, and limit its tokens by the speech in it."""
        n_tokens = math.ceil(window.speech_samples / SAMPLE_RATE * TOKENS_PER_S)
        budget_tokens = max(0, n_tokens - len(decoding.prefix)) + SPARE_TOKENS
        with tracing.span("mel"):
            log_mel = self.features.log_mel(samples, self._window_s(window, decoding))
        options = replace(decoding, max_new_tokens=budget_tokens)
        if window.overlap or window.is_torn:  # by the times of its words it is joined to its neighbours
            timed = replace(options, word_timestamps=True)
            options = options if self.engine.unsupported(timed) else timed
        return EngineInput(log_mel=log_mel, options=options)

    def warm_up(self, decoder: Decoder) -> None:
        """Decode a second of noise, so that everything is loaded before the first request."""
        facts = self.facts
        noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
        find_speech(noise)
        adapter = None if facts.adapter_name is None else facts.adapter_key
        options = DecodingOptions(language=facts.language, adapter=adapter, max_new_tokens=4)
        window_s = window_length_s(len(noise), facts.margin_s) if facts.dynamic else MAX_WINDOW_S
        given = EngineInput(log_mel=self.features.log_mel(noise, window_s), options=options)
        if options.language is None:
            whole = whole_window(given)
            (probs,) = decoder.detect_languages([whole])
            given = in_language(given, whole, max(probs, key=probs.__getitem__))
        list(decoder.decode([given]))

    def _window_s(self, window: Window, decoding: DecodingOptions) -> float:
        if not self.reads_short_windows(decoding):
            return MAX_WINDOW_S
        return window_length_s(window.end - window.start, self.facts.margin_s)

    def reads_short_windows(self, decoding: DecodingOptions) -> bool:
        return self.facts.dynamic and decoding.adapter is not None  # the base model alone would loop on them


def _transcript(
    segments: Sequence[Segment], decoding: DecodingOptions, said: Sequence[Hypothesis], recording: Recording
) -> Transcript:
    assert recording.duration_s is not None, "it was read to its end"
    language, language_prob = decoding.language, None
    if language is None and said:
        language, language_prob = settle_recording(said)
    return build_transcript(
        segments,
        duration_s=recording.duration_s,
        language=language,
        language_prob=language_prob,
        task=decoding.task,
        sound=recording.report,
    )


def is_said(window: Window, hypothesis: Hypothesis) -> bool:
    """Tell whether a window holds words; where model and speech detector are unsure, both decide."""
    is_doubted = window.speech_prob < DOUBTFUL_SPEECH_PROB and hypothesis.avg_logprob < DOUBTED_LOGPROB
    is_noise = is_no_speech(hypothesis) or (is_doubted and hypothesis.no_speech_prob > NO_SPEECH_PROB)
    return bool(hypothesis.text) and not is_noise
