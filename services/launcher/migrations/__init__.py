"""The history of the launcher's schema."""
