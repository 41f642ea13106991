"""Every RPC of Weft is an act or not, and somebody has thought about which."""

import importlib
from pathlib import Path

import weft
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from weft.auth.v1 import auth_pb2
from weft.registry.v1 import registry_pb2, resources_pb2

from services.rpc.acts import KINDS, Kind, kind_of
from services.rpc.audit import NAMES, resource_of


def all_rpcs() -> set[str]:
    root = Path(next(iter(weft.__path__))).parent
    modules = [".".join(file.relative_to(root).with_suffix("").parts) for file in root.glob("weft/**/*_pb2.py")]
    files = {importlib.import_module(module).DESCRIPTOR.name for module in modules}
    pool = descriptor_pool.Default()
    services = [one for file in files for one in pool.FindFileByName(file).services_by_name.values()]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_rpc_stands_in_the_table_and_nothing_else() -> None:
    assert set(KINDS) == all_rpcs()


def test_what_changes_by_its_name_is_an_act() -> None:
    verbs = ("Create", "Update", "Delete", "Revoke", "Rotate", "Deny", "Admit", "Drain", "Apply", "Stop", "Issue")
    for method, kind in KINDS.items():
        if method.rpartition("/")[2].startswith(verbs):
            assert kind in (Kind.ACT, Kind.NOTED), method


def test_a_new_rpc_is_an_act_until_somebody_thinks_about_it() -> None:
    assert kind_of("/weft.new.v1.NewService/Do") is Kind.ACT
    assert kind_of("/grpc.health.v1.Health/Check") is Kind.PLAIN


def test_resources_are_named_and_secrets_are_not() -> None:
    def named(message: Message) -> str:
        return resource_of(message)

    assert named(auth_pb2.CreateKeyRequest(principal="users/ada", display_name="x")) == "users/ada"
    made = auth_pb2.CreateKeyResponse(key="weft_0_secret", resource=auth_pb2.Key(name="keys/aa"))
    assert named(made) == "keys/aa"
    token = auth_pb2.IssueSessionTokenRequest(credential="weft_0_secret", endpoint="clusters/a/endpoints/b")
    assert named(token) == "clusters/a/endpoints/b"
    assert named(registry_pb2.CreateClusterRequest(cluster=resources_pb2.Cluster(name="clusters/a"))) == "clusters/a"
    many = registry_pb2.ApplyRequest(clusters=[resources_pb2.Cluster(name=f"clusters/c{n}") for n in range(25)])
    assert named(many).endswith("clusters/c19 and 5 more")
    assert resource_of(b"no message") == ""
    assert not {"key", "credential", "token", "body"} & set(NAMES)
