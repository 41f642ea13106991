"""What auth counts, and shows of its state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from services.auth.identities import Identities
from services.auth.revocation_hub import RevocationHub
from services.core.errors import ServiceError
from services.core.measures import Counts, Family, Page, counters, gauge


class Judgements:
    """Counts what becomes of credentials."""

    def __init__(self) -> None:
        self._counts = Counts(
            "weft_auth_authentications_total",
            "Credentials that were judged, by kind (key, token of an issuer, certificate) and outcome: ok, or why not.",
            ("kind", "outcome"),
        )

    @contextmanager
    def counting(self, kind: str) -> Iterator[None]:
        """Notes how the body ends."""
        outcome = "internal"
        try:
            yield
            outcome = "ok"
        except ServiceError as error:
            outcome = error.reason.name.lower()
            raise
        finally:
            self._counts.at(kind, outcome).value += 1

    def family(self) -> Family:
        """What there is to show."""
        return self._counts.family()


def show_auth(page: Page | None, identities: Identities, hub: RevocationHub) -> Judgements | None:
    """Puts auth's state onto a page; returns what is to count judgements. Without a page nothing is counted."""
    if page is None:
        return None
    judgements = Judgements()

    def families() -> Iterable[Family]:
        yield judgements.family()
        yield gauge("weft_auth_revocation_watchers", "Services that are told of revocations.", hub.watchers)
        yield counters(
            "weft_auth_token_lookups_total",
            "Questions for whose an issuer's token is: hit, if auth remembered, or miss, if the issuer was asked.",
            ("result",),
            [(("hit",), identities.hits), (("miss",), identities.misses)],
        )

    page.add(families)
    return judgements
