"""Run by alembic, on the connection that `services/runtime/database.py` hands it."""

from alembic import context

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"], target_metadata=attributes["metadata"], version_table=attributes["table"]
)
with context.begin_transaction():
    context.run_migrations()
