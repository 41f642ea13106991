"""What a server cannot do to a client: workers are others' machines, and speak for nobody but themselves."""

from __future__ import annotations

import pytest

from services.core.errors import QuotaViolation, Reason, ServiceError
from services.core.inference import Head, Request
from services.router.attempt import Attempt
from services.router.targets import Server
from tests.testing.streams import Answerer, Served


class Owner:
    """A call that has one attempt, and notes what comes of it."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.errors: list[ServiceError] = []
        self.ended = 0
        answerer = Answerer()
        self.server = Server("clusters/one/endpoints/vllm", "i", answerer)
        attempt = Attempt(self, self.server, None, may_move=False, cost=1)
        attempt.open(Request("/v1/completions", (), b"{}"), 100)
        self.served: Served = answerer.calls[0]

    def attempt_failed(self, attempt: Attempt, error: ServiceError) -> None:
        self.errors.append(error)

    def first_byte(self, head: Head) -> None:
        self.heads.append(head)

    def data(self, chunk: bytes) -> None:
        pass

    def end(self) -> None:
        self.ended += 1

    def fail(self, error: ServiceError) -> None:
        self.errors.append(error)

    def freed(self, server: Server) -> None:
        pass


def test_headers_that_no_client_is_to_see_stop_here() -> None:
    owner = Owner()
    kept = (("content-type", "text/event-stream"), ("content-length", "2"))
    owner.served.receiver.head(Head(200, (*kept, ("set-cookie", "a=b"), ("x-ratelimit-limit-tokens", "1"))))
    owner.served.receiver.end()
    assert owner.heads == [Head(200, kept)]


def test_a_header_that_would_write_others_is_a_broken_answer() -> None:
    owner = Owner()
    owner.served.receiver.head(Head(200, (("content-type", "text/plain\r\nset-cookie: a=b"),)))
    assert [error.reason for error in owner.errors] == [Reason.UPSTREAM_BROKEN]
    assert (owner.heads, owner.served.cancelled, owner.server.open_calls) == ([], True, 0)


@pytest.mark.parametrize("begun", [True, False])
def test_an_error_of_a_server_has_no_headers_no_limits_and_names_nobody(begun: bool) -> None:
    owner = Owner()
    if begun:
        owner.served.receiver.head(Head(200, ()))
        owner.served.receiver.data(b"x")
    violations = (QuotaViolation("users/ada", "1 request per second"),)
    told = ServiceError(
        Reason.OVERLOADED, "full", param="p", retry_after=2.0, violations=violations, headers=(("a", "b\r\nc: d"),)
    )
    told.principal = "users/eve"
    owner.served.receiver.fail(told)
    (error,) = owner.errors
    assert (error.reason, error.message, error.param, error.retry_after) == (Reason.OVERLOADED, "full", "p", 2.0)
    assert (error.violations, error.headers, error.principal) == ((), (), "")


@pytest.mark.parametrize("reason", [Reason.CREDENTIAL_INVALID, Reason.IDENTITY_FORBIDDEN, Reason.TOKENS_EXHAUSTED])
def test_a_server_refuses_no_caller(reason: Reason) -> None:
    owner = Owner()
    owner.served.receiver.fail(ServiceError(reason, "You are nobody."))
    assert [error.reason for error in owner.errors] == [Reason.UPSTREAM_BROKEN]
