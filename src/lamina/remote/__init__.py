"""Registries: pull and push by the OCI distribution-spec, as the protocols of ``lamina.source``. Must not know the
store."""
