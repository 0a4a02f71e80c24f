"""Images in files outside the store: OCI layouts, oci-archive and docker-archive tars, `dir:`. Each implements the
protocols of ``lamina.source``. Must not know the store."""
