"""Sessions over HTTP, as SageMaker starts, uses and ends them."""

import re
from datetime import UTC, datetime

import pytest

INVOCATIONS = "/invocations"
SESSION_ID = "X-Amzn-SageMaker-Session-Id"
NEW = {"requestType": "NEW_SESSION"}
CLOSE = {"requestType": "CLOSE"}


@pytest.fixture
def running(serve):
    return serve(stateful_sessions=True, max_sessions=2)


def start(running, **more):
    response = running.client.post(INVOCATIONS, json={**NEW, **more})
    assert response.status_code == 200
    header = response.headers["X-Amzn-SageMaker-New-Session-Id"]
    session_id, expires = re.fullmatch(r"([0-9a-f-]{36}); Expires=(\S+)", header).groups()
    assert response.json() == {"session_id": session_id, "expires": expires}
    assert datetime.strptime(expires, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) > datetime.now(UTC)
    return session_id


def transcribe(running, session_id, wav, **params):
    return running.client.post(INVOCATIONS, content=wav, params=params, headers={SESSION_ID: session_id})


def test_recordings_of_a_session_share_options_and_go_on_from_one_another(running, speech_wav):
    session_id = start(running, language="hi", temperature=0.25)
    assert transcribe(running, session_id, speech_wav).json()["language"] == "hi"
    assert (running.engine.options[-1].prompt, running.engine.options[-1].temperature) == ("", 0.25)
    streamed = running.client.post(
        INVOCATIONS, content=speech_wav, headers={SESSION_ID: session_id, "accept": "application/x-ndjson"}
    )
    assert '"end"' in streamed.text
    assert running.engine.options[-1].prompt == "श्रोता"
    transcribe(running, session_id, speech_wav, prompt="दुसरे", language="mr")
    assert (running.engine.options[-1].prompt, running.engine.options[-1].language) == ("दुसरे", "mr")
    # Nobody else goes on from it.
    running.client.post(INVOCATIONS, content=speech_wav)
    assert running.engine.options[-1].prompt == ""


def test_a_closed_session_is_unknown(running, speech_wav):
    session_id = start(running)
    closed = running.client.post(INVOCATIONS, json=CLOSE, headers={SESSION_ID: session_id})
    assert (closed.status_code, closed.json()) == (200, {"session_id": session_id})
    assert closed.headers["X-Amzn-SageMaker-Closed-Session-Id"] == session_id
    refused = transcribe(running, session_id, speech_wav)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unknown_session")
    assert running.service.n_admitted == 0


def test_one_session_too_many_is_429(running):
    start(running)
    start(running)
    refused = running.client.post(INVOCATIONS, json=NEW)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_sessions")
    assert int(refused.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (NEW, {"accept": "application/x-ndjson"}, "send a plain one"),
        ({**NEW, "colour": "red"}, {}, "colour"),
        ({**NEW, "language": "xx"}, {}, "language"),
        ({**NEW, "beam_size": 5}, {}, "beam_size"),
        (CLOSE, {}, SESSION_ID),
        (CLOSE, {SESSION_ID: "never"}, "no such session"),
        ({"requestType": "PAUSE"}, {}, "audio"),
        ({"audio": "UklGRg=="}, {SESSION_ID: "NEW_SESSION"}, "NEW_SESSION"),
    ],
)
def test_what_is_wrong_is_400(running, body, headers, said):
    refused = running.client.post(INVOCATIONS, json=body, headers=headers)
    assert refused.status_code == 400 and said in refused.json()["error"]["message"]
    assert running.service.n_admitted == 0


def test_the_clients_word_for_a_new_session_may_come_along(running):
    response = running.client.post(INVOCATIONS, json=NEW, headers={SESSION_ID: "NEW_SESSION"})
    assert response.status_code == 200


def test_without_the_switch_there_are_no_sessions(shared, speech_wav):
    for refused in (shared.client.post(INVOCATIONS, json=NEW), transcribe(shared, "any", speech_wav)):
        assert refused.status_code == 400 and "SAGEMAKER_ENABLE" in refused.json()["error"]["message"]
