"""Sessions: bounded in number and time, and what they keep."""

import pytest

from serve.errors import TooManySessions, UnknownSession
from serve.options import MAX_PROMPT_CHARACTERS, TranscriptionOptions
from serve.service.sessions import Sessions

HINDI = TranscriptionOptions(language="hi", prompt="नमस्ते")


@pytest.fixture
def clock():
    class Clock:
        now = 1_000.0

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def sessions(clock):
    return Sessions(max_sessions=2, lifetime_s=60, clock=clock)


def test_a_session_keeps_its_options_and_goes_on_from_its_last_text(sessions):
    session = sessions.start(HINDI)
    assert sessions.find(session.id).prompted_options == HINDI
    session.last_text = "क" * 3_000
    options = sessions.find(session.id).prompted_options
    assert options.language == "hi" and options.prompt == "क" * MAX_PROMPT_CHARACTERS


def test_a_session_ends_when_it_is_closed_or_its_time_is_over(sessions, clock):
    closed, expired = sessions.start(HINDI), sessions.start(HINDI)
    sessions.close(closed.id)
    clock.now = expired.expires
    for session_id in (closed.id, expired.id, "never"):
        with pytest.raises(UnknownSession):
            sessions.find(session_id)
        with pytest.raises(UnknownSession):
            sessions.close(session_id)


def test_no_more_sessions_than_may_be_until_the_first_expires(sessions, clock):
    sessions.start(HINDI)
    clock.now += 50
    sessions.start(HINDI)
    with pytest.raises(TooManySessions, match="retry in 10 s"):
        sessions.start(HINDI)
    clock.now += 10
    assert sessions.start(HINDI)
