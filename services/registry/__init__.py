"""The registry: clusters, endpoints and routes, kept in a database, and told to whoever watches."""
