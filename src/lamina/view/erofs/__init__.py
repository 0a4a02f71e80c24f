"""A tree as an EROFS image: written, read in place, mounted, checked. Must not know overlay: the overlay package
decides what is stacked."""
