"""Events of a live run: numbered, kept for whoever comes back, and few whatever a client asks for."""

import asyncio

import pytest

from serve.service.live.runs import LiveRun
from serve.transcript.events import LiveDone, LivePhrase, LiveWords, Segment, Word

DONE, CLEARED = LiveDone("finalise"), LiveDone("clear")


def segment(text):
    return Segment(
        id=0, start_s=0.0, end_s=1.0, text=text, avg_logprob=-0.1, no_speech_prob=0.0, language="mr"
    )


def words(text, *, partial=""):
    said = tuple(Word(text=each, start_s=0.0, end_s=1.0, probability=0.9) for each in text.split())
    return LiveWords(committed=said, partial=partial, phrase=segment(text), lag_s=0.0)


PHRASE = LivePhrase(segment=segment("एक"), lag_s=0.0)


class NoPlace:
    def close(self): ...


class Saying:
    """A session that says what it is given."""

    def __init__(self, events):
        self.events = events

    def run(self, emit):
        for event in self.events:
            emit(event)


async def in_thread(work):
    events = []
    work(events.append)
    for event in events:
        yield event


def told(events, *afters):
    """Return what clients that have the events up to `afters` are told, and how much the run keeps."""

    async def listen():
        run = LiveRun(Saying(events), NoPlace())
        run.begin(in_thread)
        return [[each async for each in run.events(after)] for after in afters], len(run._kept)

    return asyncio.run(listen())


def test_whoever_comes_back_is_told_what_came_behind():
    events = [words("एक"), PHRASE, DONE, words("दोन")]
    numbered = list(enumerate(events, 1))
    assert told(events, 0, 2, 4)[0] == [numbered, numbered[2:], []]


def test_partial_text_gives_way_to_what_comes_next():
    events = [words("", partial="ए"), words("", partial="एक"), words("एक")]
    assert told(events, 0)[0] == [[(3, events[2])]]


@pytest.mark.parametrize("after", [0, 7, 999, 1_500, 3_000])
def test_wishes_one_after_another_are_all_answered_and_kept_as_one(after):
    events = [words("एक"), *[DONE] * 1_000, *[CLEARED] * 2_000]
    (answers,), n_kept = told(events, after)
    assert answers == list(enumerate(events, 1))[after:] and n_kept == 3


def test_an_answer_behind_a_passing_text_is_told_once():
    events = [DONE, words("", partial="ए"), DONE]
    assert told(events, 0, 1, 2)[0] == [[(1, DONE), (3, DONE)], [(3, DONE)], [(3, DONE)]]


def test_what_a_client_has_that_cannot_come_back_is_dropped():
    async def listen():
        run = LiveRun(Saying([DONE, CLEARED] * 100), NoPlace())
        run.begin(in_thread)
        async for number, _ in run.events():
            run.forget(number)
        return run.n_events, len(run._kept)

    assert asyncio.run(listen()) == (200, 0)
