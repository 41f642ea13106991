"""How we speak gRPC: server, client, status, authentication, and the multiplexer."""
