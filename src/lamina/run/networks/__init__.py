"""Networks with names: their records, addresses, and the containers on them. netavark makes bridges, routes and
rules, aardvark-dns resolves names. Must not know how a container is made or ends: `run.container` connects it."""
