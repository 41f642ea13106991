"""The schema of the usage records, by alembic."""
