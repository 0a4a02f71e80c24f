"""The store: the images of this host, with each layer kept once. ``store.Store`` offers everything that it can do.

It must not know registries, mounts or running containers.
"""
