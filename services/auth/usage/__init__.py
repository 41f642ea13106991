"""Usage records, kept."""
