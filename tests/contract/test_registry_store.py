"""What the registry promises of its resources, on each database: rules, etags, order, revisions, all or nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from weft.registry.v1 import registry_pb2, resources_pb2

from services.core.errors import Reason, ServiceError
from services.registry import edits
from services.registry.config import Seed, SeedEndpoint
from services.registry.seed import plant
from services.registry.servicer import RegistryServicer
from services.registry.store import MIGRATIONS, Store
from services.registry.tables import HEAD, VERSION_TABLE, metadata
from services.registry.watch import BACKLOG, Hub
from services.runtime.database import open_database, upgrade

LOCAL = resources_pb2.Cluster(name="clusters/local")
SIM = resources_pb2.Endpoint(name="clusters/local/endpoints/sim", session=resources_pb2.SessionBackend())
ROUTE = resources_pb2.Route(
    name="routes/llama", model="org/llama", targets=[resources_pb2.RouteTarget(endpoint=SIM.name)]
)
FUNCTION = resources_pb2.Function(
    name="functions/probe",
    versions=[resources_pb2.FunctionVersion(uuid="one", sha256="a" * 64, register_time=Timestamp(seconds=1))],
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.part("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    postgresql_url: str = request.getfixturevalue("postgresql_url")
    return postgresql_url


@pytest.fixture
async def open_store(url: str, tmp_path: Path) -> AsyncIterator[Callable[[], Any]]:
    """Opens the same database as often as it is called."""
    stores: list[Store] = []

    async def open_one() -> Store:
        store = Store(open_database(url, tmp_path / "registry.db", setting="registry.database"))
        stores.append(store)
        await store.start()
        return store

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def store(open_store: Callable[[], Any]) -> Store:
    opened: Store = await open_store()
    return opened


@pytest.fixture
async def filled(store: Store) -> Store:
    await apply(store, clusters=[LOCAL], endpoints=[SIM], routes=[ROUTE])
    return store


async def apply(store: Store, *, dry_run: bool = False, **resources: Any) -> list[tuple[str, str]]:
    async with store.write(dry_run=dry_run) as writer:
        results = await edits.apply(writer, registry_pb2.ApplyRequest(**resources))
    return [
        (result.name, registry_pb2.ApplyAction.Name(result.action).removeprefix("APPLY_ACTION_")) for result in results
    ]


async def edit(store: Store, change: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    async with store.write() as writer:
        return await change(writer, *arguments, **options)


async def refusal(awaitable: Any) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await awaitable
    return caught.value


async def test_schema_is_what_the_tables_say(store: Store, open_store: Callable[[], Any]) -> None:
    def reflect(connection: sa.Connection) -> dict[str, set[str]]:
        inspector = sa.inspect(connection)
        return {
            name: {column["name"] for column in inspector.get_columns(name)} for name in inspector.get_table_names()
        }

    def version(connection: sa.Connection) -> str:
        table = sa.table(VERSION_TABLE, sa.column("version_num"))
        return str(connection.execute(sa.select(table.c.version_num)).scalar())

    async with store._engine.connect() as connection:
        tables = await connection.run_sync(reflect)
        assert await connection.run_sync(version) == HEAD
    assert {name: columns for name, columns in tables.items() if name != VERSION_TABLE} == {
        table.name: {column.name for column in table.columns} for table in metadata.sorted_tables
    }
    again: Store = await open_store()
    assert await again.revision() == await store.revision()


async def test_an_older_schema_is_migrated_and_keeps_what_it_has(url: str, tmp_path: Path) -> None:
    engine = open_database(url, tmp_path / "registry.db", setting="registry.database")
    row = {"name": LOCAL.name, "content": LOCAL.SerializeToString()}
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, MIGRATIONS, metadata, head="0001", table=VERSION_TABLE)
        await connection.execute(sa.insert(metadata.tables["clusters"]).values(row))
    store = Store(engine)
    try:
        await store.start()
        await edit(store, edits.create, FUNCTION)
        assert list((await store.snapshot()).contents) == [LOCAL.name, FUNCTION.name]
    finally:
        await store.close()


async def test_create_get_and_exists(store: Store) -> None:
    created = await edit(store, edits.create, LOCAL)
    assert created.etag
    assert created.HasField("create_time")
    assert created.availability == resources_pb2.AVAILABILITY_ACTIVE
    assert await store.get(LOCAL.name) == created
    assert (await refusal(edit(store, edits.create, LOCAL))).reason is Reason.RESOURCE_EXISTS
    assert (await refusal(store.get("clusters/other"))).reason is Reason.RESOURCE_NOT_FOUND


async def test_update_by_mask_changes_the_named_fields_alone(filled: Store) -> None:
    before: Any = await filled.get(SIM.name)
    change = resources_pb2.Endpoint(name=SIM.name, display_name="Simulator", framework="api")
    after = await edit(filled, edits.update, change, FieldMask(paths=["display_name"]))
    assert (after.display_name, after.framework) == ("Simulator", "")
    assert after.WhichOneof("backend") == "session"
    assert after.etag != before.etag
    assert after.create_time == before.create_time
    http = resources_pb2.Endpoint(name=SIM.name, http=resources_pb2.HttpBackend(url="http://gpu7:8000"))
    assert (await edit(filled, edits.update, http, FieldMask(paths=["http"]))).WhichOneof("backend") == "http"
    assert (await edit(filled, edits.update, SIM, FieldMask(paths=["session"]))).WhichOneof("backend") == "session"


async def test_update_without_a_mask_replaces_all(filled: Store) -> None:
    await edit(
        filled,
        edits.update,
        resources_pb2.Cluster(name=LOCAL.name, display_name="x"),
        FieldMask(paths=["display_name"]),
    )
    assert not (await edit(filled, edits.update, LOCAL, FieldMask())).display_name


@pytest.mark.parametrize("path", ["frameworkk", "name", "etag", "http.url", ""])
async def test_mask_with_a_path_that_cannot_be_changed(filled: Store, path: str) -> None:
    error = await refusal(edit(filled, edits.update, SIM, FieldMask(paths=[path])))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, "update_mask")


async def test_etag_must_be_the_present_one(filled: Store) -> None:
    old = await filled.get(SIM.name)
    await edit(filled, edits.drain, SIM.name, resume=False, notice="")
    assert (await refusal(edit(filled, edits.update, old, FieldMask()))).reason is Reason.RESOURCE_CHANGED
    assert (await refusal(edit(filled, edits.delete, SIM.name, old.etag))).reason is Reason.RESOURCE_CHANGED
    assert (await refusal(apply(filled, endpoints=[old]))).reason is Reason.RESOURCE_CHANGED
    fresh = await filled.get(SIM.name)
    assert await apply(filled, endpoints=[fresh]) == [(SIM.name, "UNCHANGED")]


async def test_an_etag_is_not_given_twice(filled: Store) -> None:
    before: Any = await filled.get(ROUTE.name)
    await edit(filled, edits.delete, ROUTE.name, "")
    await edit(filled, edits.create, ROUTE)
    error = await refusal(edit(filled, edits.delete, ROUTE.name, before.etag))
    assert error.reason is Reason.RESOURCE_CHANGED


async def test_what_others_need_stays(filled: Store) -> None:
    error = await refusal(edit(filled, edits.delete, LOCAL.name, ""))
    assert error.reason is Reason.RESOURCE_IN_USE
    assert SIM.name in error.message
    error = await refusal(edit(filled, edits.delete, SIM.name, ""))
    assert error.reason is Reason.RESOURCE_IN_USE
    assert ROUTE.name in error.message
    for name in (ROUTE.name, SIM.name, LOCAL.name):
        await edit(filled, edits.delete, name, "")
    assert (await filled.snapshot()).contents == {}


async def test_what_is_needed_must_exist(store: Store) -> None:
    error = await refusal(edit(store, edits.create, SIM))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, "endpoint.name")
    await apply(store, clusters=[LOCAL])
    error = await refusal(apply(store, routes=[ROUTE]))
    assert (error.reason, error.param) == (Reason.ARGUMENT_INVALID, "routes[0].targets[0].endpoint")


async def test_functions_are_made_read_changed_applied_and_deleted(filled: Store) -> None:
    servicer = RegistryServicer(filled, Hub(filled))
    created = (await servicer.CreateFunction(registry_pb2.CreateFunctionRequest(function=FUNCTION), None)).function
    assert created.etag
    assert (await servicer.GetFunction(registry_pb2.GetFunctionRequest(name=FUNCTION.name), None)).function == created
    other = resources_pb2.Function(name="functions/batch")
    assert await apply(filled, functions=[FUNCTION, other]) == [
        (FUNCTION.name, "UNCHANGED"),
        (other.name, "CREATED"),
    ]
    newer = resources_pb2.FunctionVersion(uuid="two", sha256="b" * 64, register_time=Timestamp(seconds=2))
    wanted = resources_pb2.Function(name=FUNCTION.name, etag=created.etag, versions=[newer, *FUNCTION.versions])
    request = registry_pb2.UpdateFunctionRequest(function=wanted, update_mask=FieldMask(paths=["versions"]))
    updated = (await servicer.UpdateFunction(request, None)).function
    assert [version.uuid for version in updated.versions] == ["two", "one"]
    assert (await refusal(servicer.UpdateFunction(request, None))).reason is Reason.RESOURCE_CHANGED
    listed = await servicer.ListFunctions(registry_pb2.ListFunctionsRequest(), None)
    assert [function.name for function in listed.functions] == [other.name, FUNCTION.name]
    assert list((await filled.snapshot()).contents)[-2:] == [other.name, FUNCTION.name]
    await servicer.DeleteFunction(registry_pb2.DeleteFunctionRequest(name=FUNCTION.name), None)
    assert (await refusal(filled.get(FUNCTION.name))).reason is Reason.RESOURCE_NOT_FOUND


async def test_a_model_has_one_route(filled: Store) -> None:
    other = resources_pb2.Route(name="routes/other", model=ROUTE.model, targets=ROUTE.targets)
    error = await refusal(edit(filled, edits.create, other))
    assert (error.reason, error.param) == (Reason.RESOURCE_EXISTS, "route.model")


async def test_a_route_that_leaves_an_endpoint_frees_it(filled: Store) -> None:
    other = resources_pb2.Endpoint(name="clusters/local/endpoints/other", session=resources_pb2.SessionBackend())
    moved = resources_pb2.Route(
        name=ROUTE.name, model=ROUTE.model, targets=[resources_pb2.RouteTarget(endpoint=other.name)]
    )
    assert await apply(filled, endpoints=[other], routes=[moved]) == [
        (other.name, "CREATED"),
        (ROUTE.name, "UPDATED"),
    ]
    await edit(filled, edits.delete, SIM.name, "")


async def test_apply_is_all_or_nothing(filled: Store) -> None:
    before = await filled.snapshot()
    bad = resources_pb2.Endpoint(name="clusters/none/endpoints/e", session=resources_pb2.SessionBackend())
    error = await refusal(apply(filled, clusters=[resources_pb2.Cluster(name="clusters/new")], endpoints=[SIM, bad]))
    assert error.param == "endpoints[1].name"
    assert await filled.snapshot() == before


async def test_a_dry_run_tells_and_writes_nothing(filled: Store) -> None:
    before = await filled.snapshot()
    new = resources_pb2.Cluster(name="clusters/new")
    assert await apply(filled, dry_run=True, clusters=[LOCAL, new]) == [
        (LOCAL.name, "UNCHANGED"),
        ("clusters/new", "CREATED"),
    ]
    assert await filled.snapshot() == before


async def test_apply_refuses_a_name_twice(store: Store) -> None:
    assert (await refusal(apply(store, clusters=[LOCAL, LOCAL]))).param == "clusters[1]"


async def test_revision_grows_with_changes_alone(filled: Store) -> None:
    commits: list[None] = []
    filled.on_commit(lambda: commits.append(None))
    before = await filled.revision()
    assert await apply(filled, clusters=[LOCAL], endpoints=[SIM], routes=[ROUTE]) == [
        (LOCAL.name, "UNCHANGED"),
        (SIM.name, "UNCHANGED"),
        (ROUTE.name, "UNCHANGED"),
    ]
    assert (await filled.revision(), commits) == (before, [])
    await edit(filled, edits.drain, SIM.name, resume=False, notice="soon back")
    assert await filled.revision() != before
    assert len(commits) == 1


async def test_writers_at_once_lose_nothing(open_store: Callable[[], Any]) -> None:
    one, two = await open_store(), await open_store()
    names = [f"clusters/c{number}" for number in range(20)]
    await asyncio.gather(
        *(
            edit(store, edits.create, resources_pb2.Cluster(name=name))
            for store, name in zip([one, two] * 10, names, strict=True)
        )
    )
    snapshot = await one.snapshot()
    assert set(snapshot.contents) == set(names)
    assert snapshot.revision.endswith(".20")


async def test_pages(store: Store) -> None:
    ids = ["a", "a-b", "a.b", "a_b", "b", "z"]
    await apply(store, clusters=[resources_pb2.Cluster(name=f"clusters/{id}") for id in ids])
    servicer = RegistryServicer(store, Hub(store))
    names: list[str] = []
    request = registry_pb2.ListClustersRequest(page_size=2)
    while True:
        answer = await servicer.ListClusters(request, None)
        assert len(answer.clusters) <= 2
        names += [cluster.name for cluster in answer.clusters]
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert names == sorted(f"clusters/{id}" for id in ids)
    everything = await servicer.ListClusters(registry_pb2.ListClustersRequest(page_size=10**6), None)
    assert len(everything.clusters) == len(ids)
    for request in (
        registry_pb2.ListClustersRequest(page_size=-1),
        registry_pb2.ListClustersRequest(page_token="nonsense"),
    ):
        assert (await refusal(servicer.ListClusters(request, None))).reason is Reason.ARGUMENT_INVALID


async def test_endpoints_of_one_cluster(store: Store) -> None:
    endpoints = [
        resources_pb2.Endpoint(name=f"clusters/{cluster}/endpoints/e", session=resources_pb2.SessionBackend())
        for cluster in ("a", "a-b")
    ]
    clusters = [resources_pb2.Cluster(name=name) for name in ("clusters/a", "clusters/a-b")]
    await apply(store, clusters=clusters, endpoints=endpoints)
    servicer = RegistryServicer(store, Hub(store))
    answer = await servicer.ListEndpoints(registry_pb2.ListEndpointsRequest(parent="clusters/a"), None)
    assert [endpoint.name for endpoint in answer.endpoints] == ["clusters/a/endpoints/e"]


async def test_seed_makes_what_is_absent_alone(store: Store) -> None:
    seed = Seed(
        endpoints=[SeedEndpoint(SIM.name), SeedEndpoint("clusters/local/endpoints/api", url="http://gpu7:8000")]
    )
    await plant(seed, store)
    await edit(store, edits.drain, SIM.name, resume=False, notice="")
    before = await store.snapshot()
    await plant(seed, store)
    assert await store.snapshot() == before
    api: Any = await store.get("clusters/local/endpoints/api")
    assert api.http.url == "http://gpu7:8000"


async def test_a_watcher_that_returns_and_one_that_falls_behind(filled: Store) -> None:
    hub = Hub(filled)
    assert (await refusal(anext(hub.watch("")))).reason is Reason.REGISTRY_UNAVAILABLE
    await hub.refresh()
    watch = hub.watch("")
    first = await anext(watch)
    assert [endpoint.name for endpoint in first.snapshot.endpoints] == [SIM.name]
    returning = await anext(hub.watch(first.revision))
    assert (returning.revision, returning.HasField("snapshot")) == (first.revision, False)
    await edit(filled, edits.delete, ROUTE.name, "")
    await hub.refresh()
    assert [change.deleted for change in (await anext(watch)).changes] == [ROUTE.name]
    for number in range(BACKLOG + 1):
        await edit(filled, edits.create, resources_pb2.Cluster(name=f"clusters/c{number}"))
        await hub.refresh()
    whole = await anext(watch)
    assert len(whole.snapshot.clusters) == BACKLOG + 2
    assert whole.revision == await filled.revision()
    await edit(filled, edits.create, FUNCTION)
    await hub.refresh()
    assert [change.function.name for change in (await anext(watch)).changes] == [FUNCTION.name]
    assert [function.name for function in (await anext(hub.watch(""))).snapshot.functions] == [FUNCTION.name]
    await edit(filled, edits.drain, SIM.name, resume=False, notice="")
    await hub.refresh()
    assert [change.endpoint.name for change in (await anext(watch)).changes] == [SIM.name]
    hub.close()
    assert [message async for message in watch] == []


async def test_a_quiet_watch_has_a_heartbeat(filled: Store) -> None:
    hub = Hub(filled, heartbeat=0.01)
    await hub.refresh()
    watch = hub.watch("")
    first = await anext(watch)
    async with asyncio.timeout(20):
        assert await anext(watch) == registry_pb2.WatchResponse(revision=first.revision)
