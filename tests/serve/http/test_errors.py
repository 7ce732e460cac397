"""One table of errors and statuses, and nothing missing from it."""

import msgspec
import pytest

from serve import errors
from serve.http.errors import STATUSES, BodyTimeout
from serve.transcript.wire import encode_error


def family(parent):
    return [parent, *(descendant for child in parent.__subclasses__() for descendant in family(child))]


SERVICE_ERRORS = family(errors.ServiceError)


@pytest.mark.parametrize("error", SERVICE_ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_a_status_of_its_kind(error):
    status = STATUSES[error]
    assert (400 <= status < 500) == issubclass(error, errors.RequestError | errors.Overloaded)


def test_no_two_errors_share_a_code():
    codes = [error.code for error in SERVICE_ERRORS]
    assert len(set(codes)) == len(codes)


def test_the_table_holds_nothing_but_these_errors():
    assert set(STATUSES) == set(SERVICE_ERRORS)
    assert BodyTimeout in SERVICE_ERRORS


def test_the_body_of_an_error_is_a_code_and_a_sentence():
    body = msgspec.json.decode(encode_error("audio_too_long", "audio lasts 31.0 s; the limit is 30 s"))
    assert body == {"error": {"code": "audio_too_long", "message": "audio lasts 31.0 s; the limit is 30 s"}}
