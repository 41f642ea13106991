"""What the registry is told."""

from __future__ import annotations

import msgspec


class SeedEndpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An endpoint to make: of workers, or with a `url`, of that OpenAI-compatible server. Models are public names."""

    name: str
    url: str = ""
    models: tuple[str, ...] = ()
    api_key_file: str = ""
    api_key_env: str = ""
    framework: str = "vllm"


class Seed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is made at a start if it does not exist; the clusters of the endpoints too. What exists stays as it is."""

    clusters: list[str] = []
    endpoints: list[SeedEndpoint] = []


class RegistryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`database` is the URL of a PostgreSQL database, `postgresql://user@host/name`, or of a file,
    `sqlite:////path/to/file`; empty means `registry.db` in the home. An empty `service_key_file` means `service.key`
    there.
    """

    address: str = "127.0.0.1:7001"
    database: str = ""
    auth_address: str = "127.0.0.1:7002"
    service_key_file: str = ""
    seed: Seed = Seed()
