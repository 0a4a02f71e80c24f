"""The store: images of this host, each layer once. ``store.store.Store`` bundles blobs, refs, layers and
roots; what it can do stands in read, write, delete and list, as in every place that holds images.

Must not know transports, views or the command line.
"""
