"""Ports of a container that are published on this host: what was asked for, sockets of this host, and the process
that connects them with the container (decision 0038). Must not know containers or a store: `run.container.ports`
calls it."""
