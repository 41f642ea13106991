"""Weft's services; docs/request-path.md follows a call through them."""
