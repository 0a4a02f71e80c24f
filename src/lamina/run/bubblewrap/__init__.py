"""A container without an OCI runtime: the runtime spec told to bubblewrap, with the limits, filters and
namespaces that it lacks. Must not know images or the store.
"""
