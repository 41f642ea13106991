"""What docs/identity.md shows of weft.yaml is taken as it stands there, and every key of it is told."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from services.auth.config import AuthConfig
from services.auth.identity_config import ClaimNames, GlobusConfig, IssuerConfig
from services.auth.policy_config import PolicyConfig, QuotaConfig

TEXT = (Path(__file__).parents[3] / "docs" / "identity.md").read_text()
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)]


@pytest.mark.parametrize("example", [one["auth"] for one in EXAMPLES if "auth" in one])
def test_examples_are_taken(example: dict[str, object]) -> None:
    msgspec.convert(example, AuthConfig)


@pytest.mark.parametrize("kind", [GlobusConfig, IssuerConfig, ClaimNames, PolicyConfig, QuotaConfig])
def test_every_key_is_told(kind: type[msgspec.Struct]) -> None:
    missing = [name for name in kind.__struct_fields__ if not re.search(rf"\b{name}\b", TEXT)]
    assert not missing
