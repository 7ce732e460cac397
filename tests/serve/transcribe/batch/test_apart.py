"""A process apart: it answers, dies, and is replaced."""

from __future__ import annotations

import os
import signal

import psutil
import pytest

from serve.errors import ConfigError, StartupError
from serve.transcribe.batch.apart import Apart, Died


def answering():
    return answer


def dying():
    os.kill(os.getpid(), signal.SIGKILL)


def refusing():
    raise ConfigError(["there is no model"])


def answer(question):
    if question == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if question == "leave":
        os._exit(3)
    if question == "refuse":
        raise ConfigError(["one fault", "another"])
    return question, os.getpid()


def test_one_process_answers_and_after_its_death_another_one():
    with Apart(answering) as apart:
        (_, first), (_, second) = apart.ask("a"), apart.ask("b")
        assert first == second != os.getpid()
        for question, how in (("die", "killed by SIGSEGV"), ("leave", "ended with status 3")):
            with pytest.raises(Died, match=how):
                apart.ask(question)
        asked, third = apart.ask("c")
        assert asked == "c" and third != first
        with pytest.raises(StartupError, match="one fault; another"):
            apart.ask("refuse")
        assert apart.ask("d")[1] == third
    assert not psutil.pid_exists(third)


def test_a_process_that_cannot_begin_is_not_the_questions_fault():
    with Apart(dying) as apart, pytest.raises(StartupError, match="cannot start: killed by SIGKILL"):
        apart.ask("a")
    with Apart(refusing) as apart, pytest.raises(StartupError, match="there is no model"):
        apart.ask("a")
