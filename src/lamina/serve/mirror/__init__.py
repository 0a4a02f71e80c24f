"""A pull-through cache: repositories of other registries, fetched when a client asks for them, kept on this host, and
served from there. Must not know HTTP requests of clients, nor the store."""
