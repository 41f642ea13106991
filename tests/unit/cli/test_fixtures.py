"""The import of FIRST's fixtures: both shapes, and every complaint about a broken file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from weft.registry.v1 import registry_pb2

from services.cli.first.convert import FixtureError, Imported, read_fixtures
from services.cli.fixtures import report, to_request
from services.core.catalogue import (
    AccessPolicy,
    Availability,
    Catalogue,
    Cluster,
    Endpoint,
    GlobusBackend,
    GlobusFunction,
    HttpBackend,
    ModelBinding,
    Route,
    RouteTarget,
    SessionBackend,
)
from services.core.quota import Limits, Quota
from services.rpc.resources import cluster_from_proto, endpoint_from_proto

GOLDEN = Path("tests/golden/first")
LOCAL = "clusters/local/endpoints/local-vllm-opt-125m"
SOPHIA = "clusters/sophia/endpoints/sophia-vllm-opt-125m"


def read(*names: str) -> Imported:
    return read_fixtures(GOLDEN / name for name in names)


def complaints(file: Path) -> list[str]:
    with pytest.raises(FixtureError) as caught:
        read_fixtures([file])
    _, *sentences = str(caught.value).split("\n  ")
    return [sentence.removeprefix(f"{file}: ") for sentence in sentences]


def one_endpoint(tmp_path: Path, **fields: object) -> Path:
    known = {
        "endpoint_slug": "one",
        "cluster": "local",
        "framework": "vllm",
        "model": "facebook/opt-125m",
        "api_port": 8000,
        "endpoint_uuid": "a",
        "function_uuid": "b",
    }
    values = {name: value for name, value in {**known, **fields}.items() if value != "absent"}
    file = tmp_path / "one.json"
    file.write_text(json.dumps([{"model": "resource_server.endpoint", "pk": 1, "fields": values}]))
    return file


def test_older_shape_in_any_order_of_files() -> None:
    imported = read("older-federated-endpoints.json", "older-endpoints.json")
    assert imported.endpoints[SOPHIA] == Endpoint(
        SOPHIA,
        GlobusBackend(
            GlobusFunction("sophia-endpoint-uuid"),
            GlobusFunction("sophia-batch-endpoint-uuid"),
            8000,
        ),
        framework="vllm",
        models=(ModelBinding("facebook/opt-125m"),),
        access=AccessPolicy(("group-one", "group-two")),
    )
    local = imported.endpoints[LOCAL]
    assert local.backend == GlobusBackend(GlobusFunction("local-endpoint-uuid"), None, 8000)
    assert local.access == AccessPolicy()
    assert imported.routes == {
        "routes/federated-opt-125m": Route(
            "routes/federated-opt-125m",
            "facebook/opt-125m",
            (RouteTarget(LOCAL), RouteTarget(SOPHIA)),
            "OPT-125M (Federated)",
            "Federated access to OPT-125M across multiple clusters",
        )
    }
    assert set(imported.implied) == {"clusters/local", "clusters/sophia"}
    for note, uuid in zip(imported.notes, ("local-endpoint-uuid", "sophia-endpoint-uuid"), strict=True):
        assert f"Weft's own functions, which {uuid} must allow" in note


def test_newer_shape() -> None:
    imported = read("clusters.json", "endpoints.json")
    cluster = imported.clusters["clusters/your-cluster"]
    assert cluster.frameworks == ("vllm", "api")
    assert cluster.operations == ("chat/completions", "completions", "embeddings")
    assert cluster.queue_status is not None
    assert imported.clusters["clusters/your-other-cluster"].status_url == "https://my-status-url.com/status"
    globus, http = imported.endpoints.values()
    assert isinstance(globus.backend, GlobusBackend)
    assert globus.backend.api_port == 8000
    assert http.backend == HttpBackend("http://127.0.0.1:8080", api_key_env="YOUR_MODEL_120B_API_KEY")
    assert http.limits == Limits(Quota(tokens_per_minute=100_000), Quota(tokens_per_minute=60_000)), "FIRST's defaults"
    assert sum("gets FIRST's own limits" in note for note in imported.notes) == 2
    assert imported.implied == {}


def test_config_as_text_ids_made_and_limits_kept() -> None:
    imported = read("newer-variants.json")
    (endpoint,) = imported.endpoints.values()
    assert endpoint.name == "clusters/metis-cluster/endpoints/metis-cluster-api-org-model-120b"
    assert endpoint.backend == HttpBackend("https://api.example.org", api_key_env="ORG_KEY", timeout=120.0)
    assert endpoint.limits == Limits(Quota(tokens_per_minute=100_000), Quota(tokens_per_minute=60_000))
    assert imported.clusters["clusters/metis-cluster"].operations == ("chat/completions", "completions")
    assert any("'Metis Cluster' becomes the id 'metis-cluster'" in note for note in imported.notes)


def test_who_may_use_the_cluster_stays_a_condition() -> None:
    imported = read("newer-variants.json")
    (cluster,), (endpoint,) = imported.clusters.values(), imported.endpoints.values()
    assert cluster.access == AccessPolicy(("group-one", "group-two"))
    assert endpoint.access == AccessPolicy(("group-two", "group-three"), ("example.org",))


def test_every_problem_of_a_broken_file_is_told() -> None:
    golden = GOLDEN / "broken.txt"
    with pytest.raises(FixtureError) as caught:
        read("broken.json")
    assert str(caught.value) + "\n" == golden.read_text()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "is not JSON: Expecting value at line 1, column 1"),
        ('[\n  {"model": }\n]', "is not JSON: Expecting value at line 2, column 13"),
        ("{}", "must hold a list of entries, as Django's fixtures do"),
        ('[{"pk": 1, "pk": 2}]', "the key 'pk' stands twice in one object"),
        ("[" * 100_000, "is nested too deep"),
    ],
)
def test_what_is_no_fixture(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "file.json"
    file.write_text(content)
    assert complaints(file) == [complaint]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert complaints(tmp_path / "none.json") == ["cannot be read: No such file or directory"]
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    assert complaints(tmp_path / "latin.json") == ["is not UTF-8: byte 2 cannot be read"]


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("model", "absent", "field 'model' is missing"),
        ("model", " ", "field 'model' must not be empty"),
        ("model", 7, "field 'model' must be text, not 7"),
        ("cluster", "---", "field 'cluster' is '---', of which no id can be made; use letters and digits"),
        ("api_port", 70_000, "field 'api_port' must be a port, 1 to 65535; 0 leaves it to the worker"),
        ("api_port", True, "field 'api_port' must be a whole number of at least 0, not true"),
        ("tpm_model", -1, "field 'tpm_model' must be a whole number of at least 0, not -1"),
        ("alowed_domains", [], "field 'alowed_domains' is not known; the nearest known is 'allowed_domains'"),
        ("allowed_domains", [1], "field 'allowed_domains' must be a list of texts, or one text with commas, not [1]"),
        (
            "batch_endpoint_uuid",
            "x",
            "field 'batch_function_uuid' is missing, while the other UUID of the function is there",
        ),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, field: str, value: object, complaint: str) -> None:
    assert complaints(one_endpoint(tmp_path, **{field: value})) == [f"entry 1: {complaint}"]


def test_two_entries_of_one_slug(tmp_path: Path) -> None:
    file = one_endpoint(tmp_path)
    with pytest.raises(FixtureError, match="each endpoint needs its own"):
        read_fixtures([file, file])


def test_slugs_that_become_the_same_id(tmp_path: Path) -> None:
    one, two = tmp_path / "a", tmp_path / "b"
    one.mkdir()
    two.mkdir()
    files = [one_endpoint(one, endpoint_slug="my one"), one_endpoint(two, endpoint_slug="my-one")]
    with pytest.raises(FixtureError, match="would be 'clusters/local/endpoints/my-one', as"):
        read_fixtures(files)


def test_an_import_leaves_alone_what_first_cannot_say() -> None:
    imported = read("older-endpoints.json")
    drained = Endpoint(
        LOCAL, SessionBackend(), availability=Availability.DRAINING, notice="back on Monday", labels={"team": "a"}
    )
    cluster = Cluster("clusters/local", display_name="Ours", availability=Availability.MAINTENANCE)
    request = to_request(imported, Catalogue.of([cluster, drained]), dry_run=False)
    assert [cluster.name for cluster in request.clusters] == ["clusters/sophia"]
    endpoint = next(endpoint for endpoint in request.endpoints if endpoint.name == LOCAL)
    assert endpoint.availability == Availability.DRAINING.value
    assert endpoint.notice == "back on Monday"
    assert dict(endpoint.labels) == {"team": "a"}
    assert endpoint.WhichOneof("backend") == "globus"


def test_an_import_does_not_end_a_clusters_maintenance() -> None:
    present = Cluster("clusters/metis-cluster", "Metis", Availability.MAINTENANCE, "until Monday", labels={"a": "b"})
    request = to_request(read("newer-variants.json"), Catalogue.of([present]), dry_run=False)
    (cluster,) = request.clusters
    assert cluster.availability == Availability.MAINTENANCE.value
    assert (cluster.display_name, cluster.notice, dict(cluster.labels)) == ("Metis", "until Monday", {"a": "b"})
    assert list(cluster.frameworks) == ["api"]


def test_the_report() -> None:
    results = [
        registry_pb2.AppliedResource(name="clusters/a", action=registry_pb2.APPLY_ACTION_CREATED),
        registry_pb2.AppliedResource(name="routes/b", action=registry_pb2.APPLY_ACTION_UNCHANGED),
    ]
    assert report(results, ["x"], dry_run=False) == [
        "note: x",
        "created    clusters/a",
        "unchanged  routes/b",
        "1 created, 0 updated, 1 unchanged.",
    ]
    assert report([], [], dry_run=True) == [
        "0 created, 0 updated, 0 unchanged; nothing was written, as this was a dry run."
    ]


def test_what_fixtures_cannot_say_of_who_and_how_much_is_kept() -> None:
    imported = read("newer-variants.json")
    (endpoint,) = imported.endpoints.values()
    (cluster,) = imported.clusters.values()
    strict = AccessPolicy(("former",), allowed_principals=("services/portal",), max_session_age=60.0, require_mfa=True)
    limits = Limits(Quota(requests_per_second=1.0, tokens_per_minute=1), Quota(concurrent_calls=2))
    present = Catalogue.of(
        [replace(cluster, access=strict, limits=limits), replace(endpoint, access=strict, limits=limits)]
    )
    request = to_request(imported, present, dry_run=True)
    (made,) = map(endpoint_from_proto, request.endpoints)
    assert made.access == replace(
        strict, allowed_globus_groups=("group-two", "group-three"), allowed_domains=("example.org",)
    )
    assert made.limits == Limits(
        Quota(requests_per_second=1.0, tokens_per_minute=100_000),
        Quota(concurrent_calls=2, tokens_per_minute=60_000),
    )
    (site,) = map(cluster_from_proto, request.clusters)
    assert site.access == replace(strict, allowed_globus_groups=("group-one", "group-two"))
    assert site.limits == limits


@pytest.mark.parametrize("nothing", ["", [], [""], None, " , "])
def test_empty_texts_are_no_condition(tmp_path: Path, nothing: object) -> None:
    entry = json.loads((GOLDEN / "newer-variants.json").read_text())
    for one in entry:
        one["fields"] |= {"allowed_globus_groups": nothing, "allowed_domains": nothing}
    file = tmp_path / "f.json"
    file.write_text(json.dumps(entry))
    imported = read_fixtures([file])
    assert {one.access for one in (*imported.clusters.values(), *imported.endpoints.values())} == {AccessPolicy()}
