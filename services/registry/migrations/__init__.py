"""The steps from each schema of the registry's database to the next, run by alembic at start."""
