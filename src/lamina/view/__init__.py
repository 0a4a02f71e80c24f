"""The union as something to use: an fsspec filesystem, an unpacked directory. Thin readers of the
``Tree``: what is where was decided by the merge. Must not know its siblings.
"""
