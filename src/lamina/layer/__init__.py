"""One layer as a list of file system changes: read from a tar, written to a tar, compressed, indexed. Works on
streams. Must not know other layers, the union, a store or a network."""
