"""Who may call which model, and who may do what."""

import pytest

from services.core.access import in_scope
from services.core.errors import Reason, ServiceError
from services.core.principal import Permissions, Principal, Role, may_serve


@pytest.mark.parametrize(
    ("allow", "deny", "model", "may"),
    [
        ((), (), "m", False),
        (("*",), (), "org/m", True),
        (("*",), ("org/*",), "org/m", False),
        (("m",), ("m",), "m", False),
        (("llama-*",), (), "llama-70b", True),
        (("llama-*",), (), "my-llama-70b", False),
        (("*-8b",), (), "a\n-8b", True),
        (("a?c",), (), "abc", False),
        (("m[1]",), (), "m[1]", True),
        (("m.1",), (), "mx1", False),
    ],
)
def test_models(allow: tuple[str, ...], deny: tuple[str, ...], model: str, may: bool) -> None:
    principal = Principal("users/u", permissions=Permissions(allow_models=allow, deny_models=deny))
    assert in_scope(principal, model) is may


def test_only_a_worker_serves_and_only_its_endpoints() -> None:
    permissions = Permissions(allow_models=("*",), allow_endpoints=("clusters/a/endpoints/*",))
    worker = Principal("workers/w", frozenset({Role.WORKER}), permissions)
    assert may_serve(worker, "clusters/a/endpoints/x")
    assert not may_serve(worker, "clusters/b/endpoints/x")
    assert not may_serve(Principal("users/u", frozenset({Role.ADMIN}), permissions), "clusters/a/endpoints/x")


def test_a_role_is_required() -> None:
    admin = Principal("users/a", frozenset({Role.ADMIN}))
    admin.require(Role.SERVICE, Role.ADMIN, action="This")
    with pytest.raises(ServiceError) as caught:
        admin.require(Role.SERVICE, action="Watching the catalogue")
    assert caught.value.reason is Reason.ACTION_FORBIDDEN
    assert caught.value.message == "Watching the catalogue needs a key with the role 'service'."
