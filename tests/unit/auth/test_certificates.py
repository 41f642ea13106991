"""What callers with client certificates may do."""

import msgspec
import pytest

from services.auth.certificates import CertificateRule, certificate_principal
from services.core.errors import Reason, ServiceError
from services.core.principal import CredentialKind, Permissions, Role

RULES = (
    CertificateRule("spiffe://weft/users/root", roles=("user", "admin"), allow_models=("*",)),
    CertificateRule(
        "spiffe://weft/users/*",
        allow_models=("llama-*",),
        deny_models=("llama-secret",),
        allow_operations=("chat/completions",),
        groups=("physics",),
    ),
    CertificateRule("spiffe://weft/ns/batch/sa/*", principal="services/batch", allow_models=("*",)),
    CertificateRule("spiffe://weft/deep/*"),
)


def refusal(spiffe_id: str) -> str:
    """Why nobody is admitted by it."""
    with pytest.raises(ServiceError) as caught:
        certificate_principal(RULES, spiffe_id)
    assert caught.value.reason is Reason.IDENTITY_FORBIDDEN
    return caught.value.message


def test_the_first_rule_that_fits_says_who_it_is_and_what_they_may_do() -> None:
    alice = certificate_principal(RULES, "spiffe://weft/users/alice")
    assert (alice.name, alice.roles) == ("users/alice", {Role.USER})
    assert alice.permissions == Permissions(("llama-*",), ("llama-secret",), (), ("chat/completions",))
    assert (alice.identity.kind, alice.identity.subject) == (CredentialKind.CERTIFICATE, "spiffe://weft/users/alice")
    assert (alice.identity.groups, alice.identity.service_account) == ({"physics"}, False)
    assert certificate_principal(RULES, "spiffe://weft/users/root").roles == {Role.USER, Role.ADMIN}


def test_a_rule_may_give_the_principal() -> None:
    batch = certificate_principal(RULES, "spiffe://weft/ns/batch/sa/nightly")
    assert (batch.name, batch.identity.service_account) == ("services/batch", True)
    assert batch.identity.subject == "spiffe://weft/ns/batch/sa/nightly"


def test_who_is_not_admitted() -> None:
    assert "No rule admits the certificate of spiffe://weft/other/x" in refusal("spiffe://weft/other/x")
    assert "No rule" in refusal("spiffe://other/users/alice")
    assert "names no principal" in refusal("spiffe://weft/users/a/b")
    assert "names no principal" in refusal("spiffe://weft/deep/x")
    assert "is no SPIFFE id" in refusal("spiffe://weft/users/")
    assert "is no SPIFFE id" in refusal("users/alice")
    with pytest.raises(ServiceError):
        certificate_principal((), "spiffe://weft/users/alice")


@pytest.mark.parametrize(
    "rule",
    [
        {"pattern": "*"},
        {"pattern": "spiffe://*"},
        {"pattern": "spiffe://*/users/alice"},
        {"pattern": "spiffe://weft*"},
        {"pattern": "users/*"},
        {"pattern": "spiffe://weft/users/*", "principal": "alice"},
        {"pattern": "spiffe://weft/users/*", "roles": ["root"]},
        {"pattern": "spiffe://weft/users/*", "model": "x"},
    ],
)
def test_rules_that_are_wrong(rule: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(rule, CertificateRule)
