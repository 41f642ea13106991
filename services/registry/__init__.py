"""The registry: clusters, endpoints, routes and functions, kept in a database, and told to whoever watches."""
