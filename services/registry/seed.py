"""Makes what the configuration declares and the registry lacks."""

from __future__ import annotations

from weft.registry.v1 import resources_pb2

from services.core.names import endpoint_name
from services.registry import edits
from services.registry.config import Seed, SeedEndpoint
from services.registry.store import Store


async def plant(seed: Seed, store: Store) -> None:
    """Makes the clusters and endpoints of the seed that do not exist. Raises ARGUMENT_INVALID if one cannot be."""
    parents = [endpoint_name(endpoint.name, param="registry.seed.endpoints").parent for endpoint in seed.endpoints]
    async with store.write() as writer:
        for name in dict.fromkeys((*seed.clusters, *parents)):
            if await writer.get(name) is None:
                await edits.create(writer, resources_pb2.Cluster(name=name))
        for endpoint in seed.endpoints:
            if await writer.get(endpoint.name) is None:
                await edits.create(writer, _endpoint(endpoint))


def _endpoint(seed: SeedEndpoint) -> resources_pb2.Endpoint:
    endpoint = resources_pb2.Endpoint(
        name=seed.name,
        framework=seed.framework,
        models=[resources_pb2.ModelBinding(model=model) for model in seed.models],
    )
    if seed.url:
        endpoint.http.url = seed.url
        endpoint.http.api_key_file = seed.api_key_file
        endpoint.http.api_key_env = seed.api_key_env
    else:
        endpoint.session.SetInParent()
    return endpoint
