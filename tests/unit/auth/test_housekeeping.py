"""What auth does from time to time: uses of keys are written in batches, and never lost to a database that is away."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.auth.housekeeper import Housekeeper
from services.auth.tokens import SigningKey, new_signing_key
from services.auth.uses import KeyUses
from services.core.errors import Reason, ServiceError

AWAY = ServiceError(Reason.AUTH_UNAVAILABLE)


@dataclass
class FakeStore:
    """Takes uses, or is away."""

    away: bool = False
    written: list[dict[str, float]] = field(default_factory=list)

    async def touch(self, uses: Mapping[str, float]) -> None:
        if self.away:
            raise AWAY
        self.written.append(dict(uses))


@dataclass
class FakeSigningKeys:
    away: bool = False
    asked: list[tuple[str, float, float]] = field(default_factory=list)

    async def rotate(self, now: float, *, life: float) -> SigningKey | None:
        if self.away:
            raise AWAY
        self.asked.append(("rotate", now, life))
        return new_signing_key() if len(self.asked) == 1 else None

    async def remove_old(self, now: float, *, token_life: float) -> int:
        self.asked.append(("remove", now, token_life))
        return 1


async def test_many_uses_are_one_write_and_none_is_no_write() -> None:
    store = FakeStore()
    uses = KeyUses(store)  # type: ignore[arg-type]
    for now in (1.0, 2.0, 3.0):
        uses.note("a", now)
    uses.note("b", 2.5)
    for _ in range(2):
        await uses.write()
    assert store.written == [{"a": 3.0, "b": 2.5}]


async def test_what_could_not_be_written_is_written_the_next_time_with_what_came_since() -> None:
    store = FakeStore(away=True)
    uses = KeyUses(store)  # type: ignore[arg-type]
    uses.note("a", 1.0)
    uses.note("b", 1.0)
    await uses.write()
    uses.note("a", 2.0)
    store.away = False
    await uses.write()
    assert store.written == [{"a": 2.0, "b": 1.0}]


async def test_signing_keys_are_looked_after_and_an_outage_ends_nothing() -> None:
    store, signing_keys = FakeStore(), FakeSigningKeys()
    keeper = Housekeeper(
        signing_keys,  # type: ignore[arg-type]
        KeyUses(store),  # type: ignore[arg-type]
        signing_key_life=100.0,
        token_life=9.0,
        clock=lambda: 1.0,
    )
    await keeper.tidy()
    signing_keys.away = True
    await keeper.tidy()
    signing_keys.away = False
    await keeper.tidy()
    assert signing_keys.asked == [("rotate", 1.0, 100.0), ("remove", 1.0, 9.0)] * 2
