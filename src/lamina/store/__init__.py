"""The store: this host's images, each layer once. ``store.Store`` offers what the store can do.
Must not know registries, mounts or containers that run.
"""
