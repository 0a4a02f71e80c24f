"""Containers from images: the OCI runtime spec from an image's config and what the caller asks, a runtime
that runs it, and what can be done with the writable layer afterwards.
"""
