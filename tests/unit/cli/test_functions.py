"""Which functions are registered, what is kept of them, and what verifying finds."""

from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from weft.registry.v1 import resources_pb2

from services.cli.check import Check
from services.cli.failures import CommandError
from services.cli.function_check import Allowed, Registered, Use, check_uses, check_versions, uses_of
from services.cli.function_file import iso, read_file, write_file
from services.cli.function_plan import DAY, kept, merged, plan
from services.core.globus import FunctionVersion
from services.globus.sources import Source

NAME = "functions/probe"
NOW = 1000 * DAY
RENEW = 60 * DAY
SOURCE = Source(NAME, "probe", "def probe(request): ...")


def version(uuid: str, days: float = 1, *, sha256: str = SOURCE.sha256, ha: str = "") -> FunctionVersion:
    return FunctionVersion(uuid, sha256, NOW - days * DAY, ha)


def planned(
    *versions: FunctionVersion, ha: tuple[str, ...] = (), gone: tuple[str, ...] = (), force: bool = False
) -> list[tuple[str, str]]:
    made = plan(SOURCE, versions, ha_endpoints=ha, gone=frozenset(gone), now=NOW, renew_after=RENEW, force=force)
    return [(registration.ha_endpoint_uuid, registration.why) for registration in made]


def test_only_what_changed_is_registered() -> None:
    assert planned() == [("", "new")]
    assert planned(version("a", 500)) == []
    assert planned(version("a", sha256="0" * 64)) == [("", "changed")]
    # The newest is what starts use: a source that has gone back to an older version's is registered anew.
    assert planned(version("b", sha256="0" * 64), version("a", 2)) == [("", "changed")]
    assert planned(version("a"), gone=("a",)) == [("", "Globus Compute had it no more")]
    assert planned(version("a"), force=True) == [("", "as asked")]


def test_high_assurance_functions_are_renewed() -> None:
    young, old = version("h", 59, ha="ha"), version("h", 60, ha="ha")
    assert planned(version("a"), young) == []
    assert planned(version("a"), old) == [("ha", "renewed after 60 days")]
    assert planned(version("a"), ha=("ha", "other", "ha")) == [("ha", "new"), ("other", "new")]
    assert planned(old, ha=("other",)) == [("other", "new")]
    assert planned(version("h", ha="ha")) == [("", "new")]


def test_the_newest_are_kept_of_each_kind() -> None:
    versions = [version(f"v{days}", days) for days in (3, 1, 2)] + [version("h", 9, ha="ha")]
    assert [v.uuid for v in merged(versions, versions)] == ["v1", "v2", "v3", "h"]
    assert [v.uuid for v in kept(versions, 2)] == ["v1", "v2", "h"]


def test_the_file_gives_back_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "home" / "functions.yaml"
    assert read_file(file) == {}
    functions = {
        NAME: (FunctionVersion("b", "1" * 64, 1_764_000_000.123, "ha"), FunctionVersion("a", "0" * 64, 1.0)),
        "functions/batch": (),
    }
    write_file(file, functions)
    assert read_file(file) == functions
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    assert iso(1_764_000_000.123) == "2025-11-24T16:00:00.123Z"
    assert "start-worker" not in file.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "functions: [",
        "functions: [a]",
        "functions: {probe: [{uuid: a}]}",
        "- a",
        "about: a file of somebody else's, which must not be written over",
        "functions: {probe: [{uuid: a, sha256: b, registered: soon}]}",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "functions.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=r"functions\.yaml"):
        read_file(file)


def found(*registered: Registered) -> list[tuple[bool, str]]:
    return [(check.good, check.found) for check in check_versions(SOURCE, registered, now=NOW, renew_after=RENEW)]


def test_versions_are_verified() -> None:
    old = "0" * 64
    same = SOURCE.sha256
    assert found() == [(False, "is not registered")]
    assert found(Registered(version("a"), same)) == [(True, "is there")]
    assert found(Registered(version("a"))) == [(False, "Globus Compute has it no more")]
    assert found(Registered(version("a"), old)) == [(False, "its source at Globus Compute is not what was registered")]
    assert found(Registered(version("a", sha256=old), old)) == [(False, "is of an older Weft than this one")]
    assert found(Registered(version("b"), same), Registered(version("a", 2, sha256=old), old)) == [
        (True, "is there"),
        (True, "is there, kept for endpoints that allow only it"),
    ]
    assert found(Registered(version("h", 60, ha="ha"), same))[0][0] is False
    assert found(Registered(version("h", 59, ha="ha"), same)) == [(True, "is there, for ha")]
    assert found(Registered(version("a"), trouble="It answers 500.")) == [(False, "It answers 500.")]


def used(allowed: Allowed, *versions: FunctionVersion, explicit: str = "") -> Check:
    (check,) = check_uses([Use("clusters/c", "e", NAME, explicit)], {NAME: versions}, {"e": allowed})
    return check


def test_what_endpoints_allow_is_verified() -> None:
    both = (version("b"), version("a", 2))
    assert used(Allowed(None), *both).good
    assert used(Allowed(frozenset({"b"})), *both).found == "endpoint e allows b"
    older = used(Allowed(frozenset({"a"})), *both)
    assert (older.good, "older a" in older.found) == (True, True)
    refused = used(Allowed(frozenset({"x"})), *both)
    assert (refused.found, "add b to 'allowed_functions'" in refused.remedy) == ("endpoint e does not allow b", True)
    assert used(Allowed(frozenset({"x"})), *both, explicit="x").good
    assert not used(Allowed(frozenset({"a"})), *both, explicit="x").good
    assert used(Allowed(None)).remedy == "run 'weft functions register'"
    assert used(Allowed(None), version("h", ha="other")).remedy == "run 'weft functions register'"
    assert used(Allowed(None), version("h", ha="e")).good
    assert used(Allowed(frozenset({"a", "h"})), version("a"), version("h", 2, ha="e")).found == "endpoint e allows h"
    assert used(Allowed(trouble="It is not known.", remedy="Look."), *both) == Check(
        "clusters/c probe", "It is not known.", "Look."
    )


def test_what_the_catalogue_needs() -> None:
    def endpoint(name: str, **fields: object) -> resources_pb2.Endpoint:
        return ParseDict({"name": name, **fields}, resources_pb2.Endpoint())

    cluster = resources_pb2.Cluster(name="clusters/c", queue_status=resources_pb2.GlobusFunction(endpoint_uuid="q"))
    launch = {"start_worker": {"endpoint_uuid": "e"}}
    assert uses_of(
        [cluster, resources_pb2.Cluster(name="clusters/d")],
        [
            endpoint("session", session={}),
            endpoint("auto", globus={"launch": launch, "credentials": "anl"}),
            endpoint("sessions", globus={"launch": launch, "call_mode": "CALL_MODE_SESSION"}),
            endpoint(
                "first",
                globus={"inference": {"endpoint_uuid": "i", "function_uuid": "f"}, "batch": {"endpoint_uuid": "b"}},
            ),
        ],
    ) == [
        Use("clusters/c", "q", "functions/queue-status"),
        Use("auto", "e", "functions/start-worker", "", "anl"),
        Use("auto", "e", "functions/inference", "", "anl"),
        Use("sessions", "e", "functions/start-worker"),
        Use("first", "i", "functions/inference", "f"),
        Use("first", "b", "functions/batch"),
    ]
