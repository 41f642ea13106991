"""Run by alembic, on the connection that `services/registry/schema.py` hands it."""

from alembic import context

from services.registry.schema import VERSION_TABLE
from services.registry.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
