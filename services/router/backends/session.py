"""Workers: each attached one is a `Server` of the roster, behind the multiplexed stream that it dialled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from weft.session.v1 import frame_pb2, session_pb2

from services.core.errors import Reason, ServiceError
from services.core.tracing import Tracer
from services.router.backends.worker_spans import WorkerSpans
from services.router.revoked import RevokedTokens, grounds
from services.router.roster import Roster
from services.router.targets import GLOBUS_TASK, Server
from services.rpc.limits import ProtocolViolationError
from services.rpc.link import Link, MessageStream
from services.rpc.revocations import Revocation, RevocationKind
from services.rpc.session_token import SessionClaims

_EXPIRY_CHECK: Final = 5.0
_LARGEST_REPORT: Final = 256 * 1024
"""Bytes: a few hundred models. Whoever lists the sessions gets the reports of all in one message."""

_LONGEST_WORDS: Final = 500
_TASKS: Final = "weft-tasks/"
"""How the launcher calls itself where it stands in for a worker whose calls travel as tasks."""


class Sessions:
    """The sessions of this router, by endpoint and instance."""

    def __init__(self, roster: Roster, *, agent: str, tracer: Tracer | None = None) -> None:
        self._roster = roster
        self._agent = agent
        self._tracer = tracer
        self._sessions: dict[tuple[str, str], Session] = {}
        self._revoked = RevokedTokens()

    def __iter__(self) -> Iterator[Session]:
        return iter(sorted(self._sessions.values(), key=lambda session: session.key))

    def __len__(self) -> int:
        return len(self._sessions)

    async def carry(self, claims: SessionClaims, peer: str, stream: MessageStream) -> None:
        """Carries one session to its end. Raises the `ServiceError` that the worker is to hear."""
        # Here, with nothing awaited until it can be found: a revocation may have come since the token was verified.
        if (refusal := self._revoked.refusal(claims)) is not None:
            raise refusal
        key = (claims.endpoint, claims.instance)
        if (former := self._sessions.get(key)) is not None:
            # The worker dials again although we have not noticed that its last stream is dead.
            former.end(ServiceError(Reason.WORKER_LOST))
        session = Session(self._roster, claims, peer, agent=self._agent, tracer=self._tracer)
        self._sessions[key] = session
        try:
            await session.run(stream)
        finally:
            if self._sessions.get(key) is session:
                del self._sessions[key]

    def renew(self, claims: SessionClaims) -> None:
        """A worker has a fresh token: its session lasts longer."""
        session = self._sessions.get((claims.endpoint, claims.instance))
        if session is not None:
            session.expires_at = max(session.expires_at, claims.expires_at)

    def revoke(self, revocation: Revocation) -> None:
        """Ends the sessions of a key or a principal that is good no longer, and takes their tokens no more. The worker
        of a revoked start finishes its open calls: launchers revoke what they stop in good order.
        """
        self._revoked.note(revocation)
        for session in list(self._sessions.values()):
            if revocation in grounds(session.claims):
                refusal = self._revoked.refusal(session.claims)
                if revocation.kind is RevocationKind.START:
                    session.stop_serving("its start was revoked")
                elif refusal is not None:
                    session.refuse(refusal)

    def stop(self, endpoint: str, instance: str, why: str) -> None:
        """Asks a worker to finish its open calls and end; it is given no more of them, whatever it says. Raises
        RESOURCE_NOT_FOUND if it is not attached here.
        """
        session = self._sessions.get((endpoint, instance))
        if session is None:
            message = f"No worker '{instance}' of '{endpoint}' is attached to this router."
            raise ServiceError(Reason.RESOURCE_NOT_FOUND, message, param="instance")
        session.stop_serving(why)

    def drain(self, grace: float) -> None:
        """Tells the workers that this router takes no more calls."""
        for session in self._sessions.values():
            session.link.mux.drain(grace)

    def end(self) -> None:
        """Ends every session."""
        for session in list(self._sessions.values()):
            session.end(ServiceError(Reason.SHUTTING_DOWN))


class Session:
    """One attached worker."""

    def __init__(
        self, roster: Roster, claims: SessionClaims, peer: str, *, agent: str, tracer: Tracer | None = None
    ) -> None:
        self.key = (claims.endpoint, claims.instance)
        self.claims = claims
        self.expires_at = claims.expires_at
        self.last_report = frame_pb2.Report()
        self._roster = roster
        self._peer = peer
        self._connected_at = time.time()
        self._refused: ServiceError | None = None
        spans = WorkerSpans(tracer, claims.endpoint, claims.instance) if tracer is not None else None
        self.link = Link(
            agent=agent,
            message=session_pb2.ConnectResponse,
            events=self,
            take_spans=spans.take if spans is not None else None,
        )
        self._server = Server(claims.endpoint, claims.instance, self.link.mux, serves=claims.serves, start=claims.start)

    async def run(self, stream: MessageStream) -> None:
        """Carries it until either end has had enough, or the worker's token has run out."""
        self._roster.add(self._server)
        expiry = asyncio.get_running_loop().create_task(self._watch_expiry())
        try:
            why = await self.link.run(stream)
        finally:
            expiry.cancel()
            self._roster.remove(self._server)
        if self._refused is not None:
            raise self._refused
        if why.reason is Reason.PROTOCOL_VIOLATION:
            raise why

    def end(self, error: ServiceError) -> None:
        """Ends it now."""
        self.link.mux.tell_why(error)
        self.link.mux.close(error)

    def refuse(self, error: ServiceError) -> None:
        """Ends it now, for what the worker shows is good no longer; those who call hear that it is gone, as they showed
        nothing of the kind.
        """
        self._refused = error
        self.link.mux.tell_why(error)
        self.link.mux.close(ServiceError(Reason.WORKER_LOST))

    def stop_serving(self, why: str) -> None:
        """Asks the worker to finish its open calls and end; it is given no more of them, whatever it says."""
        self.link.mux.stop(why)
        self.drain()

    async def _watch_expiry(self) -> None:
        # Renewals move the moment while we wait for it.
        while (left := self.expires_at - time.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(_EXPIRY_CHECK, left))
        self.refuse(ServiceError(Reason.CREDENTIAL_EXPIRED, "The session token has expired and was not renewed."))

    # SessionEvents

    def hello(self, hello: frame_pb2.Hello) -> None:
        """The worker's report follows; it takes no calls before."""
        if hello.agent.startswith(_TASKS):
            self._server.carrier = GLOBUS_TASK

    def drain(self) -> None:
        """The worker is shutting down, or is to; its open calls finish."""
        self._server.draining = True
        self._roster.refresh()

    def report(self, report: frame_pb2.Report) -> None:
        """What the worker says of itself. Raises `ProtocolViolationError` for a report that is too large, or a model's
        entry that is not one.
        """
        if report.ByteSize() > _LARGEST_REPORT:
            raise ProtocolViolationError(f"a report of {report.ByteSize()} bytes; {_LARGEST_REPORT} are allowed")
        server = self._server
        self.last_report = _shown(report)
        models = {model.id: _checked_card(model.card_json) for model in report.models}
        state = (
            report.state == frame_pb2.WORKER_STATE_READY,
            report.state == frame_pb2.WORKER_STATE_DRAINING or server.draining,
            report.max_calls,
            models,
        )
        if state != (server.ready, server.draining, server.max_calls, server.models):
            server.ready, server.draining, server.max_calls, server.models = state
            self._roster.refresh()
        elif server.ready:
            self._roster.heard(server)

    def stop(self, stop: frame_pb2.Stop) -> None:
        """A worker stops no router."""

    def describe(self) -> session_pb2.Session:
        """For those who watch."""
        peer: Any = self.link.mux.peer
        session = session_pb2.Session(
            endpoint=self.key[0],
            instance=self.key[1],
            agent=peer.agent if peer is not None else "",
            peer=self._peer,
            report=self.last_report,
            open_calls=self._server.open_calls,
            outstanding_tokens=self._server.outstanding_tokens,
            ended_calls=self._server.ended_calls,
            start=self._server.start,
            serves=self._server.serves,
        )
        session.connect_time.FromMilliseconds(int(self._connected_at * 1000))
        return session


def _shown(report: frame_pb2.Report) -> frame_pb2.Report:
    """A copy for those who watch: its words go to administrators' terminals, and are bounded and printable."""
    copy = frame_pb2.Report.FromString(report.SerializeToString())
    copy.detail = _plain(copy.detail)
    if copy.HasField("job"):
        job = copy.job
        job.id, job.host, job.account = _plain(job.id), _plain(job.host), _plain(job.account)
    return copy


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_WORDS])


def _checked_card(card: str) -> str:
    """A model's entry, empty or a JSON object: one bad entry would spoil the list of models for every caller."""
    try:
        if not card or isinstance(msgspec.json.decode(card), dict):
            return card
    except msgspec.DecodeError as error:
        raise ProtocolViolationError(f"a model's entry is not JSON: {error}") from error
    raise ProtocolViolationError("a model's entry is not an object")
