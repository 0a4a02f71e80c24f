"""A tree as an EROFS image: written, read in place, mounted, checked.
Must not know overlay: what is stacked is decided there.
"""
