"""A container without an OCI runtime: the runtime spec as options of bubblewrap, and the limits, filters and
namespaces that it lacks. Must not know images or the store.
"""
