"""What the store of usage records promises, on each database."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from weft.usage.v1 import usage_pb2 as pb

from services.auth.retention import prune
from services.auth.usage import store as module
from services.auth.usage.messages import to_record, to_rows
from services.auth.usage.store import HEAD, Filter, UsageStore, open_usage
from services.auth.usage.tables import VERSION_TABLE, calls, metadata
from services.core.errors import Reason, ServiceError
from tests.testing.parts import requires_part

DAY = 86400.0
NOON = 20_000 * DAY + DAY / 2


def record(number: int, **fields: Any) -> pb.CallRecord:
    """A call of a second; `at` is when it began."""
    at = fields.pop("at", NOON)
    told: dict[str, Any] = {
        "principal": "users/ada",
        "model": "llama",
        "operation": "/v1/chat/completions",
        "outcome": "ok",
        "input_tokens": 10,
        "output_tokens": 5,
        **fields,
    }
    one = pb.CallRecord(id=f"{number:032x}", **told)
    one.start_time.FromMilliseconds(int(at * 1000))
    one.end_time.FromMilliseconds(int(at * 1000) + 1000)
    return one


async def keep(store: UsageStore, *records: pb.CallRecord) -> None:
    rows = [to_rows(one) for one in records]
    await store.record([row for row, _ in rows], [group for _, groups in rows for group in groups])


async def sums(store: UsageStore, *by: str, **wanted: Any) -> dict[tuple[str | int, ...], tuple[int, int, int]]:
    """Calls, tokens in, tokens out, by the keys."""
    found = await store.sums(by, Filter(**wanted), limit=100)
    return {one.keys: (one.calls, one.input_tokens, one.output_tokens) for one in found}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=requires_part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/usage.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def store(url: str, tmp_path: Path) -> AsyncIterator[UsageStore]:
    opened = UsageStore(open_usage(url, tmp_path / "usage.db"))
    yield opened
    await opened.close()


async def test_a_record_comes_back_as_it_was(store: UsageStore) -> None:
    whole = record(
        1,
        request_id="r1",
        groups=["groups/b", "groups/a"],
        route="routes/llama",
        endpoint="clusters/a/endpoints/b",
        status=200,
        cached_tokens=3,
        estimated=True,
        streamed=True,
        credential_kind=2,
    )
    whole.first_byte_time.FromMilliseconds(int(NOON * 1000) + 250)
    await keep(store, whole)
    (row,) = await store.page(Filter(), after=None, limit=10)
    groups = await store.groups_of([whole.id])
    del whole.groups[:]
    assert groups == {whole.id: ["groups/a", "groups/b"]}
    assert to_record(row, ()) == whole


async def test_what_is_sent_twice_is_counted_once(store: UsageStore) -> None:
    for _ in range(2):
        await keep(store, record(1, groups=["groups/a"]), record(2), record(2))
    assert await sums(store) == {(): (2, 20, 10)}
    assert await sums(store, "group") == {("",): (1, 10, 5), ("groups/a",): (1, 10, 5)}


async def test_sums_by_each_dimension(store: UsageStore) -> None:
    await keep(
        store,
        record(1, groups=["groups/a", "groups/b"]),
        record(2, principal="users/bob", groups=["groups/a"], model="mistral", at=NOON + DAY),
        record(3, outcome="no_worker", input_tokens=0, output_tokens=0, endpoint="clusters/x/endpoints/y"),
    )
    assert await sums(store, "principal") == {("users/ada",): (2, 10, 5), ("users/bob",): (1, 10, 5)}
    assert await sums(store, "group") == {("",): (1, 0, 0), ("groups/a",): (2, 20, 10), ("groups/b",): (1, 10, 5)}
    assert await sums(store, "day", "model") == {(20_000, "llama"): (2, 10, 5), (20_001, "mistral"): (1, 10, 5)}
    assert set(await sums(store, "endpoint")) == {("",), ("clusters/x/endpoints/y",)}
    assert await sums(store, "operation") == {("/v1/chat/completions",): (3, 20, 10)}
    (total,) = await store.sums((), Filter(), limit=1)
    assert (total.calls, total.failed) == (3, 1)


async def test_filters(store: UsageStore) -> None:
    await keep(
        store,
        record(1, groups=["groups/a"]),
        record(2, principal="users/bob", groups=["groups/a"], at=NOON + DAY),
        record(3, model="mistral", at=NOON + 2 * DAY),
    )
    assert await sums(store, principal="users/ada") == {(): (2, 20, 10)}
    assert await sums(store, model="mistral") == {(): (1, 10, 5)}
    assert await sums(store, "principal", group="groups/a") == {
        ("users/ada",): (1, 10, 5),
        ("users/bob",): (1, 10, 5),
    }
    assert await sums(store, group="groups/a", since=NOON + DAY) == {(): (1, 10, 5)}
    assert await sums(store, since=NOON, until=NOON + DAY) == {(): (1, 10, 5)}, "the end is not in it"
    assert await sums(store, principal="users/nobody") == {}


async def test_pages(store: UsageStore) -> None:
    await keep(store, *(record(n, principal=f"users/u{n % 3}", model=f"m{n % 2}", at=NOON + n % 4) for n in range(12)))
    whole = await store.sums(("principal", "model"), Filter(), limit=100)
    assert len(whole) == 6
    assert await store.sums(("principal", "model"), Filter(), after=whole[2].keys, limit=2) == whole[3:5]
    listed = [(row.started_at, row.id) for row in await store.page(Filter(), after=None, limit=100)]
    assert listed == sorted(listed)
    assert len(listed) == 12
    later = await store.page(Filter(), after=listed[4], limit=3)
    assert [(row.started_at, row.id) for row in later] == listed[5:8]


async def test_what_a_caller_may_have_sent_is_kept_readable(store: UsageStore) -> None:
    """PostgreSQL refuses a NUL in a text, and the records behind it would wait for ever."""
    await keep(store, record(1, model="a\0b", request_id="x" * 5000, input_tokens=2**64 - 1))
    (row,) = await store.page(Filter(), after=None, limit=1)
    assert row.model == "a\N{REPLACEMENT CHARACTER}b"
    assert len(row.request_id) <= 1024
    assert await sums(store) == {(): (1, 2**53, 5)}


async def test_old_records_go_a_few_at_a_time(store: UsageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.auth.retention._BATCH", 2)
    monkeypatch.setattr("services.auth.retention._PAUSE", 0)
    await keep(store, *(record(n, groups=["groups/a"], at=NOON + n * DAY) for n in range(6)))
    assert await store.prune(NOON + 5 * DAY, 2) == 2, "no more than asked for"
    assert await prune(store, 1, NOON + 6 * DAY) == 3
    assert await sums(store, "group") == {("groups/a",): (1, 10, 5)}
    assert await prune(store, 1, NOON + 6 * DAY) == 0


async def test_many_records_at_once(store: UsageStore) -> None:
    await keep(store, *(record(n, groups=["groups/a", "groups/b"]) for n in range(module._ROWS * 2 + 1)))
    assert await sums(store, "group") == {
        ("groups/a",): (1001, 10_010, 5005),
        ("groups/b",): (1001, 10_010, 5005),
    }
    found = await store.groups_of([f"{n:032x}" for n in range(1001)])
    assert len(found) == 1001


async def test_the_migrations_lead_to_the_tables(store: UsageStore) -> None:
    await store.start()

    def differences(connection: sa.Connection) -> Any:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or str(name) in metadata.tables},
        )
        return compare_metadata(context, metadata)

    async with store._engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        version = (await connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))).scalar()
    assert version == HEAD
    assert calls.name == "usage_calls"


async def test_a_database_that_is_away_is_told_of() -> None:
    store = UsageStore(open_usage("postgresql://weft@127.0.0.1:1/none", Path("unused")))
    with pytest.raises(ServiceError) as refusal:
        await sums(store)
    assert refusal.value.reason is Reason.AUTH_UNAVAILABLE
    await store.close()
