"""Checkpoints of a compressed layer, from which inflating can start in the middle, and the file that stores them.
Must not know the store."""
