"""The router: authenticates, authorises, plans and dispatches calls to workers and HTTP endpoints."""
