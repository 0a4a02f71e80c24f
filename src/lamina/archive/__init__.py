"""Places outside the store that hold images as files: OCI layouts, oci-archive and docker-archive tars.

Each reads and writes over the protocols of ``lamina.source.protocols``. Must not know the store.
"""
