"""One layer as a set of changes: tar in, tar out, codecs, the columnar index, whiteouts.

Streams only: bytes come in and go out through what the caller gives. Must not know other layers, the union, a
store or a network.
"""
