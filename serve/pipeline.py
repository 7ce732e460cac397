"""Samples in, segments out: the one function to read from top to bottom.

    pipeline = load_pipeline(model_dir=Path("model_artifacts/whisper-base-mr"))     # serve/service/loading.py
    with open_audio(data, AudioLimits()) as recording:                              # serve/audio/decode.py
        for event in pipeline.transcribe(recording, TranscriptionOptions(language="mr")):
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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from serve.audio.features import MAX_WINDOW_S, FeatureExtractor, window_length_s
from serve.audio.mixing import mix_channels
from serve.audio.recording import Recording
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import Window, WindowLimits, iter_windows
from serve.engine import SERVED_ADAPTER, BatchSize, DecodingOptions, Engine, Hypothesis, LogMel, Task
from serve.engine.fallback import NO_SPEECH_PROB, is_no_speech
from serve.errors import UnsupportedOption
from serve.options import DETECT, NO_ADAPTER, TranscriptionOptions
from serve.transcript.events import End, Event, Segment, Start, Transcript, build_transcript
from serve.transcript.timeline import place_segments

EngineInput = tuple[LogMel, DecodingOptions]
Decode = Callable[[Iterable[EngineInput]], Iterator[Hypothesis]]
"""Turns windows into hypotheses, in order. It pulls windows as it needs them, so that few exist at a time."""

Cut = Callable[[Iterable[Samples], WindowLimits], Iterator[tuple[Window, Samples]]]
"""Finds windows in blocks of samples, each (n_channels, n_samples)."""

Heard = tuple[Window, Hypothesis]

Place = tuple[int, int]
"""Index of a clip, and of a window in it."""

MAX_CHANNELS = 4
"""Channels that are told apart: those of telephone switches and conference recorders."""

USUAL_BEAM_SIZE = 2
"""A tenth more time than greedy search takes, for up to a point of word errors fewer in echo and noise."""

LANGUAGE_WINDOWS = 3
"""Windows that settle a language which nobody named: one alone may be a greeting, or too short to tell."""

TOKENS_PER_S = 24
"""Bound of the text tokens in a second of speech; fast Marathi reaches 20, three times as many as English."""

SPARE_TOKENS = 24
"""Added to that bound, for windows so short that one long word fills them."""

DOUBTFUL_SPEECH_PROB = 0.75
DOUBTED_LOGPROB = -0.5
"""Below both, the model's own doubt decides. Of 598 clips of speech, in echoing rooms and by telephone too, 5
lie below the first, and none of these below the second; noise that the base model takes for a word lies below
both."""


@dataclass(frozen=True, kw_only=True)
class ServingFacts:
    """What the pipeline has to know about the model it serves. The defaults fit any bare base model."""

    adapter_name: str | None = None
    """Name under which the loaded adapter is asked for; None where there is none."""
    adapter_key: str = SERVED_ADAPTER
    """Under which the engine holds it."""
    language: str | None = None
    """Language of requests that name none; None detects it."""
    task: Task = "transcribe"
    dynamic: bool = False
    """Whether the adapter reads windows of the speech's own length; the base model alone reads 30 s."""
    margin_s: float = 1.0
    """Silence behind the speech of a dynamic window."""
    max_window_s: float = MAX_WINDOW_S
    """Longest stretch of speech in a window."""
    max_packed_s: float = 8.0
    """Longest dynamic window of several stretches. Every token looks at the whole window, and in the encoder
    every frame does: ten minutes in windows of up to 14 s take a third longer than in those of 8 s."""
    max_first_window_s: float = 10.0
    """Longest first window, so that the first text comes early."""
    max_gap_s: float = 1.5
    """A longer pause ends a window."""
    timestamps: bool = False
    """Whether the adapter was trained to write when sentences begin and end."""


class Pipeline:
    """Everything between decoded samples and a transcript."""

    def __init__(
        self,
        engine: Engine,
        features: FeatureExtractor,
        facts: ServingFacts | None = None,
        *,
        base_dir: Path | None = None,
        prepare: Callable[[DecodingOptions], None] = lambda decoding: None,
    ) -> None:
        """Take a loaded engine.

        Args:
            engine: What decodes.
            features: Of its base model.
            facts: What is served.
            base_dir: Checkpoint of the base model, for adapters that come later.
            prepare: Called before the first event of a recording: loads what its options need.
        """
        self.engine = engine
        self.features = features
        self.facts = facts or ServingFacts()
        self.base_dir = base_dir
        self._prepare = prepare

    def transcribe(
        self,
        recording: Recording | Samples,
        options: TranscriptionOptions | None = None,
        decode: Decode | None = None,
        cut: Cut = iter_windows,
    ) -> Iterator[Event]:
        """Transcribe one recording, yielding a segment as soon as its window is decoded.

        Args:
            recording: Read block by block, as the decoding goes on; or float32 samples at 16 kHz,
                (n_samples,) or (n_channels, n_samples).
            options: What the caller asks for.
            decode: How windows reach the engine; one at a time, directly, if None.
            cut: How the recording becomes windows; live speech is cut otherwise.

        Yields:
            `Start`, any number of `Segment` in order of their start, `End`.

        Raises:
            UnsupportedOption: The served model cannot do what is asked.
            ServiceError: Whatever reading the recording, or decoding, raises.
        """
        started = time.perf_counter()
        options = options or TranscriptionOptions()
        decoding = self.resolve(options)
        recording = _channels(recording, options)
        self._prepare(decoding)
        yield Start(duration_s=recording.duration_s, language=decoding.language, sound=recording.report)

        windows = cut(recording.blocks(), self._limits(decoding))
        decoded = self._decode(windows, decoding, decode or self._decode_directly)
        vote = LanguageVote()
        segments: list[Segment] = []
        for segment in place_segments(vote.count(decoded), split=options.channels == "split"):
            segments.append(segment)
            yield segment

        transcript = _transcript(segments, decoding, vote, recording)
        yield End(transcript=transcript, processing_s=time.perf_counter() - started)

    def transcribe_many(
        self,
        clips: Sequence[Samples],
        options: TranscriptionOptions | Sequence[TranscriptionOptions] | None = None,
        *,
        max_batch_windows: int | None = None,
        max_batch_s: float | None = None,
    ) -> list[Transcript]:
        """Transcribe recordings offline, decoding windows of one length together.

        Speech is looked for while what was found is decoded.

        Args:
            clips: Samples as in `transcribe`.
            options: For all clips, or one each.
            max_batch_windows: Most windows decoded together; as many as suit the engine by default.
            max_batch_s: Most seconds of windows decoded together, padding included; likewise.
        """
        if options is None or isinstance(options, TranscriptionOptions):
            options = [options or TranscriptionOptions()] * len(clips)
        decodings = [self.resolve(option) for option in options]
        recordings = [_channels(clip, option) for clip, option in zip(clips, options, strict=True)]
        usual = self.engine.usual_batch
        most = BatchSize(max_batch_windows or usual.windows, max_batch_s or usual.window_s)
        cut: list[list[tuple[Window, Samples]]] = [[] for _ in clips]
        hypotheses: list[dict[int, Hypothesis]] = [{} for _ in clips]

        def places() -> Iterator[Place]:
            for clip, (recording, decoding) in enumerate(zip(recordings, decodings, strict=True)):
                for window in iter_windows(recording.blocks(), self._limits(decoding)):
                    cut[clip].append(window)
                    yield clip, len(cut[clip]) - 1

        def decode_all(these: Iterable[Place], settled: Sequence[DecodingOptions]) -> None:
            def decode(batch: list[Place]) -> list[Hypothesis]:
                inputs = [self.engine_input(*cut[clip][i], settled[clip]) for clip, i in batch]
                log_mels, each = zip(*inputs, strict=True)
                return self.engine.transcribe_batch(log_mels, each)

            lengths_s = (
                (place, self._window_s(cut[place[0]][place[1]][0], settled[place[0]])) for place in these
            )
            with ThreadPoolExecutor(self.engine.n_workers) as workers:
                begun = [
                    (batch, workers.submit(decode, batch))
                    for batch in _batches(lengths_s, most, self.engine.n_workers)
                ]
                for batch, future in begun:
                    for (clip, i), hypothesis in zip(batch, future.result(), strict=True):
                        hypotheses[clip][i] = _with_language_prob(hypothesis, probs[clip])

        # As in `transcribe`, a clip's first windows settle the language of the rest.
        probs: list[float | None] = [None] * len(clips)
        found: Iterable[Place] = places()
        settled = list(decodings)
        if any(decoding.language is None for decoding in decodings):
            found = list(found)
            first = [
                (clip, i) for clip, i in found if decodings[clip].language is None and i < LANGUAGE_WINDOWS
            ]
            decode_all(first, decodings)
            for clip in {clip for clip, _ in first}:
                heard = [(cut[clip][i][0], hypotheses[clip][i]) for i in sorted(hypotheses[clip])]
                language, probs[clip] = _settle_language(heard)
                settled[clip] = _with_language(decodings[clip], language)
            found = [(clip, i) for clip, i in found if i not in hypotheses[clip]]
        decode_all(found, settled)

        transcripts = []
        for clip, recording in enumerate(recordings):
            vote = LanguageVote()
            decoded = ((window, hypotheses[clip][index]) for index, (window, _) in enumerate(cut[clip]))
            segments = list(place_segments(vote.count(decoded), split=options[clip].channels == "split"))
            transcripts.append(_transcript(segments, decodings[clip], vote, recording))
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
        tuned = facts.adapter_name is not None and options.adapter != NO_ADAPTER
        usual = 1 if options.temperature > 0 else USUAL_BEAM_SIZE
        decoding = DecodingOptions(
            language=language,
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
        # Nobody asks for the times of sentences: they are taken where model and engine give them.
        timed = replace(decoding, timestamps=tuned and facts.timestamps)
        return decoding if self.engine.unsupported(timed) else timed

    def _limits(self, decoding: DecodingOptions) -> WindowLimits:
        """Say how long windows may be that the model can read."""
        facts = self.facts
        dynamic = self._reads_short_windows(decoding)
        longest_s = min(facts.max_window_s, MAX_WINDOW_S - facts.margin_s) if dynamic else MAX_WINDOW_S
        return WindowLimits(
            max_window_s=longest_s,
            max_packed_s=facts.max_packed_s if dynamic else longest_s,
            max_first_window_s=facts.max_first_window_s,
            max_gap_s=facts.max_gap_s,
        )

    def _decode(
        self, windows: Iterator[tuple[Window, Samples]], decoding: DecodingOptions, decode: Decode
    ) -> Iterator[Heard]:
        """Decode windows in order; where no language is given, the first ones settle it for the rest."""
        pulled: deque[Window] = deque()

        def inputs(
            chosen: Iterable[tuple[Window, Samples]], decoding: DecodingOptions
        ) -> Iterator[EngineInput]:
            for window, samples in chosen:
                pulled.append(window)
                yield self.engine_input(window, samples, decoding)

        language_prob = None
        if decoding.language is None:
            heard: list[Heard] = []
            for hypothesis in decode(inputs(islice(windows, LANGUAGE_WINDOWS), decoding)):
                heard.append((pulled.popleft(), hypothesis))
                yield heard[-1]
            if not heard:
                return
            language, language_prob = _settle_language(heard)
            decoding = _with_language(decoding, language)
        for hypothesis in decode(inputs(windows, decoding)):
            yield pulled.popleft(), _with_language_prob(hypothesis, language_prob)

    def engine_input(self, window: Window, samples: Samples, decoding: DecodingOptions) -> EngineInput:
        """Compute a window's features, and bound its text by the speech in it."""
        budget_tokens = math.ceil(window.speech_samples / SAMPLE_RATE * TOKENS_PER_S) + SPARE_TOKENS
        log_mel = self.features.log_mel(samples, self._window_s(window, decoding))
        return log_mel, replace(decoding, max_new_tokens=budget_tokens)

    def _window_s(self, window: Window, decoding: DecodingOptions) -> float:
        if not self._reads_short_windows(decoding):
            return MAX_WINDOW_S
        return window_length_s(window.end - window.start, self.facts.margin_s)

    def _reads_short_windows(self, decoding: DecodingOptions) -> bool:
        return self.facts.dynamic and decoding.adapter is not None  # the base model alone loops on them

    def _decode_directly(self, inputs: Iterable[EngineInput]) -> Iterator[Hypothesis]:
        for log_mel, options in inputs:
            yield from self.engine.transcribe_batch([log_mel], [options])


class LanguageVote:
    """Which language a recording is in: each window with text counts by the probability it gave."""

    def __init__(self) -> None:
        self._heard: list[Heard] = []

    def count(self, decoded: Iterable[Heard]) -> Iterator[Heard]:
        """Pass on the windows in which something was said, and count them."""
        for window, hypothesis in decoded:
            if is_said(window, hypothesis):
                self._heard.append((window, hypothesis))
                yield window, hypothesis

    def result(self) -> tuple[str, float | None] | None:
        """Return the language and its mean probability; None where nothing was said."""
        return _settle_language(self._heard) if self._heard else None


def _settle_language(heard: Sequence[Heard]) -> tuple[str, float | None]:
    """Return the language with the highest sum of probabilities, and its mean probability.

    Windows without text do not count, unless there are no others.
    """
    counted = [each for each in heard if is_said(*each)] or heard
    probs: dict[str, list[float | None]] = {}
    for _, hypothesis in counted:
        probs.setdefault(hypothesis.language, []).append(hypothesis.language_prob)
    language = max(probs, key=lambda code: sum(1.0 if prob is None else prob for prob in probs[code]))
    known = [prob for prob in probs[language] if prob is not None]
    return language, sum(known) / len(known) if known else None


def _with_language(decoding: DecodingOptions, language: str) -> DecodingOptions:
    """Name the language that was settled; where it is not the adapter's own, the base model hears better."""
    own = decoding.expected_language
    return replace(decoding, language=language, adapter=decoding.adapter if own in (None, language) else None)


def _with_language_prob(hypothesis: Hypothesis, language_prob: float | None) -> Hypothesis:
    """Write in how sure the first windows were of the language, where they settled it."""
    return hypothesis if language_prob is None else replace(hypothesis, language_prob=language_prob)


def _channels(recording: Recording | Samples, options: TranscriptionOptions) -> Recording:
    """Return a recording with the channels that are to be transcribed.

    Raises:
        UnsupportedOption: There are too many to tell apart.
    """
    if not isinstance(recording, Recording):
        recording = Recording.of(recording)
    if options.channels == "mix":
        return mix_channels(recording)
    if recording.n_channels > MAX_CHANNELS:
        raise UnsupportedOption(
            "channels",
            f"the recording has {recording.n_channels} channels; at most {MAX_CHANNELS} can be split",
        )
    return recording


def _transcript(
    segments: Sequence[Segment], decoding: DecodingOptions, vote: LanguageVote, recording: Recording
) -> Transcript:
    assert recording.duration_s is not None, "it was read to its end"
    language, language_prob = decoding.language, None
    if language is None and (elected := vote.result()) is not None:
        language, language_prob = elected
    return build_transcript(
        segments,
        duration_s=recording.duration_s,
        language=language,
        language_prob=language_prob,
        task=decoding.task,
        sound=recording.report,
    )


def is_said(window: Window, hypothesis: Hypothesis) -> bool:
    """Tell whether a window holds words: by the model, and where it hesitates by the detector as well."""
    is_doubted = window.speech_prob < DOUBTFUL_SPEECH_PROB and hypothesis.avg_logprob < DOUBTED_LOGPROB
    is_noise = is_no_speech(hypothesis) or (is_doubted and hypothesis.no_speech_prob > NO_SPEECH_PROB)
    return bool(hypothesis.text) and not is_noise


def _batches(
    lengths_s: Iterable[tuple[Place, float]], most: BatchSize, n_workers: int
) -> Iterator[list[Place]]:
    """Group places whose windows are of one length: full batches as they come, and at the end the rest.

    The rest is shared out, so that no worker is left without any; the longest windows go first.
    """
    waiting: dict[float, list[Place]] = {}

    def room(length_s: float) -> int:
        return max(1, min(most.windows, int(most.window_s / length_s)))

    for place, length_s in lengths_s:
        gathered = waiting.setdefault(length_s, [])
        gathered.append(place)
        if len(gathered) == room(length_s):
            yield waiting.pop(length_s)
    share = math.ceil(sum(map(len, waiting.values())) / n_workers)
    for length_s in sorted(waiting, reverse=True):
        rest, n_together = waiting[length_s], min(share, room(length_s))
        yield from (rest[start : start + n_together] for start in range(0, len(rest), n_together))
