"""Places outside the store that hold images as files (floor 6): OCI layouts, oci-archive and docker-archive tars.

Each reads and writes over the protocols of ``lamina.source``. Must not know the store.
"""
