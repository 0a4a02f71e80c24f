"""Access control of the registry: users, tokens, rules, limits and the audit log. ``gate`` puts all of it before the
API. Must not know sockets, HTTP servers or places of images."""
