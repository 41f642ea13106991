"""What the flags about Globus Compute make of an endpoint."""

import pytest
import typer
from google.protobuf.json_format import MessageToDict
from weft.registry.v1 import resources_pb2

from services.cli.globus_flags import GlobusFlags, endpoint_uuid


def put(flags: GlobusFlags, backend: resources_pb2.GlobusBackend | None = None) -> object:
    backend = backend or resources_pb2.GlobusBackend()
    flags.put(backend)
    return MessageToDict(backend, preserving_proto_field_name=True)


def test_every_flag() -> None:
    flags = GlobusFlags(
        globus="uuid",
        min_workers=1,
        max_workers=4,
        calls_per_worker=16,
        idle_time="1.5h",
        keep_warm=True,
        walltime="2d",
        queue_time="90s",
        replace_before="600",
        config=["nodes=2", 'env={"A": "b=c"}', "queue=by-gpu", "empty="],
        call_mode="session",
        credentials="anl",
        serves="users/ada",
        api_port=8001,
        router=["https://weft.example.org"],
        batch="other",
    )
    assert flags.given
    assert put(flags) == {
        "launch": {
            "start_worker": {"endpoint_uuid": "uuid"},
            "min_workers": 1,
            "max_workers": 4,
            "calls_per_worker": 16,
            "idle_time": "5400s",
            "keep_warm": True,
            "walltime": "172800s",
            "queue_time": "90s",
            "replace_before": "600s",
            "user_endpoint_config": {"nodes": 2.0, "env": {"A": "b=c"}, "queue": "by-gpu", "empty": ""},
            "routers": ["https://weft.example.org"],
            "serves": "users/ada",
        },
        "call_mode": "CALL_MODE_SESSION",
        "credentials": "anl",
        "api_port": 8001,
        "batch": {"endpoint_uuid": "other"},
    }


def test_what_is_not_given_stays() -> None:
    assert not GlobusFlags().given
    assert GlobusFlags(keep_warm=False).given
    assert put(GlobusFlags(api_port=1)) == {"api_port": 1}, "an endpoint of tasks alone gets no launch policy"
    backend = resources_pb2.GlobusBackend()
    GlobusFlags(globus="uuid", walltime="1h", router=["a:1", "b:2"], config=["a=1"], keep_warm=True).put(backend)
    GlobusFlags(walltime="none", router=["c:3"], config=["b=2"], keep_warm=False, batch="").put(backend)
    assert put(GlobusFlags(), backend) == {
        "launch": {
            "start_worker": {"endpoint_uuid": "uuid"},
            "user_endpoint_config": {"b": 2.0},
            "routers": ["c:3"],
        }
    }


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (GlobusFlags(idle_time="soon"), "--idle-time must be a time"),
        (GlobusFlags(queue_time="-1s"), "--queue-time must be a time"),
        (GlobusFlags(config=["nodes"]), "--config must look like KEY=VALUE"),
        (GlobusFlags(config=["=2"]), "--config must look like KEY=VALUE"),
        (GlobusFlags(call_mode="tasks"), "--call-mode must be one of auto, session, task"),
    ],
)
def test_what_cannot_be_read(flags: GlobusFlags, complaint: str) -> None:
    with pytest.raises(typer.BadParameter, match=complaint):
        put(flags)


def test_an_endpoint_is_named_by_its_uuid() -> None:
    uuid = "6f5c9a3e-2e2b-4a50-9d7e-1a4f0a6f1a11"
    assert endpoint_uuid(uuid.upper()) == uuid
    assert endpoint_uuid("") == ""
    with pytest.raises(typer.BadParameter, match="globus-compute-endpoint list"):
        endpoint_uuid("sophia")
