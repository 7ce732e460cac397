"""Transcribe speech while it is being spoken. Knows no socket and no wire format.

    session = LiveSession(pipeline, settings, ticket)
    session.run(emit)                # in its own thread, until all speech is transcribed
    session.hear(data)               # from another thread: bytes of sound as they arrive
    session.end()

The phrase so far is decoded again and again. Words that what follows cannot change are committed; the rest
is partial text. A phrase ends at a pause. In the pause its last words are decoded with care and committed,
before it is certain that the phrase is over. Where the machine is slower than the speaker, partial texts
become rarer, and committed words come later, but none is lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from serve.audio.caged.ffmpeg import ChildLimits
from serve.audio.samples import SAMPLE_RATE, Samples
from serve.audio.segmentation import FRAME_SAMPLES, Window
from serve.audio.streams.pcm import PcmStream
from serve.audio.streams.recorded import RecordedStream
from serve.engine import DecodingOptions, EngineInput, LanguageProbs, TimedText
from serve.engine.fallback import is_believable
from serve.engine.scheduling.ticket import Ticket
from serve.errors import AudioError, AudioTooLong, ServiceError
from serve.language import LanguageTrack, in_language, shown_by_texts, whole_window
from serve.pipeline import Pipeline, is_said
from serve.service.live.ear import Ear
from serve.service.live.phrase import Phrase
from serve.service.live.policies import Policy, by_agreement, by_alignment, ending_before
from serve.service.live.settings import LiveSettings
from serve.service.live.sound_queue import SoundQueue
from serve.transcript.events import LiveDone, LiveEvent, LivePhrase, LiveWords, Wish, join_text

RUN_SAMPLES = 4 * FRAME_SAMPLES  # listened to at a time: an eighth of a second
PARTIAL_EVERY_S = 0.4
"""New speech after which the open phrase is decoded again, in seconds; more where decoding takes longer."""

SETTLED_AFTER_S = 0.35
"""Silence after which the words before it are decoded with care and committed: the least pause allowed is
longer, and closures of consonants are shorter."""

WAITING_S = 20.0
"""Sound that may be queued, in seconds; beyond it the sender gets backpressure."""

RECORDED_BYTES_PER_S = 16_000
"""Bytes of a container that count as a second, for that limit: a browser sends 4,000 to 16,000."""

LONG_WINDOW_S = 4.0
"""A longer window begins anew at a committed word: CTranslate2 decodes given words one by one too, so windows
of 8 s take twice as long. A model that reads 30 s at a time anyway has 24 s."""

KEPT_S = 1.2
"""Sound that such a window keeps at least, in seconds."""

FORCED_MARGIN_S = 1.5
"""Sound behind the words that are committed where a window is full, though no policy would."""

LONG_PHRASE_S = 15.0
"""Longer committed words become a phrase, though nobody paused."""

SPOKEN_TO_TELL_S = 2.0
"""Speech from which a language is told that commits words."""


@dataclass(frozen=True)
class _Told:
    """The language of a phrase, told by as much of it as was spoken then, in samples."""

    language: str
    probability: float | None
    spoken: int
    probs: LanguageProbs
    shown: dict[str, float]


class LiveSession:
    """One stream of speech."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: LiveSettings,
        ticket: Ticket,
        *,
        max_audio_s: float = 1_800.0,
        policy: Policy | None = None,
        sound: SoundQueue | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a session.

        Args:
            pipeline: Decodes.
            settings: The sound's format, and options.
            ticket: The request's ticket; whoever created it closes it.
            max_audio_s: Longest speech accepted, in seconds.
            policy: What is committed while a phrase goes on; None takes the best that the engine can.
            sound: Where sound comes from; for measurements.
            clock: Seconds, for lags; for measurements.

        Raises:
            UnsupportedOption: The served model does not support an option.
        """
        self._pipeline, self._settings, self._ticket = pipeline, settings, ticket
        self._max_audio_s = max_audio_s
        asked = replace(pipeline.resolve(settings.options), timestamps=False)
        timed = replace(asked, word_timestamps=True)
        can_align = pipeline.engine.unsupported(timed) is None
        self._careful = timed if can_align else replace(asked, guesses_words=True)
        self._policy = policy or (by_alignment if can_align else by_agreement)
        self._track = LanguageTrack(asked.expected_language, look_ahead=0)
        dynamic = pipeline.reads_short_windows(asked)
        self._long_window = round((LONG_WINDOW_S if dynamic else 6 * LONG_WINDOW_S) * SAMPLE_RATE)
        self._longest = round((min(pipeline.facts.max_window_s, 14.0) if dynamic else 29.0) * SAMPLE_RATE)
        bytes_per_s = settings.pcm.bytes_per_s if settings.pcm else RECORDED_BYTES_PER_S
        self._sound = sound or SoundQueue(round(WAITING_S * bytes_per_s))
        self._clock = clock
        self._run_bytes = round(RUN_SAMPLES / SAMPLE_RATE * bytes_per_s)
        self.heard_s = 0.0
        """Sound processed so far, in seconds."""
        self._ear = Ear()
        self._phrase = Phrase(0)
        self._n_phrases = 0
        self._shown = ""  # partial text on display
        self._decoded_until = 0  # end of the window decoded last
        self._settled_until = 0  # the same for windows decoded with care
        self._took_s = 0.0  # the last partial decoding
        self._told: _Told | None = None
        self._too_long: AudioTooLong | None = None
        self._emit: Callable[[LiveEvent], None] = lambda event: None

    def hear(self, data: bytes) -> bool:
        """Queue bytes of sound, from any thread; False means: send no more before `on_room` calls."""
        return self._sound.put(data)

    def wish(self, wish: Wish) -> None:
        """End the open phrase, or forget it, once what was queued before is heard."""
        self._sound.put(b"", wish)

    def on_room(self, call: Callable[[], None]) -> None:
        """Set the callback, called from the session's thread, that ends backpressure."""
        self._sound.on_room = call

    def end(self, error: ServiceError | None = None) -> None:
        """End the input. `run` transcribes what was queued, and then raises the error, if any."""
        self._sound.end(error)

    def abandon(self) -> None:
        """End the session, and drop what was queued."""
        self._sound.abandon()
        self._ticket.cancel()

    def run(self, emit: Callable[[LiveEvent], None]) -> None:
        """Transcribe until the input ends.

        Args:
            emit: Called with each event, in order.

        Raises:
            ServiceError: The engine failed, the ticket was cancelled, the sound cannot be decoded or lasts
                too long, or the input ended with an error.
        """
        self._emit = emit
        self._pipeline.prepare(self._careful)
        error: ServiceError | None = None
        try:
            for samples, arrived, wish in self._heard():
                self._ear.listen(samples, arrived)
                if wish is None:
                    self._follow()
                    continue
                if wish == "clear":
                    self._forget()
                else:
                    self._finish()
                emit(LiveDone(wish))
        except AudioError as damage:  # what came before it is said all the same
            error = damage
        self._ear.listen(np.zeros(0, np.float32), self._clock(), is_last=True)
        self._finish()
        if (error := error or self._too_long or self._sound.error) is not None:
            raise error

    def _heard(self) -> Iterator[tuple[Samples, float, Wish | None]]:
        """Yield samples as they are heard, when they arrived, and what the client wishes behind them."""
        left_samples = round(self._max_audio_s * SAMPLE_RATE)
        limits = ChildLimits(timeout_s=self._max_audio_s, memory_bytes=1 << 30)
        recorded = RecordedStream(limits)
        pcm = PcmStream(self._settings.pcm) if self._settings.pcm else None
        arrived = self._clock()
        with recorded:
            while (piece := self._sound.take(self._run_bytes, self._ticket.check)) is not None:
                arrived = piece.arrived
                samples = pcm.push(piece.data) if pcm else recorded.push(piece.data, is_first=piece.is_first)
                if len(samples) > left_samples:
                    samples = samples[:left_samples]
                    self._too_long = AudioTooLong(self._max_audio_s, self._max_audio_s)
                    self._sound.abandon()
                left_samples -= len(samples)
                self.heard_s += len(samples) / SAMPLE_RATE
                for first in range(0, max(1, len(samples)), RUN_SAMPLES):
                    is_last = first + RUN_SAMPLES >= len(samples)
                    yield samples[first : first + RUN_SAMPLES], arrived, piece.wish if is_last else None
            last = pcm.flush() if pcm else recorded.flush()
            yield last[: max(0, left_samples)], arrived, None

    def _follow(self) -> None:
        """Do what is due: end the phrase, settle its words in a pause, or decode it again."""
        window = self._ear.window(self._phrase.front)
        if window is None:
            if not self._phrase.committed:
                self._withdraw()
                self._ear.forget_silence()
            elif self._ear.silence_s > self._settings.pause_s:
                self._close()
            return
        silence_s, n_samples = self._ear.silence_s, window.end - window.start
        is_full = n_samples > self._longest - SAMPLE_RATE // 2
        if silence_s > self._settings.pause_s:
            self._finish()
        elif self._sound.n_bytes >= self._run_bytes and not is_full:
            return  # partial texts thin out first; they are of what was heard last
        elif silence_s >= SETTLED_AFTER_S:
            self._settle(window)
        elif is_full or window.end - max(self._decoded_until, window.start) >= SAMPLE_RATE * max(
            PARTIAL_EVERY_S, self._took_s
        ):
            self._go_on(window, is_full=is_full)

    def _go_on(self, window: Window, *, is_full: bool) -> None:
        """Decode the open window; commit what the policy allows, and show the rest."""
        started = self._clock()
        quickly = replace(self._careful, beam_size=1)
        words, is_certain = self._decode(window, quickly, is_draft=not is_full)
        self._took_s = self._clock() - started
        end_s = (window.end - self._phrase.front) / SAMPLE_RATE
        n_committed = self._policy(words, self._phrase.earlier, end_s) if is_certain else 0
        if is_full:
            n_committed = max(n_committed, ending_before(words[:-1], end_s - FORCED_MARGIN_S))
        self._phrase.earlier = [word.text for word in words]
        self._show(window, words, n_committed)
        if is_full and not n_committed:  # one endless word, or noise: nothing to begin anew with
            self._settle(window)
            self._close()
        elif window.end - self._phrase.front > self._long_window:
            self._move_front(window)
        if self._phrase.committed_s > LONG_PHRASE_S:
            self._tell_phrase(self._phrase.split_off())

    def _settle(self, window: Window) -> None:
        """Decode the open window with care and commit all its words, once."""
        if window.end <= self._settled_until:
            return
        words, _ = self._decode(window, self._careful, is_draft=False)
        self._settled_until = window.end
        self._show(window, words, len(words))

    def _finish(self) -> None:
        """End the phrase: commit its last words."""
        window = self._ear.window(self._phrase.front)
        if window is not None:
            self._settle(window)
        self._close()

    def _close(self) -> None:
        """End the phrase, whose words are committed."""
        self._withdraw()
        phrase = self._phrase
        if phrase.own:
            self._tell_phrase(phrase)
        if phrase.committed and self._told is not None:
            self._track.push(self._told.probs, self._told.spoken / SAMPLE_RATE, self._told.shown)
        self._forget()

    def _tell_phrase(self, phrase: Phrase) -> None:
        segment = phrase.segment(self._n_phrases)
        self._n_phrases += 1
        self._emit(LivePhrase(segment=segment, lag_s=self._ear.lag_s(segment.end_s, self._clock())))

    def _forget(self) -> None:
        """Begin a new phrase with what comes next."""
        self._withdraw()
        window = self._ear.window(self._phrase.front)
        front = max(self._phrase.front, window.end if window else 0, self._settled_until)
        self._phrase = Phrase(front)
        self._decoded_until = front
        self._ear.forget(front)
        self._told = None

    def _move_front(self, window: Window) -> None:
        """Let the window begin at a later committed word, where it is quiet."""
        phrase = self._phrase
        latest_s = window.end / SAMPLE_RATE - KEPT_S
        boundaries = [start_s for start_s in phrase.boundaries() if start_s <= latest_s]
        if not boundaries:
            return
        later = range(len(boundaries) // 2, len(boundaries))
        points = {each: self._ear.quiet_point(round(boundaries[each] * SAMPLE_RATE)) for each in later}
        chosen = min(later, key=lambda each: points[each][0])
        phrase.move_front(chosen, max(phrase.front, points[chosen][1]))
        self._ear.forget(phrase.front)

    def _decode(
        self, window: Window, decoding: DecodingOptions, *, is_draft: bool
    ) -> tuple[list[TimedText], bool]:
        """Return the words behind the committed ones, and whether some may be committed."""
        self._decoded_until = window.end
        phrase = self._phrase
        if not phrase.committed:
            phrase.front = window.start  # not the silence before the first word
        samples = self._ear.samples(phrase.front, window.end)
        whole = replace(window, start=phrase.front)
        decoding = replace(decoding, prefix=phrase.prefix)
        given = self._pipeline.engine_input(whole, samples, decoding)
        language_prob, is_certain = None, True
        if decoding.language is None:
            padded = whole_window(given)
            told = self._told = self._tell_language(window.speech_samples, given, padded)
            given, language_prob = in_language(given, padded, told.language), told.probability
            is_certain = not is_draft or told.spoken >= SPOKEN_TO_TELL_S * SAMPLE_RATE
        (hypothesis,) = self._ticket.draft([given]) if is_draft else self._ticket.decode([given])
        hypothesis = replace(hypothesis, language_prob=language_prob)
        if not is_said(whole, hypothesis):
            return [], False
        words = phrase.words_behind(hypothesis, len(samples) / SAMPLE_RATE)
        return words, is_certain and is_believable(hypothesis)

    def _tell_language(self, spoken: int, given: EngineInput, padded: EngineInput) -> _Told:
        """Tell the open phrase's language, again each time that twice as much was spoken."""
        told = self._told
        if told is not None and (self._phrase.committed or spoken < 2 * told.spoken):
            return told
        (probs,) = self._ticket.detect_languages([padded])
        (shown,) = shown_by_texts([given], [probs], self._ticket, self._track)
        guessed = self._track.guess(probs, spoken / SAMPLE_RATE, shown)
        return _Told(guessed.language, guessed.probability, spoken, probs, shown)

    def _show(self, window: Window, words: list[TimedText], n_committed: int) -> None:
        """Commit the first of some words, and show the rest as partial text."""
        end_s = window.end / SAMPLE_RATE
        committed = self._phrase.commit(words[:n_committed], end_s)
        partial = join_text(word.text for word in words[n_committed:])
        if not committed and partial == self._shown:
            return
        self._shown = partial
        until_s = committed[-1].end_s if committed else end_s
        phrase = self._phrase.segment(self._n_phrases, partial, end_s if partial else None)
        lag_s = self._ear.lag_s(until_s, self._clock())
        self._emit(LiveWords(committed=committed, partial=partial, phrase=phrase, lag_s=lag_s))

    def _withdraw(self) -> None:
        """Withdraw the partial text on display: nothing was said after all."""
        if self._shown:
            self._shown = ""
            phrase = self._phrase.segment(self._n_phrases)
            self._emit(LiveWords(committed=(), partial="", phrase=phrase, lag_s=0.0))
